"""The timers of one kubelet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tests.doubles.kubernetes.engine.loop import KUBELET, Engine, Timer

T = TypeVar("T")


class KubeletTimers:
    """Runs the calls of a kubelet in the engine's thread. They wait while the kubelet is dead."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopped = False
        self._missed: list[Callable[[], None]] = []

    @property
    def pace(self) -> float:
        """The factor for delays of a real cluster."""
        return self._engine.pace

    def stop(self) -> None:
        """Hold all calls from now on."""
        self._stopped = True

    def resume(self) -> None:
        """Run the calls that were due meanwhile."""
        self._stopped = False
        missed, self._missed = self._missed, []
        for call in missed:
            call()

    def soon(self, call: Callable[[], None]) -> None:
        """Run a call in the engine's thread."""
        self.later_exactly(0, call)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Run a call after a delay of a real cluster."""
        return self.later_exactly(seconds * self._engine.pace, call)

    def later_stated(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Run a call after a delay that the manifest states."""
        return self.later_exactly(seconds * self._engine.manifest_pace, call)

    def later_exactly(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Run a call after real seconds."""

        def run() -> None:
            if self._stopped:
                self._missed.append(call)
            else:
                call()

        return self._engine.after_exactly(KUBELET, seconds, run)

    def outside(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do slow work in another thread, then pass its result to ``then``."""
        self._engine.outside(KUBELET, work, then)
