"""The waiting jobs of a class: those that are next first, each with its reason."""

from __future__ import annotations

from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.view.state import State, job
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.reasons import WaitReason
from gpuqueue.model.record import Record
from gpuqueue.store import next_jobs
from gpuqueue.store.reader import ClassView


def waiting(
    state: State, gpu_class: GpuClass, view: ClassView, most: int, served: bool
) -> list[dict[str, Any]]:
    """Return up to ``most`` jobs of each isolation. In a class with tenants, they are in the order
    of their turns; ``place`` is that by priority and arrival.
    """
    known = next_jobs.read(state.client, gpu_class.name, most)
    found = []
    for kind in ISOLATIONS:
        places = {each["delivery"]: at for at, each in enumerate(view.waiting[kind], 1)}
        line, held_back = view.waiting[kind], set[str]()
        if known.by_tenants and line:
            tenants = (each.get("tenant", "") for each in line)
            held_back = next_jobs.limited(state.client, gpu_class.name, kind, tenants)
            line = _by_turn(state, gpu_class.name, kind, known.first[kind], line, places)
            # Of those whose turn is not known, those at a limit come last.
            line = sorted(line, key=lambda each: each.get("tenant", "") in held_back)[:most]
        # All jobs whose tenants are at no limit share the reason: one question is enough.
        free = [each for each in line if each.get("tenant", "") not in held_back]
        first = state.reader.why(gpu_class, free[0]["delivery"], 0) if free and served else None
        for each in line:
            reason = first.reason if first and first.place else None
            if each.get("tenant", "") in held_back:
                reason = WaitReason.TENANT_LIMIT
            if not served:
                reason = WaitReason.NO_DISPATCHER
            seen = {
                "place": places[each["delivery"]],
                "reason": reason,
                "since": each.get("created"),
            }
            found.append({**job(each), **seen})
    return found


def _by_turn(
    state: State,
    name: str,
    isolation: str,
    first: list[str],
    line: list[Record],
    places: dict[str, int],
) -> list[Record]:
    """Put the jobs first that are next. Adds the places of those that come from further behind."""
    records = {each["delivery"]: each for each in line}
    behind = [each for each in first if each not in records]
    places |= state.reader.places(name, isolation, behind)
    for each in state.reader.records(name, behind):
        if each["delivery"] in places:  # else it has started meanwhile
            records[each["delivery"]] = each
    order = dict.fromkeys([*(each for each in first if each in records), *records])
    return [records[each] for each in order]
