"""How many Redis commands one real job takes, and whose they are.

Measured: with MONITOR, all commands of N jobs that do nothing, run one after the other by one dispatcher process and real
executors; told apart by the connection they came on (caller, dispatcher, executor) and by what they are about (gpuqueue's state,
the result backend, broker and events, setting a connection up). What a dispatcher sends while idle (its watcher, its polling) is
measured first and taken off by time. A script is one command; those it runs inside Redis cost no round trip and stand apart.
Peer: the same task on a plain Celery worker (threads), measured in the same way, in turns.
Aim: none; each executor is a new process, and pays for its own connections.
"""

from __future__ import annotations

import time
from collections import Counter

import psutil
from celery import Celery

from benchmarks.harness import Figure, Sample, Size, until
from benchmarks.monitor import Monitor, Ports
from benchmarks.stage import Stage

GPU_QUEUE = "gpu.t4.shared"
PARTS = ("state", "backend", "broker", "connection")


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
        quiet = {key: found / seconds for key, found in resting.items()}
        ours: list[Counter[tuple[str, str]]] = []
        theirs: list[Counter[tuple[str, str]]] = []
        for _ in range(repeats):
            for queue, kept in ((GPU_QUEUE, ours), ("cpu", theirs)):
                found, took = _count(stage, processes, lambda queue=queue: _send(stage.app, stage, queue, jobs))
                kept.append(Counter({key: (value - quiet.get(key, 0) * took) / jobs for key, value in found.items()}))
    everything = [(who, part) for who in ("dispatcher", "executor") for part in PARTS]
    sent = Sample("dispatcher and executor", _sums(ours, everything))
    plain = Sample("plain Celery worker", _sums(theirs, [("worker", part) for part in PARTS]))
    figures = [Figure("Redis commands per real job", "commands", sent, (plain,))]
    for who in ("dispatcher", "executor"):
        parts = [(who, part) for part in PARTS]
        said = ", ".join(f"{part} {Sample('', _sums(ours, [(who, part)])).middle:.1f}" for part in PARTS)
        figures.append(Figure(f"of these the {who}'s", "commands", Sample(said, _sums(ours, parts))))
    backend = Sample("dispatcher and executor", _sums(ours, [(who, "backend") for who in ("dispatcher", "executor")]))
    plain_backend = Sample("plain Celery worker", _sums(theirs, [("worker", "backend")]))
    inside = Sample("no round trips", _sums(ours, [("script", part) for part in PARTS]))
    resting_rate = sum(value for (who, _), value in quiet.items() if who in ("dispatcher", "script"))
    return [
        *figures,
        Figure("of these to the result backend", "commands", backend, (plain_backend,)),
        Figure("commands inside gpuqueue's scripts per job", "commands", inside),
        Figure("a dispatcher at rest (scripts' own included)", "commands/s", Sample("with the watcher", (resting_rate,))),
    ]


def _sums(found: list[Counter[tuple[str, str]]], keys: list[tuple[str, str]]) -> tuple[float, ...]:
    return tuple(max(0.0, sum(each[key] for key in keys)) for each in found)


def _count(stage: Stage, processes: dict[str, psutil.Process], act: object) -> tuple[Counter[tuple[str, str]], float]:
    assert callable(act)
    with Ports(processes) as ports, Monitor(stage.url()) as monitor:
        begun = time.monotonic()
        act()
        took = time.monotonic() - begun
    # Whoever is none of the long-lived processes is an executor.
    owners = [(ports.owner.get(each.port, "executor") if each.port else "script", each.about) for each in monitor.commands]
    return Counter(owners), took


def _send(app: Celery, stage: Stage, queue: str, jobs: int) -> None:
    for _ in range(jobs):
        app.send_task("bench.noop", (1, "two"), queue=queue).get(timeout=60, interval=0.02)
    if queue == GPU_QUEUE:
        until(lambda: not stage.reader.holders("t4"), "all slots are free", 30, 0.02)
