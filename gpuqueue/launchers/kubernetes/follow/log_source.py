"""The whole log of a pod, as a source for the sink; in memory where the pod may go first.

Never here: when a log is written, and where.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Iterator, Mapping

from gpuqueue.launchers.base import LogGone, LogSource, NoLog
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Invalid, NotFound
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.model.warm_pod import GOES_ON

logger = logging.getLogger(__name__)
#: Compressed bytes that are held of all logs in memory, and of one.
MOST_HELD, MOST_OF_ONE = 1 << 26, 1 << 24


class HeldLogs:
    """Logs of pods that are about to be deleted. Thread-safe."""

    def __init__(self, api: Requests) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._held = 0

    def read(self, pod: str) -> HeldLog | None:
        """Read the log of a pod into memory; None if it cannot be read, or is too much."""
        compress, held = zlib.compressobj(1), bytearray()
        try:
            for part in self._api.whole_log(pod):
                held += compress.compress(part)
                if self._is_too_much(pod, held):
                    return None
        except ApiError as exc:
            logger.info("no log of pod %s: %s", pod, exc, extra={"action": "no_log"})
            return None
        held += compress.flush()
        if self._is_too_much(pod, held):
            return None
        return HeldLog(self, bytes(held))

    def _is_too_much(self, pod: str, held: bytearray) -> bool:
        if len(held) <= MOST_OF_ONE and self._held + len(held) <= MOST_HELD:
            return False
        logger.warning(
            "the log of pod %s is too long to be held: it is read again later",
            pod,
            extra={"action": "log_not_held"},
        )
        return True

    def count(self, change: int) -> None:
        """Count held bytes."""
        with self._lock:
            self._held += change


class HeldLog:
    """A log in memory, until nothing refers to it."""

    def __init__(self, owner: HeldLogs, data: bytes) -> None:
        self._owner = owner
        self._data = data
        owner.count(len(data))

    def __del__(self) -> None:
        self._owner.count(-len(self._data))

    def parts(self) -> Iterator[bytes]:
        """Yield its parts."""
        decompress, data = zlib.decompressobj(), self._data
        while data:
            yield decompress.decompress(data, 1 << 20)
            data = decompress.unconsumed_tail
        yield decompress.flush()


class PodLog:
    """The log of one attempt in a pod. See :class:`gpuqueue.launchers.base.LogSource`.

    Args:
        holder: of an attempt that the pod has gone on with; empty: its first.
        held: what was read of it before the pod was deleted.
    """

    def __init__(
        self,
        api: Requests,
        pod: str,
        owner: str,
        holder: str = "",
        held: HeldLog | None = None,
    ) -> None:
        self._api = api
        self._pod = pod
        self._owner = owner
        self._holder = holder
        self._held = held

    @property
    def where(self) -> Mapping[str, str]:
        """Its pod."""
        return {
            "pod": self._pod,
            "namespace": self._api.namespace,
            "owner": self._owner,
            "holder": self._holder,
        }

    def read(self) -> Iterator[bytes]:
        """Yield its parts."""
        return of_turn(self._whole(), self._holder)

    def _whole(self) -> Iterator[bytes]:
        begun = False
        try:
            for part in self._api.whole_log(self._pod):
                begun = True
                yield part
        except (NotFound, Invalid) as exc:
            if self._held is not None and not begun:
                yield from self._held.parts()
            elif isinstance(exc, NotFound):
                raise LogGone(f"pod {self._pod} is gone") from exc
            else:
                raise NoLog(f"pod {self._pod} never wrote one") from exc


def find(api: Requests, owner: str, where: Mapping[str, str]) -> LogSource | None:
    """Return the source that :attr:`PodLog.where` names, if it is of this cluster."""
    if not where.get("pod") or where.get("owner") != owner:
        return None
    return PodLog(api.within(where["namespace"]), where["pod"], owner, where.get("holder", ""))


def of_turn(parts: Iterator[bytes], holder: str) -> Iterator[bytes]:
    """Yield the part of a pod's log that one of its attempts has written: from the line that names
    its holder, or from the beginning, up to the next such line.
    """
    goes_on, begins = GOES_ON.encode(), f"{GOES_ON} {holder}".encode()
    inside, rest = not holder, b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        kept: list[bytes] = []
        for line in lines:
            if goes_on in line:
                if inside:
                    yield from kept
                    return
                _, found, after = line.partition(begins)
                inside = bool(found) and not after[:1].isdigit()  # #1 is not #12
            elif inside:
                kept.append(line + b"\n")
        if kept:
            yield b"".join(kept)
        if len(rest) > 1 << 20 and inside and goes_on not in rest:  # a line without an end
            yield rest
            rest = b""
    if rest and inside and goes_on not in rest:
        yield rest
