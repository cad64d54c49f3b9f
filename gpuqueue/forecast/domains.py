"""The domains of a class, and which of them a job gets: lua/lib/domains.lua and placement.lua
decide.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from itertools import islice
from typing import TypeVar

from gpuqueue.forecast.snapshot import NOWHERE_YET, Aside, Domains, Held, Waiting
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.unbound import LATER, is_unbound

#: How many domains one decision looks at, at least of each number of slots.
MOST = 64
#: The planned end of an attempt without a limit. More holders without one make a domain later.
NO_END, ALONE = 10.0**12, 10.0**5
#: Seconds after which a time that is over counts as that of jobs without a limit.
OVERDUE = 300.0
#: Seconds after which a running probe is a success; see lua/lib/places.lua.
PROVEN = 60.0


class Placement:
    """Which domains have room, and when each is idle."""

    def __init__(self, domains: Domains, held: Iterable[Held]) -> None:
        self.slots, self._scale = domains.slots, domains.scale
        self.drained, self.until = domains.drained, domains.until
        self.reserved, self.reserved_for = domains.reserved, domains.reserved_for
        self.strict = domains.strict
        self._aside, self._kept = dict(domains.aside), domains.kept
        #: The most exclusive slots of a domain.
        self.largest = domains.largest or max((own[1] for own in self.slots.values()), default=0)
        self._held: dict[str, dict[str, dict[str, float]]] = {}
        self._room: dict[str, list[tuple[int, str]]] = {each: [] for each in ISOLATIONS}
        self._ends: list[tuple[float, str]] = []
        self._entries: dict[str, tuple[int, int, float | None]] = {}
        for each in held:
            name = NOWHERE_YET if each.domain is None else each.domain
            self._put(name, each)
        for name in self.slots:
            self._index(name)

    def copy(self) -> Placement:
        """Return one that changes by itself."""
        new = object.__new__(Placement)
        new.slots, new._scale = self.slots, self._scale
        new.drained, new.until = self.drained, self.until
        new.reserved, new.reserved_for = self.reserved, self.reserved_for
        new.strict = self.strict
        new._aside, new._kept, new.largest = self._aside.copy(), self._kept, self.largest
        new._held = {
            name: {each: held.copy() for each, held in kinds.items()}
            for name, kinds in self._held.items()
        }
        new._room = {each: room.copy() for each, room in self._room.items()}
        new._ends, new._entries = self._ends.copy(), self._entries.copy()
        return new

    def enter(self, held: Held, now: float) -> None:
        """A holder is in its domain from now on. It tries one that is due for that."""
        name = held.domain or NOWHERE_YET
        if self.standing(name, now) == "due":
            self._aside[name] = Aside(self._aside[name].until, held.holder, now + PROVEN)
        self._put(name, held)
        self._index(name)

    def leave(self, held: Held) -> None:
        """A holder has gone. The domain that it has tried works. One without a node goes if a node
        came that it did not get.
        """
        name = NOWHERE_YET if held.domain is None else held.domain
        if name in self._aside and self._aside[name].probe == held.holder:
            del self._aside[name]
        for each in held.names:
            self._of(name)[held.isolation].pop(each, None)
        self._index(name)
        idle = is_unbound(name) and not any(self._of(name).values())
        if idle and len(self.slots) > self._scale and name in self.slots:
            self._unindex(name)

    def standing(self, name: str, now: float) -> str:
        """Return "held" (nothing starts there), "due" (one job may try it), or "" (in use)."""
        aside = self._aside.get(name)
        if aside is None or (aside.probe and aside.proven <= now):
            return ""
        return "held" if aside.probe or aside.until > now else "due"

    def pick(
        self,
        isolation: str,
        now: float,
        avoid: Collection[str] = (),
        away: str | None = None,
        number: int = 1,
    ) -> str | None:
        """Return the domain of the next job of an isolation: the fullest with room for as many
        slots as it needs, then one without a node. ``away``: it drains, or is reserved.
        """
        room = self._room[isolation]
        if not room or self._nowhere_yet(isolation):
            return None
        best, least = None, 9
        fitting = (name for free, name in room if free % LATER >= number)
        for name in islice(fitting, MOST):
            stands = self.standing(name, now)
            if stands == "held" or name == away:
                continue
            rank = (2 if name in avoid else 0) + (0 if stands and not is_unbound(name) else 1)
            if best is None or rank < least:
                best, least = name, rank
                if rank == 0:
                    break
        return best

    def has_room(self, isolation: str) -> bool:
        """Whether a domain has a free slot of an isolation."""
        return bool(self._room[isolation])

    def takes(self, name: str, isolation: str) -> bool:
        """Whether a job of an isolation may start in a domain."""
        free = self._free(name)[ISOLATIONS.index(isolation)]
        return free > 0 and not self._nowhere_yet(isolation)

    def lets_in(self, job: Waiting, now: float) -> bool:
        """Whether a shared job may start in the domain that drains: it ends in time."""
        name = self.drained
        limit = job.planned_limit
        if name is None or limit is None or not self.takes(name, SHARED):
            return False
        return not self.standing(name, now) and now + limit <= self.until

    def reserved_of(self, job: Waiting | None) -> str | None:
        """Return the domain that is reserved for a job; None: none is."""
        return self.reserved if job and job.delivery == self.reserved_for else None

    def forget(self, delivery: str) -> None:
        """Nothing is reserved for a job any more: it has left the line."""
        if self.reserved_for == delivery:
            self.reserved = self.reserved_for = None

    def started_in(self, name: str, delivery: str) -> None:
        """An exclusive job starts in a domain."""
        if delivery == self.reserved_for:
            self.strict = None
            self.forget(delivery)
        elif name == self.reserved:
            self.strict = self.reserved_for

    def keep(self, first: Waiting | None, waits: bool, closed: bool, now: float) -> bool:
        """Reserve a domain for the first exclusive job, which needs several slots, have one become
        idle for it (``closed``), or none. Returns whether that has changed.
        """
        number = first.gpus if first else 1
        several = waits and number > 1
        own = self.reserved_of(first) or self.drained
        chosen = self._soonest(now, own, number) if several or closed else None
        before = (self.reserved, self.reserved_for, self.drained)
        if several and chosen and first:
            if self.reserved_for not in (None, first.delivery):
                self.strict = self.reserved_for
            self.reserved, self.reserved_for = chosen, first.delivery
        elif several and first:
            self.forget(first.delivery)
        drained = chosen if closed else None
        if (self.reserved, self.reserved_for, drained) == before:
            return False
        if drained != self.drained:
            self.drained, self.until = drained, 0.0
            ends = self._entries[drained][2] if drained else None
            self.until = ends if ends is not None and ends < NO_END else 0.0
        return True

    def _soonest(self, now: float, current: str | None, number: int) -> str | None:
        best, least = None, math.inf
        if current and self.standing(current, now) != "held":
            own = self._entries.get(current, (0, 0, None))[2]
            if own is not None and number > 1:
                own = self._free_at(current, number, now)
            if own is not None:
                own = _believed(own, now)
            if own is not None and own < least:
                best, least = current, own
        for told, name in self._candidates(number, now):
            at = _believed(told, now)
            if at < least and self.standing(name, now) != "held":
                best, least = name, at
        return best

    def _candidates(self, number: int, now: float) -> Iterable[tuple[float, str]]:
        if number == 1:
            first = bisect_left(self._ends, (now - OVERDUE, ""))
            yield from islice(self._ends, first if first < len(self._ends) else 0, None)
            return
        for size in sorted({own[1] for own in self.slots.values()}):
            fitting = (name for _, name in self._ends if self.slots[name][1] == size >= number)
            for name in islice(fitting, MOST):
                yield self._free_at(name, number, now), name

    def _free_at(self, name: str, number: int, now: float) -> float:
        """When so many slots of a domain are free for one exclusive job."""
        held = self._of(name)
        ends = sorted(held[EXCLUSIVE].values())
        over = len(ends) + number - self.slots.get(name, (0, 0))[1]
        at = max(held[SHARED].values(), default=0.0)
        if over > 0:
            at = max(at, ends[over - 1] if over <= len(ends) else math.inf)
        at = _believed(at, now)
        if NO_END <= at < math.inf:
            at = NO_END + len(held[SHARED]) + max(0, over) * ALONE
        return at

    def _nowhere_yet(self, isolation: str) -> bool:
        other = EXCLUSIVE if isolation == SHARED else SHARED
        nowhere = self._held.get(NOWHERE_YET)
        return bool(nowhere and nowhere[other])

    def _put(self, name: str, held: Held) -> None:
        for each in held.names:
            self._of(name)[held.isolation][each] = held.planned_end or NO_END

    def _of(self, name: str) -> dict[str, dict[str, float]]:
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = {each: {} for each in ISOLATIONS}
        return held

    def _free(self, name: str) -> tuple[int, int]:
        """How many slots a shared and an exclusive job would find free."""
        if name in self._kept:
            return 0, 0
        held = self._of(name)
        shared, exclusive = len(held[SHARED]), len(held[EXCLUSIVE])
        own = self.slots.get(name, (0, 0))
        return (0 if exclusive else own[0] - shared), (0 if shared else own[1] - exclusive)

    def _index(self, name: str) -> None:
        """Keep a domain in its places, after any change of what it holds."""
        own = self.slots.get(name)
        if own is None:
            return
        held = self._of(name)
        shared, exclusive = held[SHARED], held[EXCLUSIVE]
        ends = max(shared.values(), default=0.0)
        if exclusive:
            ends = max(ends, *exclusive.values())
        if ends >= NO_END:
            ends = NO_END + len(shared) + len(exclusive) * ALONE
        later = LATER if is_unbound(name) else 0
        room, alone = self._free(name)
        usable = own[1] > 0 and name not in self._kept
        entry = (
            room + later if room > 0 else 0,
            alone + later if alone > 0 else 0,
            ends if usable else None,
        )
        self._put_entry(name, entry)

    def _unindex(self, name: str) -> None:
        """It is no domain any more."""
        self._put_entry(name, (0, 0, None))
        self.slots = {each: own for each, own in self.slots.items() if each != name}

    def _put_entry(self, name: str, entry: tuple[int, int, float | None]) -> None:
        before = self._entries.get(name, (0, 0, None))
        if entry == before:
            return
        self._entries[name] = entry
        for isolation, old, new in zip(ISOLATIONS, before[:2], entry[:2], strict=True):
            _move(self._room[isolation], name, old if old > 0 else None, new if new > 0 else None)
        _move(self._ends, name, before[2], entry[2])


def _believed(at: float, now: float) -> float:
    """Return the time at which jobs end: one that is long over is not believed."""
    return NO_END if 0 < at < now - OVERDUE else at


Score = TypeVar("Score", int, float)


def _move(order: list[tuple[Score, str]], name: str, old: Score | None, new: Score | None) -> None:
    if old == new:
        return
    if old is not None:
        del order[bisect_left(order, (old, name))]
    if new is not None:
        insort(order, (new, name))
