"""Where whole logs of attempts are kept, and how each is named there. Pure: no I/O, no clock."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlsplit

from gpuqueue.model.attempt import Attempt

SETTING = "GPUQUEUE_LOG_SINK"
_FIX = "use /DIRECTORY, file:///DIRECTORY or s3://BUCKET/PREFIX"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
#: Characters of a delivery in the name of its object: file systems allow 255 bytes.
_LONGEST = 180


@dataclass(frozen=True, slots=True)
class SinkAddress:
    """A directory (``bucket`` is empty, ``path`` absolute), or a prefix in a bucket."""

    bucket: str
    path: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.path}" if self.bucket else self.path


def parse_sink(text: str) -> SinkAddress:
    """Parse an address. Raises ValueError, which names the setting, the value and the fix."""
    found = urlsplit(text)
    if found.username is not None or found.password is not None:
        raise ValueError(
            f"{SETTING}={found.scheme + '://***@' + (found.hostname or '')!r} has credentials; set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role"
        )
    if not found.scheme or found.scheme == "file":
        path = unquote(found.path) if found.scheme else text
        if not path.startswith("/") or path.strip("/") == "" or found.netloc or "\0" in path:
            raise ValueError(f"{SETTING}={text!r} is not an absolute directory; {_FIX}")
        return SinkAddress("", path.rstrip("/"))
    if found.scheme != "s3":
        raise ValueError(f"{SETTING}={text!r} has an unknown scheme; {_FIX}")
    prefix = found.path.strip("/")
    if not _BUCKET.fullmatch(found.netloc):
        raise ValueError(
            f"{SETTING}={text!r}: {found.netloc!r} cannot name a bucket; use 3 to 63 lower-case"
            " letters, digits, '-' and '.'"
        )
    if found.query or found.fragment or "//" in prefix or not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"{SETTING}={text!r}: {prefix!r} cannot be a prefix; use letters, digits, '-', '_', '.'"
            " and single '/'"
        )
    return SinkAddress(found.netloc, prefix)


def object_name(attempt: Attempt, at: float) -> str:
    """Return the name of an attempt's log: ``CLASS/DATE/DELIVERY~ATTEMPT``, to which ``.log`` and
    ``.json`` are added. ``at`` in Unix seconds; the date is that of UTC.
    """
    delivery = quote(attempt.delivery, safe="~+:@")
    if len(delivery) > _LONGEST:
        digest = hashlib.sha256(attempt.delivery.encode("utf-8", "surrogatepass")).hexdigest()
        delivery = f"{delivery[: _LONGEST - 17]}-{digest[:16]}"
    date = datetime.fromtimestamp(at, UTC).date().isoformat()
    return f"{attempt.gpu_class}/{date}/{delivery}~{attempt.number}"
