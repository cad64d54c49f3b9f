"""An S3-compatible bucket as a sink. The only importer of boto3.

Credentials, region and endpoint come from the environment as boto3 reads it: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, or the role of a service account; AWS_ENDPOINT_URL_S3; AWS_CA_BUNDLE.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gpuqueue.errors import SettingsError
from gpuqueue.model.log_sink import SETTING, SinkAddress
from gpuqueue.whole_logs.sink import NotInSink, SinkError

_CHUNK = 1 << 20
#: Seconds to connect, and between two parts of an answer.
_CONNECT, _READ = 5, 30
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
#: What a missing object answers.
_MISSING = ("NoSuchKey", "404", "NotFound")


class Bucket:
    """A prefix in a bucket. See :class:`gpuqueue.whole_logs.sink.Sink`."""

    def __init__(self, address: SinkAddress) -> None:
        self._address = address
        # A server of an own address seldom has a name for each bucket, and older ones know no
        # checksums but MD5.
        style = "path" if any(os.environ.get(name) for name in _ENDPOINTS) else "auto"
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            retries={"mode": "standard", "max_attempts": 2},
            s3={"addressing_style": style},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client: Any = boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as exc:
            raise SettingsError(
                f"{SETTING}={str(address)!r}: {exc}; correct the AWS_* variables"
            ) from exc
        # One request at a time, 8 MiB of memory: this is beside the path of jobs.
        self._transfer = TransferConfig(use_threads=False)

    def write(self, name: str, parts: Iterable[bytes]) -> int:
        """Upload an object, in parts if it is large."""
        stream = _Stream(parts)
        try:
            self._client.upload_fileobj(
                stream, self._address.bucket, self._key(name), Config=self._transfer
            )
        except (BotoCoreError, ClientError, Boto3Error) as exc:
            raise self._error(exc) from exc
        return stream.count

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the parts of an object."""
        try:
            found = self._client.get_object(Bucket=self._address.bucket, Key=self._key(name))
            yield from found["Body"].iter_chunks(_CHUNK)
        except ClientError as exc:
            if exc.response.get("Error", {}).get("Code") in _MISSING:
                raise NotInSink(f"{self._address}/{name} does not exist") from exc
            raise self._error(exc) from exc
        except BotoCoreError as exc:
            raise self._error(exc) from exc

    def remove(self, name: str) -> None:
        """Remove an object."""
        try:
            self._client.delete_object(Bucket=self._address.bucket, Key=self._key(name))
        except (BotoCoreError, ClientError) as exc:
            raise self._error(exc) from exc

    def _key(self, name: str) -> str:
        return f"{self._address.path}/{name}" if self._address.path else name

    def _error(self, exc: Exception) -> SinkError:
        return SinkError(
            f"{SETTING}={str(self._address)!r}: {exc}; check the bucket, AWS_ENDPOINT_URL_S3, and"
            " the rights s3:PutObject, s3:GetObject and s3:AbortMultipartUpload"
        )


class _Stream(io.RawIOBase):
    """Parts as a file that is read once."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._rest = b""
        self.count = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end."""
        found, length = [self._rest], len(self._rest)
        whole = size is None or size < 0
        while whole or length < (size or 0):
            if (part := next(self._parts, None)) is None:
                break
            found.append(part)
            length += len(part)
        data = b"".join(found)
        cut = len(data) if size is None or size < 0 else size
        self._rest = data[cut:]
        self.count += min(cut, len(data))
        return data[:cut]
