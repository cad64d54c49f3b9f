"""What can go wrong with the Kubernetes API: one family, each error saying whether trying again may
help.

The texts are one line: what was asked, and the server's own words.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

import msgspec

from gpuqueue.errors import GpuQueueError
from gpuqueue.launchers.kubernetes.api.answers import StatusBody

#: No server is obeyed beyond this, in seconds: a wrong date in a Retry-After must not stop the
#: queue.
MAX_RETRY_AFTER = 60.0
#: Characters shown of an answer that is no Status object.
_SHOWN = 300
#: Refusals of a request as such, among 4xx: the same request is refused again. Those that are not
#: here pass.
_PASSING = frozenset({401, 408, 409, 410, 429})


class ApiError(GpuQueueError):
    """The API refused a request, or did not answer.

    Attributes:
        asked: the verb and the resource.
        status: the HTTP status; 0 when there was no answer.
        reason: the API's word for it (``Forbidden``, ``AlreadyExists``…), or "".
        message: the server's own words.
        retry_after: seconds that the server asks to wait, MAX_RETRY_AFTER at most; None when it
            does not say.
    """

    def __init__(
        self,
        text: str,
        *,
        asked: str = "",
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        what = " ".join(word for word in (str(status or ""), reason) if word)
        super().__init__(": ".join(part for part in (asked, what, " ".join(text.split())) if part))
        self.asked = asked
        self.status = status
        self.reason = reason
        self.message = " ".join(text.split())
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later: no answer, an overload, a conflict, a token
        that is being renewed.
        """
        return self.status in _PASSING or not 400 <= self.status < 500


class Unreachable(ApiError):
    """No answer, or none that a Kubernetes API gives. The request may have been carried out all the
    same.
    """


class Forbidden(ApiError):
    """RBAC, Pod Security or an admission plugin refuses it."""

    @property
    def passing(self) -> bool:
        """An API server that has just started does not know all roles yet, and says so after
        ``RBAC:``.
        """
        return "RBAC: " in self.message


class QuotaExceeded(ApiError):
    """A ResourceQuota of the namespace does not admit it at present: it passes when others end."""

    passing = True


class NotFound(ApiError):
    """The object, or its namespace, does not exist."""


class AlreadyExists(ApiError):
    """An object of that name exists."""

    passing = False


class Invalid(ApiError):
    """The API cannot take such an object: its words name the field."""


class Expired(ApiError):
    """The version or the page that was asked for is no longer kept: list again."""


class StreamSilent(ApiError):
    """A watch has said nothing for too long, not even a bookmark: whatever is between has forgotten
    it.
    """


class _Refusal(StatusBody, frozen=True):
    kind: str = ""


_refusal = msgspec.json.Decoder(_Refusal)
_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    410: Expired,
    413: Invalid,
    422: Invalid,
}


def refusal(asked: str, http_status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Read an answer that is no success. ``headers`` are looked up in any case of letters by
    urllib3.
    """
    retry_after = _retry_after(headers)
    try:
        status = _refusal.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        status = _Refusal()
    if status.kind == "Status":
        return from_status(asked, status, http_status, retry_after)
    text = body[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN].strip() or "no words with it"
    if http_status in (404, 410):
        # Nobody but the API may say that a Job is gone: a load balancer knows nothing of it.
        return Unreachable(
            f"{http_status}, and not as a Kubernetes API says it: {text}",
            asked=asked,
            retry_after=retry_after,
        )
    kind = _BY_STATUS.get(http_status, ApiError)
    return kind(text, asked=asked, status=http_status, retry_after=retry_after)


def from_status(
    asked: str, status: StatusBody, http_status: int = 0, retry_after: float | None = None
) -> ApiError:
    """Read a Status object, as the body of an answer or as an ERROR event of a watch."""
    code, text = status.code or http_status, status.message or "no words with it"
    kind = _BY_STATUS.get(code, ApiError)
    if status.reason == "AlreadyExists":
        kind = AlreadyExists
    elif kind is Forbidden and "exceeded quota" in text:
        kind = QuotaExceeded
    if retry_after is None and status.details and status.details.retry_after_seconds:
        retry_after = min(float(status.details.retry_after_seconds), MAX_RETRY_AFTER)
    return kind(text, asked=asked, status=code, reason=status.reason or "", retry_after=retry_after)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _unix(value)
        if until is None:
            return None
        # By the server's clock, where it tells: ours may differ.
        now = _unix(headers.get("Date", ""))
        seconds = until - (time.time() if now is None else now)
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None


def _unix(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
