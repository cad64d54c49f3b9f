"""The twin: which job starts next, as lua/lib/gate.lua decides it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Any

from gpuqueue.forecast.domains import MOST, Placement
from gpuqueue.forecast.lines import ByArrival, Line
from gpuqueue.forecast.snapshot import Held, Snapshot, Waiting
from gpuqueue.forecast.tenant_line import ByTenants
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED

#: How many jobs behind one of several GPUs a decision looks at.
BEHIND = 8


@dataclass(slots=True)
class _Look:
    """Everything that a decision depends on."""

    first: dict[str, Waiting | None]
    domain: dict[str, str | None]
    needs: int = 1
    """How many slots the first exclusive job needs."""
    backfills: bool = False
    passing: tuple[Waiting, str, Any] | None = None
    """The job that starts before the first exclusive one, which must wait; its domain, and the
    front of its tenant.
    """


class Twin:
    """One class, and who holds its slots."""

    def __init__(self, snapshot: Snapshot) -> None:
        rules, tenants = snapshot.rules, snapshot.tenants
        self.rules = rules
        self.line: Line = (
            ByArrival(snapshot.waiting, snapshot.more)
            if tenants is None
            else ByTenants(
                tenants, rules.share, snapshot.waiting, snapshot.more, snapshot.held, snapshot.now
            )
        )
        self.held = {each.holder: each for each in snapshot.held}
        self._placement = snapshot.domains and Placement(snapshot.domains, snapshot.held)
        self._running = dict.fromkeys(ISOLATIONS, 0)
        for each in snapshot.held:
            self._running[each.isolation] += each.gpus
        self._bypassed, self._row = snapshot.bypassed, snapshot.row
        self._until = snapshot.until
        self._arrivals, self._opened = snapshot.arrivals, snapshot.opened
        self._number = 0
        #: The jobs in line that expire, and when each does.
        self._expiring = {each.delivery: each for each in snapshot.waiting if each.expires}
        self._expires = [(each.expires or 0.0, name) for name, each in self._expiring.items()]
        heapify(self._expires)

    def copy(self) -> Twin:
        """Return one that changes by itself."""
        new = object.__new__(Twin)
        new.rules, new.line, new.held = self.rules, self.line.copy(), self.held.copy()
        new._placement = self._placement and self._placement.copy()
        new._running, new._number = self._running.copy(), self._number
        new._bypassed, new._row, new._until = self._bypassed, self._row, self._until
        new._arrivals, new._opened = self._arrivals, self._opened
        new._expiring, new._expires = self._expiring.copy(), self._expires.copy()
        return new

    def arrive(self, job: Waiting, now: float) -> None:
        """A job comes into line. Without an arrival, it gets the next one."""
        if not job.arrival:
            job = replace(job, arrival=self._arrivals + 1)
        self._arrivals = max(self._arrivals, job.arrival)
        if job.isolation == EXCLUSIVE and self.line.total(EXCLUSIVE) == 0:
            self._bypassed = 0
        self.line.enter(job, now)
        if job.expires:
            self._expiring[job.delivery] = job
            heappush(self._expires, (job.expires, job.delivery))

    def has_room(self, isolation: str) -> bool:
        """Whether a slot is free. Without one, a shared job that comes changes no decision; an
        exclusive one may, since a domain becomes idle for it.
        """
        if self._placement:
            return self._placement.has_room(isolation)
        return self._running[isolation] < self.rules.slots(isolation)

    def end(self, holder: str, now: float) -> Held:
        """An attempt gives its slot back."""
        held = self.held.pop(holder)
        self._running[held.isolation] -= held.gpus
        self.line.ended(held, now)
        if self._placement:
            self._placement.leave(held)
        return held

    def admit(self, now: float) -> list[tuple[Waiting, Held]]:
        """Take out what has expired, and start every job that can start; return each with its
        slot, in order.
        """
        started: list[tuple[Waiting, Held]] = []
        if not self._opened:
            return started
        while self._expires and self._expires[0][0] <= now:
            _, name = heappop(self._expires)
            if name in self._expiring:
                self._leave(self._expiring[name], now)
        self.line.keep(now)
        while True:
            look = self._drain(self._look(now), now)
            if self._is_too_small(look):
                look.passing = None
                job = look.first[EXCLUSIVE]
            else:
                job = self._decide(look)
                first = look.first[EXCLUSIVE]
                if first and look.needs > 1 and job is not first:
                    self.line.keep_turn(first)
            if job is None or self.line.dry:
                return started
            over = job.expires is not None and job.expires <= now
            if over or self._is_too_small(look):
                self._leave(job, now)
            else:
                started.append((job, self._start(job, look, now)))

    def _leave(self, job: Waiting, now: float) -> None:
        """Take a job out of line that does not start."""
        self._expiring.pop(job.delivery, None)
        self.line.leave(job, now)
        if self._placement:
            self._placement.forget(job.delivery)

    def _look(self, now: float) -> _Look:
        placement, rules = self._placement, self.rules
        shared = self.line.first(SHARED) if rules.shared_slots > 0 else None
        exclusive = self.line.first(EXCLUSIVE) if rules.exclusive_slots > 0 else None
        needs = exclusive.gpus if exclusive else 1
        first = {SHARED: shared, EXCLUSIVE: exclusive}
        look = _Look(first, {SHARED: None, EXCLUSIVE: None}, needs)
        if not placement:
            look.backfills = self._passes_gate(look, now)
        else:
            if shared:
                look.domain[SHARED] = placement.pick(SHARED, now, away=placement.drained)
            if exclusive:
                others = None
                if placement.reserved and not placement.reserved_of(exclusive):
                    others = placement.pick(EXCLUSIVE, now, away=placement.reserved, number=needs)
                look.domain[EXCLUSIVE] = others or placement.pick(EXCLUSIVE, now, number=needs)
                strict = placement.strict == exclusive.delivery
                if needs > 1 and look.domain[EXCLUSIVE] is None and not strict:
                    look.passing = self._passing(placement, exclusive, now)
            if shared and look.domain[SHARED] is None and placement.lets_in(shared, now):
                look.backfills, look.domain[SHARED] = True, placement.drained
        return look

    def _passing(
        self, placement: Placement, first: Waiting | None, now: float
    ) -> tuple[Waiting, str, Any] | None:
        """The first job behind that a domain takes which is not reserved."""
        reserved = placement.reserved_of(first)
        for job, front in self.line.behind(EXCLUSIVE, BEHIND):
            domain = placement.pick(EXCLUSIVE, now, away=reserved, number=job.gpus)
            if domain is not None:
                return job, domain, front
        return None

    def _is_too_small(self, look: _Look) -> bool:
        """Whether no domain has as many slots as the first exclusive job needs."""
        largest = self._placement.largest if self._placement else self.rules.exclusive_slots
        return look.needs > max(1, largest)

    def _is_closed(self, look: _Look) -> bool:
        """Whether the gate of a class of one domain is closed to shared jobs."""
        waits = look.first[EXCLUSIVE] is not None
        return waits and self._bypassed >= self.rules.exclusive_patience

    def _passes_gate(self, look: _Look, now: float) -> bool:
        """Whether the first shared job may start although the gate is closed: it ends in time."""
        shared = look.first[SHARED]
        if not shared or not self._is_closed(look) or not self._running[SHARED]:
            return False
        limit, until = shared.planned_limit, self._until
        return limit is not None and until is not None and now + limit <= until

    def _keep_planned_end(self, look: _Look, now: float) -> None:
        """Fix when a class of one domain should be idle, once its gate is closed."""
        if self._is_closed(look) == (self._until is not None):
            return
        self._until = None if self._until is not None else self._last_declared_end(now)
        look.backfills = self._passes_gate(look, now)

    def _last_declared_end(self, now: float) -> float:
        ends = [each.planned_end for each in self.held.values() if each.isolation == SHARED]
        if len(ends) > MOST or None in ends:
            return 0.0
        return max(now, *(end for end in ends if end is not None)) if ends else now

    def _drain(self, look: _Look, now: float) -> _Look:
        """Have a domain become idle once the patience of the first exclusive job is used up."""
        if not self._placement:
            self._keep_planned_end(look, now)
            return look
        first = look.first[EXCLUSIVE]
        waits = first is not None and look.domain[EXCLUSIVE] is None
        closed = waits and self._bypassed >= self.rules.exclusive_patience
        changed = self._placement.keep(first, waits, closed, now)
        return self._look(now) if changed else look

    def _may_start(self, look: _Look, isolation: str) -> bool:
        rules, running = self.rules, self._running
        shared_waits = look.first[SHARED] is not None
        if self._placement:
            if look.domain[isolation] is None and not (isolation == EXCLUSIVE and look.passing):
                return False
            turn = shared_waits and look.domain[SHARED] is not None
            return isolation == SHARED or not turn or self._row < rules.shared_patience
        if isolation == SHARED:
            closed = self._is_closed(look) and not look.backfills
            return not running[EXCLUSIVE] and not closed and running[SHARED] < rules.shared_slots
        if running[SHARED] or running[EXCLUSIVE] + look.needs > rules.exclusive_slots:
            return False
        return not shared_waits or self._row < rules.shared_patience

    def _decide(self, look: _Look) -> Waiting | None:
        """Return the job that starts next; None: none can."""
        next_ones = dict(look.first)
        front = None
        if look.passing:
            next_ones[EXCLUSIVE], _, front = look.passing
        can = [each for each in ISOLATIONS if next_ones[each] and self._may_start(look, each)]
        found = [job for each in can if (job := next_ones[each])]
        if len(can) < 2:
            return found[0] if found else None
        before = self.line.before(front)
        return next_ones[before] if before else min(found, key=lambda job: job.place)

    def _count_start(self, look: _Look, isolation: str) -> None:
        shared, exclusive = look.first[SHARED], look.first[EXCLUSIVE]
        if isolation == EXCLUSIVE:
            keeps = self._row if self._hides(SHARED) else 0
            self._row = self._row + 1 if shared else keeps
            self._bypassed = self._bypassed if look.passing else 0
            return
        self._row = 0
        if shared and exclusive:
            later = shared.place > exclusive.place or shared.arrival > exclusive.arrival
            if not look.backfills and (self.line.by_tenants or later):
                self._bypassed += 1
        elif not self._hides(EXCLUSIVE):
            self._bypassed = 0

    def _hides(self, isolation: str) -> bool:
        return self.rules.slots(isolation) > 0 and self.line.hides(isolation)

    def _start(self, job: Waiting, look: _Look, now: float) -> Held:
        self._count_start(look, job.isolation)
        self._expiring.pop(job.delivery, None)
        self.line.leave(job, now)
        self._number += 1
        ends = now + job.planned_limit if job.planned_limit else None
        name, domain = f"{job.delivery}#+{self._number}", None
        if self._placement:
            passing = look.passing if job.isolation == EXCLUSIVE else None
            away = self._placement.drained if job.isolation == SHARED else None
            if passing:
                away = self._placement.reserved
            other = None
            if job.avoid and not look.backfills:
                other = self._placement.pick(job.isolation, now, job.avoid, away, job.gpus)
            domain = other or (passing[1] if passing else look.domain[job.isolation])
            assert domain is not None
        known = (name, job.isolation, job.tenant, job.task, domain, ends, job.time_limit, now)
        held = Held(*known, gpus=job.gpus)
        if self._placement:
            self._placement.enter(held, now)
            if job.isolation == EXCLUSIVE and domain is not None:
                self._placement.started_in(domain, job.delivery)
        self.held[name] = held
        self._running[job.isolation] += job.gpus
        self.line.started(job, held, now)
        return held
