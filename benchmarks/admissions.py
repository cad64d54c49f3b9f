"""What the scripts cost when one client calls them one after the other.

Measured: whole jobs per second (take_in, launched, claim, report, reported, release: 6
round trips); one ``admit`` that creates one holder; one ``release`` that frees a slot and returns
the next job in the same round trip. For the last two, also the time of the script inside Redis
(INFO commandstats). Peer: the minimum of any slot manager in Redis: a script that adds a holder if
there is room, and a ZREM. Floor: PING.

Aim: none here; the handover has one (see handover).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Figure, Sample, Size, alternate, cost, rate
from benchmarks.messages import Template, fill, record_of, template
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line

_SEMAPHORE = (
    "if redis.call('ZCARD', KEYS[1]) < 1 then return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])"
    " end return 0"
)
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1)


def run(size: Size) -> list[Figure]:
    """Measure it."""
    jobs, repeats = size.of(200, 60), size.of(9, 3)
    with Stage() as stage:
        client, line = stage.client, Line(stage.client, by="bench")
        made = template(stage.app, "gpu.t4.shared", client)
        cycles = _Cycles(client, line, made)
        acquire = client.register_script(_SEMAPHORE)
        fill(client, GpuClass("handed", shared_slots=0), made, (repeats + 1) * jobs + 2)
        fill(client, GpuClass("admitted", shared_slots=0), made, (repeats + 1) * jobs + 2)
        held = line.admit(GpuClass("handed", shared_slots=1))
        slots = itertools.count(1)

        def semaphore() -> None:
            acquire(keys=["bench:semaphore"], args=[1, "holder"])
            client.zrem("bench:semaphore", "holder")

        def admit_one() -> None:
            assert len(line.admit(GpuClass("admitted", shared_slots=next(slots)))) == 1

        def hand_over() -> None:
            gone = held.pop()
            released = line.release(GpuClass("handed", shared_slots=1), Attempt.of(gone))
            held.extend(released.granted)
            assert len(held) == 1

        own: dict[str, list[float]] = {"admit": [], "release": [], "acquire": []}

        def costing(name: str, step: Callable[[], object]) -> Callable[[], float]:
            def measure() -> float:
                client.config_resetstat()
                found = cost(jobs, step)
                info: Any = client.info("commandstats")
                own[name].append(info["cmdstat_evalsha"]["usec_per_call"])
                return found

            return measure

        whole, peers, admits, hands, acquires, pings = alternate(
            repeats,
            lambda: rate(jobs, cycles.step),
            lambda: rate(jobs, semaphore),
            costing("admit", admit_one),
            costing("release", hand_over),
            costing("acquire", lambda: acquire(keys=["bench:semaphore"], args=[1, "holder"])),
            lambda: cost(jobs, client.ping),
        )
    inside = {name: Sample(f"{name}, in Redis", tuple(found[1:])) for name, found in own.items()}
    ping, alone = Sample("PING", pings), Sample("semaphore: acquire", acquires)
    per_second = Sample("PINGs a second", tuple(1e6 / each for each in pings))
    return [
        Figure(
            "whole jobs through the scripts",
            "jobs/s",
            Sample("7 scripts a job", whole),
            (Sample("semaphore", peers),),
            per_second,
        ),
        Figure("admit: one job becomes a holder", "µs", Sample("admit", admits), (alone,), ping),
        Figure(
            "release: a slot freed and handed on", "µs", Sample("release", hands), (alone,), ping
        ),
        Figure("admit: time inside Redis", "µs", inside["admit"], (inside["acquire"],)),
        Figure("release: time inside Redis", "µs", inside["release"], (inside["acquire"],)),
    ]


class _Cycles:
    """Whole jobs, one at a time."""

    def __init__(self, client: Redis, line: Line, made: Template) -> None:
        self._line, self._made = line, made
        line.open(T4.name)
        self._client = client

    def step(self) -> None:
        """One job from its message to its freed slot."""
        packed = self._made.copy()
        record = record_of(packed, T4.name)
        (granted,) = self._line.take_in(T4, record, json.dumps(packed)).granted
        attempt = Attempt.of(granted)
        self._line.launched(attempt, "bench:1:1", 60)
        executor = ExecutorAttempt(self._client, attempt, granted["token"])
        executor.claim("bench:1:1", "bench")
        executor.report("SUCCEEDED")
        assert executor.reported(60)
        assert self._line.release(T4, attempt, instance="bench:1:1").freed
