"""The verb cancel: one job or many, in one class or in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from gpuqueue.model.signals import parse_signal
from gpuqueue.store.answers import Cancelled
from gpuqueue.store.upkeep import Upkeep

#: How many older deliveries of a task one call of cancel looks at.
CANCEL_BATCH = 64
#: Calls of cancel in one round trip.
CANCELS_AT_ONCE = 256
#: Seconds for which the revocation of an unknown task is remembered (Celery's workers: 3 hours).
REVOKED_FOR = 3 * 3600.0


class Cancels(Upkeep):
    """Cancels jobs."""

    def cancel(
        self, gpu_class: str, job_id: str, *, terminate: bool = True, signal: str = "TERM"
    ) -> str:
        """Cancel a job with all its deliveries. See cancel.lua for the answers.

        Raises :class:`InvalidSignal`.
        """
        (answer,) = self.cancel_each([(gpu_class, job_id)], terminate=terminate, signal=signal)
        if isinstance(answer, Exception):
            raise answer
        return answer.outcome

    def cancel_each(
        self, jobs: Sequence[tuple[str, str]], *, terminate: bool = True, signal: str = "TERM"
    ) -> list[Cancelled | Exception]:
        """Cancel several jobs (class, id) in few round trips. One that fails has its error in place
        of its answer.

        Raises :class:`InvalidSignal`.
        """
        context = {
            "terminate": terminate,
            "signal": parse_signal(signal),
            "forget_after": REVOKED_FOR,
            "most": CANCEL_BATCH,
        }
        answers: dict[int, Cancelled | Exception] = {}
        left: dict[int, str | None] = dict.fromkeys(range(len(jobs)))
        while left:
            some = dict(islice(left.items(), CANCELS_AT_ONCE))
            calls = [
                (jobs[index][0], {**context, "id": jobs[index][1], "after": after})
                for index, after in some.items()
            ]
            for index, answer in zip(some, self._scripts.each("cancel", calls), strict=True):
                del left[index]
                if isinstance(answer, Exception):
                    answers[index] = answer
                    continue
                outcome, stopped, delivery = answer
                answers.setdefault(index, Cancelled(outcome, delivery))
                if stopped:
                    left[index] = stopped
        return [answers[index] for index in range(len(jobs))]

    def cancel_everywhere(self, classes: Iterable[str], job_id: str) -> str:
        """Cancel a job in every class: only the store knows its class, and a retry may arrive in
        another. Returns the answer of the class that has it; see cancel.lua.
        """
        answers = [self.cancel(name, job_id) for name in classes]
        return next((answer for answer in answers if answer != "unknown"), "unknown")
