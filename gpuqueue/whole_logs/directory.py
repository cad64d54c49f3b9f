"""A directory as a sink."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpuqueue.model.log_sink import SETTING, SinkAddress
from gpuqueue.whole_logs.sink import NotInSink, SinkError

_CHUNK = 1 << 20


class Directory:
    """A directory. See :class:`gpuqueue.whole_logs.sink.Sink`."""

    def __init__(self, address: SinkAddress) -> None:
        self._base = Path(address.path)

    def write(self, name: str, parts: Iterable[bytes]) -> int:
        """Write a file at once or not at all."""
        path, written = self._base / name, 0
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            raise self._error(exc) from exc
        try:
            with os.fdopen(opened, "wb") as file:
                for part in parts:
                    try:
                        written += file.write(part)
                    except OSError as exc:
                        raise self._error(exc) from exc
            new.replace(path)
        except OSError as exc:
            raise self._error(exc) from exc
        finally:
            new.unlink(missing_ok=True)
        return written

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the parts of a file."""
        try:
            with (self._base / name).open("rb") as file:
                while part := file.read(_CHUNK):
                    yield part
        except FileNotFoundError as exc:
            raise NotInSink(f"{self._base / name} does not exist") from exc
        except OSError as exc:
            raise self._error(exc) from exc

    def remove(self, name: str) -> None:
        """Remove a file."""
        try:
            (self._base / name).unlink(missing_ok=True)
        except OSError as exc:
            raise self._error(exc) from exc

    def _error(self, exc: OSError) -> SinkError:
        return SinkError(
            f"{SETTING}={str(self._base)!r}: {exc}; let the user of dispatchers write there"
        )
