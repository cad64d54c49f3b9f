"""How many Redis commands one real job needs, and what each is for.

Measured: with MONITOR, all commands of N empty jobs that one dispatcher process and real executors
run one after the other. The benchmark separates commands by connection (dispatcher, executor) and
by purpose (state of gpuqueue, result backend, broker and events, connection setup). A script counts
as one command; commands inside a script cost no round trip and are listed separately. Excluded,
because no job causes them: waiting for messages (BRPOP), heartbeats, and cycles of the watcher.
Peer: the same task on a plain Celery worker (threads), counted the same way, in turns. Aim: none;
each executor is a new process and opens new connections.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import psutil
from celery import Celery

from benchmarks.harness import Figure, Sample, Size, until
from benchmarks.monitor import Monitor, Ports
from benchmarks.stage import Stage

GPU_QUEUE = "gpu.t4.shared"
PARTS = ("state", "backend", "broker", "connection")
Found = dict[tuple[str, str], float]
"""(whose, what about) → commands."""


def run(size: Size) -> list[Figure]:
    """Measure it."""
    jobs, repeats, idle = size.of(5, 2), size.of(3, 2), size.of(5, 2)
    with Stage() as stage:
        dispatcher = stage.dispatcher()
        peer = stage.worker("cpu", "threads", 2)
        processes = {"dispatcher": dispatcher, "worker": peer, "caller": psutil.Process()}
        _send(stage.app, stage, "cpu", 1)
        _send(stage.app, stage, GPU_QUEUE, 1)
        time.sleep(0.5)
        resting, seconds = _count(stage, processes, lambda: time.sleep(idle))
        ours: list[Found] = []
        theirs: list[Found] = []
        for _ in range(repeats):
            for queue, kept in ((GPU_QUEUE, ours), ("cpu", theirs)):
                found, _ = _count(stage, processes, partial(_send, stage.app, stage, queue, jobs))
                kept.append({key: value / jobs for key, value in found.items()})
    both = ("dispatcher", "executor")
    sent = Sample("dispatcher and executor", _sums(ours, both, PARTS))
    figures = [
        Figure(
            "Redis commands per real job",
            "commands",
            sent,
            (Sample("Celery worker", _sums(theirs, ("worker",), PARTS)),),
        )
    ]
    for who in both:
        said = ", ".join(
            f"{part} {Sample('', _sums(ours, (who,), (part,))).middle:.1f}" for part in PARTS
        )
        figures.append(
            Figure(f"of these the {who}'s", "commands", Sample(said, _sums(ours, (who,), PARTS)))
        )
    backend = Sample("dispatcher and executor", _sums(ours, both, ("backend",)))
    plain = Sample("Celery worker", _sums(theirs, ("worker",), ("backend",)))
    rest = (
        sum(value for (who, _), value in resting.items() if who in ("dispatcher", "script"))
        / seconds
    )
    return [
        *figures,
        Figure("of these to the result backend", "commands", backend, (plain,)),
        Figure(
            "inside gpuqueue's scripts per job",
            "commands",
            Sample("no round trips", _sums(ours, ("script",), ("state",))),
        ),
        Figure(
            "a dispatcher at rest (scripts' own included)",
            "commands/s",
            Sample("with the watcher", (rest,)),
        ),
    ]


def _sums(found: list[Found], whose: Sequence[str], parts: Sequence[str]) -> tuple[float, ...]:
    return tuple(
        sum(each.get((who, part), 0.0) for who in whose for part in parts) for each in found
    )


def _count(
    stage: Stage, processes: dict[str, psutil.Process], act: Callable[[], object]
) -> tuple[Found, float]:
    with Ports(processes) as ports, Monitor(stage.url()) as monitor:
        begun = time.monotonic()
        act()
        took = time.monotonic() - begun
    found: Counter[tuple[str, str]] = Counter()
    about = ""
    for each in monitor.commands:
        if each.port:  # commands inside a script follow it and have the same purpose
            about = each.about
        # Every process other than the long-lived ones is an executor.
        found[(ports.owner.get(each.port, "executor") if each.port else "script", about)] += 1
    return {key: float(value) for key, value in found.items()}, took


def _send(app: Celery, stage: Stage, queue: str, jobs: int) -> None:
    for _ in range(jobs):
        app.send_task("bench.noop", (1, "two"), queue=queue).get(timeout=60, interval=0.02)
    if queue == GPU_QUEUE:
        until(lambda: not stage.reader.holders("t4"), "all slots are free", 30, 0.02)
