"""What the Job controller remembers of a Job beside its objects: times and failures."""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.engine import delays


@dataclass(slots=True)
class History:
    """The start and the failures of one Job. Times are Unix seconds.

    ``deadline_set``: a sync at the Job's deadline is in the work queue.
    """

    began: float | None = None
    deadline_set: bool = False
    refusals: int = 0
    refused_until: float = 0.0
    failures: int = 0
    last_failure: float = 0.0

    def begin(self) -> float:
        """Return the time of the start, now for a Job that starts."""
        if self.began is None:
            self.began = clock.now()
        return self.began

    def suspend(self) -> None:
        """Forget the start."""
        self.began, self.deadline_set = None, False

    def add_failures(self, count: int) -> None:
        """Note that pods have failed."""
        self.failures += count
        self.last_failure = clock.now()

    def add_refusal(self, pace: float) -> float:
        """Note that the API server has refused a pod; returns the back-off in real seconds."""
        wait: float = delays.REFUSED_BACK_OFF * 2**self.refusals
        wait = min(wait, delays.REFUSED_BACK_OFF_LIMIT) * pace
        self.refusals += 1
        self.refused_until = clock.now() + wait
        return wait

    def back_off(self, pace: float) -> float:
        """Return the real seconds until the next pod may start; 0 or less if it may start now."""
        after = self.refused_until
        if self.failures:
            wait: float = delays.POD_BACK_OFF * 2 ** (self.failures - 1)
            after = max(after, self.last_failure + min(wait, delays.POD_BACK_OFF_LIMIT) * pace)
        return after - clock.now()
