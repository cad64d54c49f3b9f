"""Whether a decision costs more where there is much to decide about.

Measured: two Redis servers, in turns. One has 10 classes, and one of them 10 domains, 100 waiting
jobs and 10 tenants; the other has 1,000 classes, and one of them 1,000 domains, 100,000 waiting
jobs and 5,000 tenants. One job in eight is exclusive, half of the jobs have a time limit, and all
slots are held. ``release`` frees the slot of some holder and returns the jobs that start next;
``take_in`` puts a job in line; ``admit`` finds that none can start; ``turn`` is the watcher's, in
this class. After each measurement, as many jobs enter the line as have left it.

For each, the Redis commands inside the script, and the CPU time of the server (INFO cpu), so that
the client does not count, and other load on the machine counts little; the append-only file is not
rewritten meanwhile. Peer: the same in the small state. Floor: a script that only reads the time of
Redis.

A script makes hundreds of small objects. Where the server uses the allocator of libc (named in the
label), a large state scatters them over its memory, and each costs twice as much. The Redis
and Valkey of distributions use jemalloc: `REDIS=7.0 make bench scale`.

Aim: a decision in the large state costs at most 20 % more than in the small one, and one Redis
makes at least 1,000 decisions per second.
"""

from __future__ import annotations

import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.harness import Figure, Sample, Size, alternate, ratio
from benchmarks.messages import Template, fill, record_of, template
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.turn import Turn, Turns

SLOTS = {"shared": 4, "exclusive": 1}
T4 = GpuClass("t4", domain=NODE, shared_slots=4, exclusive_slots=1)
#: The same, of which no job can start.
FULL = GpuClass("t4", domain=NODE)
#: How often a script is called in one turn; a release, which needs a holder, so often.
STEPS, RELEASES = 60, 20
#: Methods of a state; and that of a script which runs once a period.
DECISIONS, PERIODIC = ("release", "take_in", "admit"), "turn"
AIM, PER_SECOND = 1.2, 1000
_NOTHING = "return redis.call('TIME')[1]"
_OUTSIDE = {f"cmdstat_{name}" for name in ("evalsha", "info", "config|resetstat", "config")}


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much there is."""

    classes: int
    domains: int
    jobs: int
    tenants: int


SMALL = Amounts(10, 10, 100, 10)
LARGE, QUICK = Amounts(1_000, 1_000, 100_000, 5_000), Amounts(100, 100, 2_000, 200)


class _State:
    """One Redis whose lines keep their length."""

    def __init__(self, stage: Stage, amounts: Amounts) -> None:
        self._client, self._amounts = stage.client, amounts
        self._made: Template = template(stage.app, "gpu.t4.shared", stage.client)
        self._line = Line(self._client, by="bench", owner="bench")
        self._turns = Turns(self._client, self._line)
        self._chance = random.Random(1)
        self._numbers = itertools.count()
        self._held: list[Record] = []
        self.commands = 0.0
        self._nothing = self._client.register_script(_NOTHING)
        # A rewrite of the file would copy each page that a decision writes.
        self._client.config_set("auto-aof-rewrite-percentage", 0)
        for number in range(amounts.classes - 1):
            self._put_in_line(f"other{number}", 1)
        self._put_in_line("t4", amounts.jobs + amounts.domains * SLOTS["shared"])
        while not str(self._client.hget(class_key("t4", "gate"), "order")).startswith("tenants"):
            self._turns.take([FULL])
        nodes = {f"node-{number}": SLOTS for number in range(amounts.domains)}
        self._line.set_nodes(T4, nodes)
        while self._took(self._line.admit(T4)):
            pass
        self._fill(amounts.jobs - self._waiting())

    def _fields(self, _: int) -> dict[str, Any]:
        number = next(self._numbers)
        own: dict[str, Any] = {"tenant": f"tenant-{number % self._amounts.tenants}"}
        own["isolation"] = SHARED if number % 8 else EXCLUSIVE
        return own | ({"time_limit": 60.0 + number % 600} if number % 2 else {})

    def _fill(self, count: int) -> None:
        fill(self._client, FULL, self._made, count, self._fields)

    def _put_in_line(self, name: str, count: int) -> None:
        """Put jobs in line as a version without tenants has left them: a turn sorts them by tenant.
        So much is soon there, which scripts would take minutes for.
        """
        self._line.open(name)
        message, packed = json.dumps(self._made.packed), self._made.packed
        first = self._client.hincrby(class_key(name, "gate"), "seq", count) - count + 1
        pipe = self._client.pipeline(transaction=False)
        common = record_of(packed, name) | {"state": "waiting", "created": time.time()}
        for arrival in range(first, first + count):
            record = common | {"arrival": arrival} | (self._fields(0) if name == "t4" else {})
            record["id"] = record["delivery"] = each = str(uuid.uuid4())
            pipe.hset(class_key(name, "jobs"), each, json.dumps(record))
            pipe.hset(class_key(name, "messages"), each, message.replace(self._made.id, each))
            pipe.zadd(class_key(name, f"waiting_{record['isolation']}"), {each: arrival})
            if len(pipe) >= 2000:
                pipe.execute()
        pipe.execute()

    def _waiting(self) -> int:
        lines = (class_key("t4", f"waiting_{each}") for each in SLOTS)
        return sum(int(self._client.zcard(line)) for line in lines)

    def _took(self, granted: list[Record]) -> int:
        self._held += granted
        return len(granted)

    def _inside(self, step: Callable[[], object], times: int = STEPS) -> float:
        """Return the CPU time of Redis for one step, in µs."""
        self._client.config_resetstat()
        begun = self._cpu()
        for _ in range(times):
            step()
        found = (self._cpu() - begun) / times * 1e6
        stats: Any = self._client.info("commandstats")
        inside = [each["calls"] for name, each in stats.items() if name not in _OUTSIDE]
        self.commands = sum(inside) / times
        return found

    @property
    def allocator(self) -> str:
        """That of the server."""
        known: Any = self._client.info("memory")
        return str(known["mem_allocator"])

    def _cpu(self) -> float:
        used: Any = self._client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def release(self) -> float:
        """Return the cost of one handover: the jobs that gave their slots back have reported."""
        self._chance.shuffle(self._held)
        gone, self._held = self._held[:RELEASES], self._held[RELEASES:]
        for each in gone:
            executor = ExecutorAttempt(self._client, Attempt.of(each), each["token"])
            executor.claim("bench:1:1", "bench")
            executor.report("SUCCEEDED")
            executor.reported(60)
        ended = iter(gone)
        found = self._inside(lambda: self._hand_over(next(ended)), len(gone))
        self._fill(self._amounts.jobs - self._waiting())
        return found

    def _hand_over(self, gone: Record) -> None:
        released = self._line.release(T4, Attempt.of(gone), instance="bench:1:1")
        assert released.freed
        self._took(released.granted)

    def take_in(self) -> float:
        """Return the cost of one job that comes into line, and cannot start."""
        packed = [self._made.copy() for _ in range(STEPS)]
        records: list[Any] = [record_of(each, "t4") | self._fields(0) for each in packed]
        texts = iter(
            [(record, json.dumps(each)) for record, each in zip(records, packed, strict=True)]
        )
        found = self._inside(lambda: self._took(self._line.take_in(T4, *next(texts)).granted))
        started = {each["delivery"] for each in self._held}  # some may start by backfill
        for record in records:
            if record["delivery"] not in started:
                self._line.cancel("t4", record["id"])
        return found

    def admit(self) -> float:
        """Return the cost of a decision that starts no job."""
        return self._inside(lambda: self._took(self._line.admit(T4)))

    def turn(self) -> float:
        """Return the cost of a turn of the watcher in this class."""
        return self._inside(self._take_turn)

    def _take_turn(self) -> None:
        [turn] = self._turns.take([T4])
        assert isinstance(turn, Turn) and not turn.problems
        self._took(turn.granted)

    def nothing(self) -> float:
        """Return the cost of a script that does nothing."""
        return self._inside(self._nothing)


def run(size: Size) -> list[Figure]:
    """Measure it."""
    amounts = QUICK if size.quick else LARGE
    with ExitStack() as stack:
        small, large = (_State(stack.enter_context(Stage()), each) for each in (SMALL, amounts))
        labels = (_label(amounts, large), _label(SMALL, small))
        counted: dict[tuple[str, _State], list[float]] = {}

        def measure(name: str, state: _State) -> float:
            found: float = getattr(state, name)()
            counted.setdefault((name, state), []).append(state.commands)
            return found

        sides = [(name, state) for name in (*DECISIONS, PERIODIC) for state in (large, small)]
        turns = [partial(measure, *side) for side in sides]
        *found, nothing = alternate(size.of(25, 5), *turns, large.nothing)
        commands = [counted[side][1:] for side in sides]
    floor = Sample("a script that does nothing", nothing)
    figures = [
        *_figures("Redis commands", "commands", labels, commands),
        *_figures("CPU time of Redis", "µs", labels, found, floor),
    ]
    rates = Sample(labels[0], tuple(1e6 / each for each in found[0]))
    met = rates.middle >= PER_SECOND
    figures.append(
        Figure("handovers of one Redis", "jobs/s", rates, aim=f"≥ {PER_SECOND}/s", met=met)
    )
    return figures


def _label(amounts: Amounts, state: _State) -> str:
    return (
        f"{amounts.jobs:,} jobs, {amounts.domains:,} domains, {amounts.tenants:,} tenants,"
        f" {state.allocator}"
    )


def _figures(
    what: str,
    unit: str,
    labels: tuple[str, str],
    found: Sequence[Sequence[float]],
    floor: Sample | None = None,
) -> Iterator[Figure]:
    """Yield a line for each script: the large state beside the small one."""
    for name, large, small in zip((*DECISIONS, PERIODIC), found[::2], found[1::2], strict=True):
        ours, peer = (
            Sample(each, tuple(v)) for each, v in zip(labels, (large, small), strict=True)
        )
        met = None if name == PERIODIC else (ratio(ours, peer) or 0) <= AIM
        aim = "" if name == PERIODIC else f"ratio ≤ {AIM}"
        yield Figure(f"{name}: {what}", unit, ours, (peer,), floor, aim, met)
