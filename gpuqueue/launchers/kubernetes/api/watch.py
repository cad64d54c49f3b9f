"""A watch on pods: the lines of one stream, read as events."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import POD_EVENTS, PodEvent, StatusBody, read_line
from gpuqueue.launchers.kubernetes.api.errors import Unreachable, from_status
from gpuqueue.launchers.kubernetes.api.transport import Stream


class Watch:
    """Iterate over it once. It may be closed from any thread; that ends the iteration."""

    def __init__(self, asked: str, stream: Stream) -> None:
        self._asked = asked
        self._stream = stream

    def __iter__(self) -> Iterator[PodEvent]:
        """Yield what the server tells. Raises the ApiError that it reports (Expired, most often)."""
        for line in _lines(self._stream):
            try:
                event = read_line(line, POD_EVENTS)
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                raise Unreachable(
                    f"the stream holds what no Kubernetes API sends: {exc}", asked=self._asked
                ) from exc
            if isinstance(event, StatusBody):
                raise from_status(self._asked, event)
            yield event

    def close(self) -> None:
        """End it now, though another thread be blocked in a read."""
        self._stream.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.__exit__(kind, exc, trace)


def _lines(stream: Stream) -> Iterator[bytes]:
    """Cut a stream at its line ends: its parts end anywhere. What has no end is half a line, and
    not told.
    """
    begun: list[bytes] = []
    for part in stream:
        first, *others = part.split(b"\n")
        begun.append(first)
        for line in others:
            if whole := b"".join(begun).strip():
                yield whole
            begun = [line]
