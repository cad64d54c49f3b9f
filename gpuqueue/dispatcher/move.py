"""Move a job that has run out of GPU memory to its larger class: it is accepted there, from the
message that its own class keeps.

Never here: its end in the class that it leaves. The finisher writes that once the job has moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuqueue.classes.choose import problem_of
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.glue.messages.message import encode
from gpuqueue.glue.messages.parse import identify, parse
from gpuqueue.model.escalation import MemoryPlace, parse_place, place_of
from gpuqueue.model.names import delivery_name
from gpuqueue.model.record import Record


@dataclass(frozen=True)
class Move:
    """Moves jobs. Thread-safe; to move a job twice makes one job."""

    accept: Accept

    def __call__(self, record: Record, packed: dict[str, Any] | None) -> str:
        """Accept a job in the larger class that its record names; ``packed`` is its message.
        Returns why that is impossible; empty: it is there.

        Raises InvalidJob if its message can no longer be accepted, and RedisError.
        """
        place = parse_place(record.get("larger"))
        if place is None or packed is None:
            return "its message is lost"
        if self._has_moved(record, place):
            return ""
        gpu_class = self.accept.classes.get(place.gpu_class)
        if gpu_class is None:
            return f"its larger class {place.gpu_class!r} is not configured"
        submission = parse(packed, identify(packed), self.accept.bodies)
        # Its settings may have changed since the job was accepted.
        asked = (submission.request, submission.time_limit)
        in_pods = not self.accept.line.site.host
        if problem := problem_of(gpu_class, place.isolation, *asked, in_pods=in_pods):
            return f"its larger class cannot run it any more: {problem}"
        job = submission.job(gpu_class, place.isolation)
        accepted = self.accept.take_in(
            packed, encode(packed), submission, job, gpu_class, lambda name: None, _counted(record)
        )
        there = accepted.outcome not in ("known", "ending") or self._has_moved(record, place)
        return "" if there else f"another job with its id is in class {place.gpu_class!r}"

    def _has_moved(self, record: Record, place: MemoryPlace) -> bool:
        counts = (record["id"], record.get("retries", 0), record.get("nesting", 0))
        tag, here = record.get("tag", ""), place_of(record).text()
        names = {delivery_name(*counts), delivery_name(*counts, tag)}
        return any(
            known.get("escalated") == here and known.get("tag", "") == tag
            for known in self.accept.reader.records(place.gpu_class, names)
        )


def _counted(record: Record) -> Mapping[str, Any]:
    """Return what the record of a job that moves begins with. Its attempts are counted on, since
    the names of their Jobs have the number; none of them is one of those that it may have there.
    """
    number = record.get("attempt", 1)
    counted = {"attempt": number, "spared": number, "escalated": place_of(record).text()}
    return {**counted, "error": record.get("error", "")}
