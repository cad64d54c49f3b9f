"""A class whose holders are watched from outside, and what its accounts say of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.record import Record
from gpuqueue.model.usage import DAY, HOUR, Use, millionths, report
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.usage import Books, Capacities, Usage
from tests.property.open_class import OpenClass

T4 = GpuClass("t4", shared_slots=4, exclusive_slots=1, price_per_hour="0.35")


class Accounted(OpenClass):
    """A class whose holders are watched from outside, microsecond by microsecond."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, max_attempts=2)
        self.us, self.repeats = 1_000_000 * 10**6, 1
        self.gpu_class, self.noted = T4, {SHARED: 0, EXCLUSIVE: 0}
        self.price = 0
        self.nodes: set[str] | None = None
        self.entries = 10_000
        self.granted: dict[str, Record] = {}
        self.held: dict[str, int] = defaultdict(int)
        self.used = self.idle = self.cost = self.value = Fraction(0)
        self.jobs = 0

    def repeated(self, call: Callable[[], Any]) -> Any:
        answers = [call() for _ in range(self.repeats)]
        return answers[0]

    def note(self, gpu_class: GpuClass) -> None:
        self.gpu_class = gpu_class
        capacities = Capacities(self.client, {"t4": gpu_class}, self.entries)
        self.repeated(capacities.note)
        self.widen(gpu_class.slots(SHARED), gpu_class.slots(EXCLUSIVE))
        self.price = millionths(gpu_class.price_per_hour) or 0

    def widen(self, shared: int, exclusive: int) -> None:
        """Note slots of a domain: at least so many, and as many as all shares fit in."""
        counts = Counter(key.removeprefix("holders_") for key, _ in self.held_slots())
        domains = max(1, self.domains())
        exclusive = max(exclusive, -(-counts[EXCLUSIVE] // domains))
        if counts[SHARED] and counts[EXCLUSIVE] == domains * exclusive:
            exclusive = -(-2 * counts[EXCLUSIVE] // domains)
        left = domains - (Fraction(counts[EXCLUSIVE], exclusive) if exclusive else 0)
        least = math.ceil(counts[SHARED] / left) if counts[SHARED] else 0
        self.noted = {SHARED: max(shared, least), EXCLUSIVE: exclusive}

    def held_slots(self) -> list[tuple[str, str]]:
        return [(key, name) for key, name, _ in self.reader.holder_names("t4")]

    def domains(self) -> int:
        """How many there are: the nodes as they were set, and others while a job runs there."""
        if self.nodes is None:
            return 1
        held = {self.granted.get(name, {}).get("domain") for _, name in self.held_slots()}
        return len(self.nodes | held - {None})

    def set_nodes(self, *names: str, shared: int = 4) -> None:
        slots = {SHARED: shared, EXCLUSIVE: 1}
        self.nodes = set(names)
        for _ in range(self.repeats):
            self.line.set_nodes(self.gpu_class, dict.fromkeys(names, slots))
        self.widen(self.noted[SHARED], self.noted[EXCLUSIVE])

    def wait(self, us: int) -> None:
        share = Fraction(0)
        for key, name in self.held_slots():
            self.held[name] += us
            slots = self.noted[key.removeprefix("holders_")]
            share += Fraction(1, slots) if slots else 0
        if any(self.noted.values()):
            domains = self.domains()
            assert share <= domains
            self.used, self.idle = self.used + share * us, self.idle + (domains - share) * us
            self.cost += share * us * self.price / HOUR
            self.value += Fraction(us * self.price * domains, HOUR)
        self.us += us
        self.now = self.us / 10**6

    def take(self, granted: Any) -> None:
        for record in granted:
            self.granted[f"{record['delivery']}#{record['attempt']}"] = record
        if any(self.noted.values()):
            self.widen(self.noted[SHARED], self.noted[EXCLUSIVE])

    def submit(self, isolation: str = SHARED, tenant: str = "", task: str = "shop.run") -> str:
        self.jobs += 1
        name = f"j{self.jobs}"
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        record |= {"task": task, "priority": 0} | ({"tenant": tenant} if tenant else {})
        for _ in range(self.repeats):
            self.take(self.line.take_in(self.gpu_class, record.copy(), "{}").granted)
        return name

    def executor(self, name: str) -> ExecutorAttempt:
        record = self.granted[name]
        executor = ExecutorAttempt(self.client, Attempt.of(record), record["token"])
        executor.claim("h:n:1", "w")
        return executor

    def succeed(self, name: str, outcome: str = "SUCCEEDED") -> None:
        executor = self.executor(name)
        self.repeated(lambda: executor.report(outcome))
        self.repeated(lambda: executor.reported(1000))
        self.end(name, explain(0))

    def end(self, name: str, end: End, instance: str = "h:n:1") -> None:
        attempt = Attempt.of(self.granted[name])
        for _ in range(self.repeats):
            self.take(self.line.release(self.gpu_class, attempt, end, instance).granted)

    def turn(self) -> None:
        self.line.tick("t4")
        self.take(self.line.admit(self.gpu_class))

    def books(self, since: int | None = 0) -> Books:
        return Usage(self.client).of("t4", since)

    def check(self) -> None:
        """Everything that is kept, against what was watched."""
        books = self.books()
        named = [f"{each.delivery}#{each.attempt}" for each in (*books.entries, *books.running)]
        assert len(named) == len(set(named)), "one entry for each attempt"
        lengths = [each.stop - each.start for each in (*books.entries, *books.running)]
        found = dict(zip(named, lengths, strict=True))
        assert {name: held for name, held in found.items() if held} == {
            name: held for name, held in self.held.items() if held
        }
        end = self.us + DAY
        made = report(books.uses(0, end), books.had(0, end), lambda one: one.gpu_class)
        total = made.total
        assert (total.used + total.wasted, total.cost + total.waste) == (self.used, self.cost)
        assert total.capacity - total.used - total.wasted == self.idle >= 0
        assert total.value == self.value
        assert total.held == sum(self.held.values())
        # The sums of days are the sums of the entries.
        uses = [
            use
            for each in (*books.entries, *books.running)
            for use in each.uses(books.terms, 0, end)
        ]
        assert summed(uses) == summed(books.uses(0, end))


def summed(uses: Iterable[Use]) -> dict[Any, tuple[int, int, int]]:
    sums: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    for use in uses:
        key = (use.day, use.tenant, use.task, use.isolation, use.reason, use.counted)
        sums[*key, use.slots, use.price][1] += use.held
        # An attempt may have ended in the microsecond before the capacity changed.
        sums[key][0] += use.attempts
        sums[key][2] += use.waited
    return {key: (a, h, w) for key, (a, h, w) in sums.items() if a or h or w}
