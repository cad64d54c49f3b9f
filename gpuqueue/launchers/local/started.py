"""The attempts that this process has started, until their ends are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record

#: Seconds that a killed stray process has to end.
STRAY_ENDS_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class OneStarted:
    """An attempt; ``instance`` is known once it has started."""

    record: Record
    instance: Future[str] = field(default_factory=Future)

    def is_same(self, other: Record) -> bool:
        """Whether it is the attempt of a record."""
        attempt = Attempt.of(self.record)
        return attempt == Attempt.of(other) and self.record.get("token") == other.get("token")

    def is_stray_of(self, other: Record) -> bool:
        """Whether it is an attempt at the same delivery with another token that was admitted
        earlier: Redis has come back with an older state.
        """
        own = self.record
        return (
            own["delivery"] == other["delivery"]
            and own["gpu_class"] == other["gpu_class"]
            and own["token"] != other["token"]
            and own.get("admitted", 0.0) < other.get("admitted", 0.0)
        )


class Started:
    """Nonce → attempt. Thread-safe.

    Args:
        kill: kills an attempt by its nonce, if it runs. It returns False if the process has gone
            on to another attempt.
    """

    def __init__(self, kill: Callable[[str, Record], bool]) -> None:
        self._kill = kill
        self._lock = threading.Lock()
        self._all: dict[str, OneStarted] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def begin(self, nonce: str, record: Record) -> tuple[OneStarted, bool]:
        """Note an attempt that starts. Returns it, and whether it is new: else a watcher repeats a
        launch that takes long.
        """
        with self._lock:
            known = next((each for each in self._all.values() if each.is_same(record)), None)
            if known is None:
                self._all[nonce] = OneStarted(record)
            return known or self._all[nonce], known is None

    def pop(self, nonce: str) -> OneStarted | None:
        """Forget an attempt, and return it."""
        with self._lock:
            return self._all.pop(nonce, None)

    def end_strays(self, record: Record) -> None:
        """Kill the strays of a job. Raises OSError if one does not end."""
        with self._lock:
            strays = {nonce for nonce, each in self._all.items() if each.is_stray_of(record)}
        deadline = time.monotonic() + STRAY_ENDS_WITHIN
        while strays & set(self._all):
            for nonce in strays:
                stray = self._all.get(nonce)
                if stray is not None and not self._kill(nonce, stray.record):
                    self.pop(nonce)
            if time.monotonic() >= deadline:
                raise OSError(f"a process of an attempt with another token runs: {min(strays)}")
            time.sleep(0.02)
