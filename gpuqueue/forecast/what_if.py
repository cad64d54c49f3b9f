"""What if a class had other slots, or a job another priority? Changes of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpuqueue.errors import GpuQueueError, shown
from gpuqueue.forecast.snapshot import Snapshot
from gpuqueue.model.names import ISOLATIONS

#: Field → its largest value, and what it is.
FIELDS = {
    "slots": (10_000, "slots of the isolation of the job, of each domain"),
    "shared_slots": (10_000, "shared slots of each domain"),
    "exclusive_slots": (10_000, "exclusive slots of each domain"),
    "priority": (9, "priority of the job; 0 comes first"),
}


class WrongChange(GpuQueueError, ValueError):
    """A change is not possible: field, value, problem and fix."""


def parse(texts: Sequence[str]) -> dict[str, int]:
    """Parse changes, each as ``field=number``. Raises :class:`WrongChange`."""
    found: dict[str, int] = {}
    for text in texts:
        field, sign, value = text.partition("=")
        if field not in FIELDS or not sign:
            known = ", ".join(f"{each}=NUMBER" for each in FIELDS)
            raise WrongChange(f"--if {shown(text, 80)} names no field; use {known}")
        most = FIELDS[field][0]
        if not value.isascii() or not value.isdecimal() or len(value) > 9 or int(value) > most:
            raise WrongChange(
                f"--if {field}={shown(value, 80)} is not a whole number from 0 to {most}; use one:"
                f" {FIELDS[field][1]}"
            )
        if field in found:
            raise WrongChange(f"--if {field}={value} is its second value; name it once")
        found[field] = int(value)
    if "slots" in found and {"shared_slots", "exclusive_slots"} & found.keys():
        raise WrongChange(
            f"--if slots={found['slots']} contradicts shared_slots or exclusive_slots;"
            " leave one out"
        )
    return found


def changed(snapshot: Snapshot, changes: Mapping[str, int]) -> Snapshot:
    """Return a snapshot as it would be with other slots, or another priority of the job that was
    asked about. What holds a slot keeps it.
    """
    job, rules = snapshot.asked, snapshot.rules
    wanted = {each: changes.get(f"{each}_slots") for each in ISOLATIONS}
    if job and "slots" in changes:
        wanted[job.isolation] = changes["slots"]

    def slots(*own: int) -> tuple[int, ...]:
        pairs = zip(own, wanted.values(), strict=True)
        return tuple(old if new is None else new for old, new in pairs)

    shared, exclusive = slots(rules.shared_slots, rules.exclusive_slots)
    new = replace(rules, shared_slots=shared, exclusive_slots=exclusive)
    snapshot = replace(snapshot, rules=new)
    if snapshot.domains:
        made = {name: slots(*own) for name, own in snapshot.domains.slots.items()}
        snapshot = replace(snapshot, domains=replace(snapshot.domains, slots=made, largest=0))
    if job and "priority" in changes:
        snapshot = _moved(snapshot, changes["priority"])
    return snapshot


def _moved(snapshot: Snapshot, priority: int) -> Snapshot:
    """Give the job another priority. In a line that was not read to its end, its place may be among
    the others.
    """
    job = snapshot.asked
    assert job
    new = replace(job, priority=priority)
    delayed = [(due, new if each == job else each) for due, each in snapshot.delayed]
    snapshot = replace(snapshot, asked=new, delayed=delayed)
    waiting = [each for each in snapshot.waiting if each != job]
    was_read = len(waiting) < len(snapshot.waiting)
    line = [each for each in waiting if each.isolation == job.isolation]
    cut = snapshot.more.get(job.isolation, 0)
    ahead = not cut or (bool(line) and new.place < max(each.place for each in line))
    if (not was_read and not cut) or not ahead:
        return snapshot
    more = dict(snapshot.more)
    if not was_read:
        more[job.isolation] = cut - 1
    return replace(snapshot, waiting=[*waiting, new], more=more)
