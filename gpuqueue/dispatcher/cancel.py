"""Cancel jobs in any state: record it in Redis first, which survives a crash; then notify the
process that must act.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.glue.messages.parse import stamps_of
from gpuqueue.store import revocations, wakeups
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader


@dataclass
class Canceller:
    """Carries out revokes. Thread-safe."""

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    finisher: Finisher

    def cancel(self, job_id: str, *, terminate: bool, signal: str) -> str:
        """Cancel a job in any state; remember the id of an unknown one. cancel.lua lists the
        answers.
        """
        outcome, answers = self.line.cancel_everywhere(
            self.classes, job_id, terminate=terminate, signal=signal
        )
        for name, answer in answers.items():
            if answer == "cancelled":
                record = self.reader.find(job_id, [name])
                if record:
                    self.finisher.submit(name, record["delivery"])
            if answer == "stopping":
                wakeups.wake(self.client, name)
        return outcome

    def cancel_by_stamps(
        self, stamps: dict[str, list[str]], *, terminate: bool, signal: str
    ) -> list[str]:
        """Cancel the jobs that carry any of these stamps, now or when they arrive."""
        revocations.revoke_stamps(self.client, stamps, self.line.clock())
        found = []
        for name in self.classes:
            for record in list(self.reader.all_records(name)):
                packed = (
                    self.reader.message(name, record["delivery"])
                    if record["state"] != "ended"
                    else None
                )
                carried = stamps_of(packed["headers"]) if packed else {}
                if any(
                    set(values) & set(carried.get(header, ())) for header, values in stamps.items()
                ):
                    self.cancel(record["id"], terminate=terminate, signal=signal)
                    found.append(record["id"])
        return found
