"""The line of a class with tenants: lua/lib/tenants.lua and tenant_turns.lua decide."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from gpuqueue.forecast.lines import Jobs
from gpuqueue.forecast.snapshot import Held, Tenant, Tenants, Waiting
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED

#: Seconds between two charges of a holder, and how many one decision charges.
GRAIN, CHARGED = 1.0, 16
#: Holders for each so many of which the seconds grow.
HOLDERS_OF_GRAIN = 100
_LOG2 = math.log(2)
#: First one below its guaranteed share, then by the priority of its first job, then one whose job
#: has the turn, then by what it has used over its weight, then the one served least recently, then
#: the one that came first.
Front = tuple[int, int, float, int, int, str]
#: In place of what a tenant has used, if its first job has the turn.
_TURN = -1.0


class _State:
    """One tenant."""

    __slots__ = ("at", "fronts", "jobs", "rule", "running", "served", "slots", "usage")

    def __init__(self, known: Tenant) -> None:
        self.rule = known
        self.served, self.usage, self.at = known.served, known.usage, known.at
        self.running = self.slots = 0
        self.jobs = {each: Jobs() for each in ISOLATIONS}
        self.fronts: dict[str, Front | None] = dict.fromkeys(ISOLATIONS)

    def copy(self) -> _State:
        new = object.__new__(_State)
        new.rule, new.served, new.usage, new.at = self.rule, self.served, self.usage, self.at
        new.running, new.slots, new.fronts = self.running, self.slots, self.fronts.copy()
        new.jobs = {each: jobs.copy() for each, jobs in self.jobs.items()}
        return new


class ByTenants:
    """The line of a class with tenants.

    Args:
        tenants: their rules and use.
        share: the part of a GPU that a shared slot is.
        waiting: the jobs in line that were read.
        more: isolation → how many jobs were not read, of all tenants.
        held: the holders.
        now: of the snapshot.
    """

    by_tenants = True

    def __init__(
        self,
        tenants: Tenants,
        share: float,
        waiting: Iterable[Waiting],
        more: Mapping[str, int],
        held: Iterable[Held],
        now: float,
    ) -> None:
        self.dry = False
        self._rules, self._share, self._own_share = tenants, tenants.share, share
        self._served, self._last_id = tenants.served, tenants.last_id
        self._turn = tenants.turn
        self._totals = {each: more.get(each, 0) for each in ISOLATIONS}
        self._order: dict[str, list[Front]] = {each: [] for each in ISOLATIONS}
        self._chosen: dict[str, Front | None] = dict.fromkeys(ISOLATIONS)
        self._charged: list[tuple[float, str]] = []
        self._holders: dict[str, tuple[str, str]] = {}
        self._states = {name: _State(each) for name, each in tenants.known.items()}
        #: The states that no copy shares.
        self._own = set(self._states)
        for (name, isolation), total in tenants.unread.items():
            self._state(name).jobs[isolation].more = total
        for job in waiting:
            self._totals[job.isolation] += 1
            self._state(job.tenant).jobs[job.isolation].read(job)
        for each in held:
            self._hold(each, now if each.charged is None else each.charged)
        for name in self._states:
            self._refresh(name)
        others = sum(more.values()) > sum(tenants.unread.values())
        #: The last tenant that was read: those that were not are behind it.
        self._boundary = {
            each: order[-1] if others and order else None for each, order in self._order.items()
        }

    def copy(self) -> ByTenants:
        """Return one that changes by itself."""
        new = object.__new__(ByTenants)
        new.dry, new._rules = self.dry, self._rules
        new._share, new._own_share = self._share, self._own_share
        new._served, new._last_id, new._turn = self._served, self._last_id, self._turn
        new._totals, new._boundary = self._totals.copy(), self._boundary
        new._order = {each: fronts.copy() for each, fronts in self._order.items()}
        new._chosen = self._chosen.copy()
        new._charged, new._holders = self._charged.copy(), self._holders.copy()
        new._states, self._own, new._own = self._states.copy(), set(), set()
        return new

    def keep(self, now: float) -> None:
        """Charge what runs, some in each decision."""
        self._share = self._own_share
        grain = GRAIN * max(1.0, len(self._charged) / HOLDERS_OF_GRAIN)
        if not self._charged or self._charged[0][0] > now - grain:
            return
        most = min(CHARGED, len(self._charged))
        number = bisect_left(self._charged, (now - grain, chr(0x10FFFF)), 0, most)
        due = self._charged[:number]
        del self._charged[:number]
        touched: dict[str, _State] = {}
        for charged, holder in due:
            name, isolation = self._holders[holder]
            state = touched.get(name)
            if state is None:
                state = touched[name] = self._state(name)
            self._charge(state, isolation, now - charged, now)
            insort(self._charged, (now, holder))
        for name, state in touched.items():
            self._reprice(name, state)

    def first(self, isolation: str) -> Waiting | None:
        """Return the first job of the tenant whose turn it is."""
        order = self._order[isolation]
        front = self._chosen[isolation] = order[0] if order else None
        boundary = self._boundary[isolation]
        if boundary is not None and (front is None or front > boundary):
            self.dry = True
        if front is None:
            return None
        return self._states[front[-1]].jobs[isolation].first()

    def behind(self, isolation: str, most: int) -> list[tuple[Waiting, Any]]:
        """By the fronts of their tenants, as if each job were the first of its tenant."""
        order = self._order[isolation][: most + 1]
        tops = [(front, 0, self._states[front[-1]]) for front in order]
        found: list[tuple[Waiting, Any]] = []
        while tops and len(found) <= most:
            front, at, state = heappop(tops)
            job, after = (state.jobs[isolation].first(each) for each in (at, at + 1))
            assert job
            found.append((job, front))
            if after:
                heappush(tops, (self._front(front[-1], state, after), at + 1, state))
        return found[1:]

    def before(self, passing: Front | None = None) -> str | None:
        """The tenant decides; with the same front, the place."""
        shared, exclusive = (self._chosen[each] for each in ISOLATIONS)
        exclusive = passing or exclusive
        if shared is None or exclusive is None or shared == exclusive:
            return None
        return ISOLATIONS[0] if shared < exclusive else ISOLATIONS[1]

    def keep_turn(self, job: Waiting) -> None:
        """It stays before jobs of its priority, also if their tenants have used less."""
        if self._turn == job.delivery:
            return
        self._turn = job.delivery
        before = [front[-1] for front in self._order[EXCLUSIVE] if front[2] == _TURN]
        for name in (*before, job.tenant):
            self._refresh(name)

    def hides(self, isolation: str) -> bool:
        """Whether jobs wait whose tenants are at a limit."""
        return self._totals[isolation] > 0

    def total(self, isolation: str) -> int:
        """Return how many jobs of an isolation wait."""
        return self._totals[isolation]

    def enter(self, job: Waiting, now: float) -> None:
        """Put a job into line."""
        self._totals[job.isolation] += 1
        self._state(job.tenant).jobs[job.isolation].enter(job)
        self._refresh(job.tenant)

    def leave(self, job: Waiting, now: float) -> None:
        """Take one out."""
        if self._turn == job.delivery:
            self._turn = None
        self._totals[job.isolation] -= self._state(job.tenant).jobs[job.isolation].leave(job)
        self._refresh(job.tenant)

    def started(self, job: Waiting, held: Held, now: float) -> None:
        """Its tenant has been served."""
        self._hold(held, now)
        self._served += 1
        self._state(job.tenant).served = self._served
        self._refresh(job.tenant)

    def ended(self, held: Held, now: float) -> None:
        """Charge its tenant."""
        for each in held.names:
            name, isolation = self._holders.pop(each)
            place = next(at for at, (_, other) in enumerate(self._charged) if other == each)
            charged, _ = self._charged.pop(place)
            self._charge(self._state(name), isolation, now - charged, now)
        state = self._state(held.tenant)
        state.running, state.slots = state.running - 1, state.slots - held.gpus
        self._refresh(held.tenant)

    def _state(self, name: str) -> _State:
        """Return the state of a tenant, to change it."""
        if name in self._own:
            return self._states[name]
        state = self._states.get(name)
        if state is None:
            self._last_id += 1
            rule = self._rules.rules.get(name, self._rules.others)
            state = _State(replace(rule, id=self._last_id))
        else:
            state = state.copy()
        self._states[name] = state
        self._own.add(name)
        return state

    def _hold(self, held: Held, charged: float) -> None:
        state = self._state(held.tenant)
        state.running, state.slots = state.running + 1, state.slots + held.gpus
        for each in held.names:
            self._holders[each] = (held.tenant, held.isolation)
            insort(self._charged, (charged, each))

    def _charge(self, state: _State, isolation: str, seconds: float, now: float) -> None:
        half_life = self._rules.half_life
        if half_life == 0:
            return
        used = seconds * self._share if isolation == SHARED else seconds
        if state.at < now:
            state.usage *= 2 ** ((state.at - now) / half_life)
            state.at = now
        if used > 0:
            state.usage += used

    def _cost(self, state: _State) -> float:
        if self._rules.half_life == 0:
            return state.slots / state.rule.weight
        if state.usage <= 0:
            return 0.0
        used = math.log(state.usage / state.rule.weight) / _LOG2
        return 2000 + used + state.at / self._rules.half_life

    def _front(self, name: str, state: _State, first: Waiting) -> Front:
        return self._front_at(first, *self._standing(name, state))

    def _standing(self, name: str, state: _State) -> tuple[int, tuple[float, int, int, str]]:
        """What the fronts of a tenant have before the priority of a job, and after it."""
        tier = 0 if state.slots < state.rule.guaranteed else 1
        return tier, (round(self._cost(state), 6), state.served, state.rule.id, name)

    def _front_at(self, first: Waiting, tier: int, rest: tuple[float, int, int, str]) -> Front:
        priority = first.priority
        priority = 0 if priority < 0 else 99 if priority > 99 else priority
        if first.delivery == self._turn and first.isolation == EXCLUSIVE:
            return (tier, priority, _TURN, 0, 0, rest[-1])
        return (tier, priority, *rest)

    def _reprice(self, name: str, state: _State) -> None:
        """Put a tenant in its places whose use alone has changed."""
        if not any(state.fronts.values()):
            return
        cost = round(self._cost(state), 6)
        for isolation, before in state.fronts.items():
            if before is not None and before[2] not in (cost, _TURN):
                self._move(state, isolation, (*before[:2], cost, *before[3:]))

    def _move(self, state: _State, isolation: str, front: Front | None) -> None:
        order, before = self._order[isolation], state.fronts[isolation]
        if before is not None:
            del order[bisect_left(order, before)]
        if front is not None:
            insort(order, front)
        state.fronts[isolation] = front

    def _refresh(self, name: str) -> None:
        state = self._state(name)
        most = state.rule.max_running
        limited = most is not None and state.running >= most
        standing = None
        for isolation, jobs in state.jobs.items():
            first = None if limited else jobs.first()
            front: Front | None = None
            if first is not None:
                if standing is None:
                    standing = self._standing(name, state)
                front = self._front_at(first, *standing)
            if front != state.fronts[isolation]:
                self._move(state, isolation, front)
