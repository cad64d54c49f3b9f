"""A watch on objects of one kind: the lines of one stream, decoded as events."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import StatusBody, Watched, read_line
from gpuqueue.launchers.kubernetes.api.errors import Unreachable, from_status
from gpuqueue.launchers.kubernetes.api.transport import Stream

T = TypeVar("T")


class Watch(Generic[T]):
    """Iterate over it once. Any thread can close it, which ends the iteration."""

    def __init__(
        self, request: str, stream: Stream, events: msgspec.json.Decoder[Watched[T]]
    ) -> None:
        self._request = request
        self._stream = stream
        self._events = events

    def __iter__(self) -> Iterator[Watched[T]]:
        """Yield events. Raises the ApiError that the server reports, mostly Expired."""
        for line in _lines(self._stream):
            try:
                event = read_line(line, self._events)
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                raise Unreachable(
                    f"the stream contains data that no Kubernetes API sends: {exc}",
                    request=self._request,
                ) from exc
            if isinstance(event, StatusBody):
                raise from_status(self._request, event)
            yield event

    def close(self) -> None:
        """End the watch now, even while another thread blocks in a read."""
        self._stream.close()

    def __enter__(self) -> Watch[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.__exit__(kind, exc, trace)


def _lines(stream: Stream) -> Iterator[bytes]:
    """Split a stream into lines. Its parts can end anywhere; an unfinished last line is dropped."""
    begun: list[bytes] = []
    for part in stream:
        first, *others = part.split(b"\n")
        begun.append(first)
        for line in others:
            if whole := b"".join(begun).strip():
                yield whole
            begun = [line]
