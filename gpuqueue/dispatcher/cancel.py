"""Cancel jobs wherever they are: durable in Redis first, so that it outlives everything; then
whoever must act is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.store import revocations, wakeups
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader


@dataclass
class Canceller:
    """What a dispatcher does when it is told of a revoke; safe to call from any thread."""

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    finisher: Finisher

    def cancel(self, job_id: str, *, terminate: bool, signal: str) -> str:
        """Cancel a job wherever it is; one that is not here yet is remembered. See cancel.lua for
        the answers.
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
        """Cancel the jobs that carry any of these stamps; later ones are cancelled when they come."""
        revocations.revoke_stamps(self.client, stamps, self.line.clock())
        found = []
        for name in self.classes:
            for record in list(self.reader.all_records(name)):
                packed = (
                    self.reader.message(name, record["delivery"])
                    if record["state"] != "ended"
                    else None
                )
                carried = stamps_of(packed) if packed else {}
                if any(
                    set(values) & set(carried.get(header, ())) for header, values in stamps.items()
                ):
                    self.cancel(record["id"], terminate=terminate, signal=signal)
                    found.append(record["id"])
        return found


def stamps_of(packed: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the stamps of a message: header → values."""
    headers = packed["headers"]
    stamps = headers.get("stamps") or {}
    wanted = {name: stamps.get(name) for name in headers.get("stamped_headers") or []}
    return {
        name: [str(each) for each in (value if isinstance(value, list) else [value])]
        for name, value in wanted.items()
        if value is not None
    }
