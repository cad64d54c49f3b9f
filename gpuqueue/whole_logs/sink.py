"""The contract of every sink, and how one is opened."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import Protocol

from gpuqueue.errors import GpuQueueError, SettingsError
from gpuqueue.model.log_sink import SETTING, SinkAddress


class SinkError(GpuQueueError):
    """A sink cannot be reached, or refuses a request."""


class NotInSink(SinkError):
    """A sink has no such object."""


class Sink(Protocol):
    """Where objects are kept by name. Thread-safe. Every method may raise :class:`SinkError`."""

    def write(self, name: str, parts: Iterable[bytes]) -> int:
        """Write an object, or replace it; return its length in bytes. If ``parts`` raises, no
        object is left, and the error is raised.
        """
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the parts of an object. Raises :class:`NotInSink`."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object of a check. Logs are never removed."""
        ...


def open_sink(address: SinkAddress) -> Sink:
    """Return the sink of an address, without a request. Raises :class:`SettingsError` if the
    library for buckets is missing, or lacks what it needs.
    """
    if not address.bucket:
        from gpuqueue.whole_logs.directory import Directory

        return Directory(address)
    try:
        from gpuqueue.whole_logs.bucket import Bucket
    except ImportError as exc:
        raise SettingsError(
            f"{SETTING}={str(address)!r} needs {exc.name}; install gpuqueue[s3]"
        ) from exc
    return Bucket(address)


def check(sink: Sink) -> None:
    """Write, read and remove an object. Raises :class:`SinkError`."""
    name, text = f"gpuqueue-check-{secrets.token_hex(8)}", b"gpuqueue doctor\n"
    sink.write(name, [text])
    try:
        if b"".join(sink.read(name)) != text:
            raise SinkError(f"{SETTING}: what was written is not what is read; check the server")
    finally:
        sink.remove(name)
