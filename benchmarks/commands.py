"""How many Redis commands one real job needs, and what each is for.

Measured: with MONITOR, all commands of N empty jobs that one dispatcher process and real executors
run one after the other. The benchmark separates commands by connection (dispatcher, executor) and
by purpose (state of gpuqueue, result backend, broker and events, connection setup). A call of a
script is one command, as is the one with which a dispatcher takes messages or reports them.
Commands inside a script cost no round trip: they are listed separately and belong to no aim. Once
more with a dispatcher of 21 classes, 20 of them idle. At rest: all commands that a dispatcher with
its watcher sends in some seconds without jobs, and those inside its scripts. Excluded from a job,
because no job causes them: heartbeats, and cycles of the watcher.
Peer: the same task on a plain Celery worker (threads), counted the same way, in turns. Aim: at most
22 commands per job, as many inside scripts with 21 classes as with one plus 20, and at most 15
commands per second at rest.
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
#: Aims; see above.
MOST_SENT, MOST_AT_REST = 22, 15
#: Classes without jobs, each with two queues.
IDLE_CLASSES = 20
INSIDE = ("script",)
PARTS = ("state", "backend", "broker", "connection")
Found = dict[tuple[str, str], float]
"""(whose, what about) → commands."""


def run(size: Size) -> list[Figure]:
    """Measure it."""
    idle = size.of(10, 4)
    with Stage() as stage:
        dispatcher = stage.dispatcher()
        peer = stage.worker("cpu", "threads", 2)
        processes = {"dispatcher": dispatcher, "worker": peer, "caller": psutil.Process()}
        _send(stage.app, stage, "cpu", 1)
        _send(stage.app, stage, GPU_QUEUE, 1)
        # What follows a job is over: states and events are written beside its way.
        time.sleep(2)
        resting, seconds = _count(stage, processes, lambda: time.sleep(idle))
        ours, theirs = _jobs(size, stage, processes, (GPU_QUEUE, "cpu"))
    [many] = _with_idle_classes(size)
    both = ("dispatcher", "executor")
    sent = Sample("dispatcher and executor", _sums(ours, both, PARTS))
    figures = [
        Figure(
            "Redis commands per real job",
            "commands",
            sent,
            (Sample("Celery worker", _sums(theirs, ("worker",), PARTS)),),
            aim=f"≤ {MOST_SENT}",
            met=sent.middle <= MOST_SENT,
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
    inside = Sample("no round trips", _sums(ours, INSIDE, ("state",)))
    beside = Sample("no round trips", _sums(many, INSIDE, ("state",)))
    resting_sent = (
        sum(value for (who, _), value in resting.items() if who == "dispatcher") / seconds
    )
    resting_inside = sum(value for (who, _), value in resting.items() if who in INSIDE) / seconds
    return [
        *figures,
        Figure("of these to the result backend", "commands", backend, (plain,)),
        Figure("inside gpuqueue's scripts per job", "commands", inside),
        Figure(
            f"the same beside {IDLE_CLASSES} idle classes",
            "commands",
            beside,
            aim=f"≤ {IDLE_CLASSES} more",
            met=beside.middle <= inside.middle + IDLE_CLASSES,
        ),
        Figure(
            "a dispatcher at rest",
            "commands/s",
            Sample("with the watcher", (resting_sent,)),
            aim=f"≤ {MOST_AT_REST}/s",
            met=resting_sent <= MOST_AT_REST,
        ),
        Figure(
            "inside its scripts at rest", "commands/s", Sample("no round trips", (resting_inside,))
        ),
    ]


def _jobs(
    size: Size, stage: Stage, processes: dict[str, psutil.Process], queues: Sequence[str]
) -> list[list[Found]]:
    """Count the commands of a job of each queue, in turns."""
    jobs, repeats = size.of(5, 2), size.of(3, 2)
    kept: list[list[Found]] = [[] for _ in queues]
    for _ in range(repeats):
        for queue, each in zip(queues, kept, strict=True):
            found, _ = _count(stage, processes, partial(_send, stage.app, stage, queue, jobs))
            each.append({key: value / jobs for key, value in found.items()})
    return kept


def _with_idle_classes(size: Size) -> list[list[Found]]:
    with Stage() as stage:
        classes = stage.directory / "classes.toml"
        names = [f"idle{number}" for number in range(IDLE_CLASSES)]
        classes.write_text(
            "".join(
                f"[classes.{name}]\nresource = 'nvidia.com/{name}'\n"
                "shared_slots = 1\nexclusive_slots = 1\n"
                for name in names
            )
        )
        queues = [f"gpu.{name}.{kind}" for name in names for kind in ("shared", "exclusive")]
        dispatcher = stage.dispatcher(GPU_QUEUE, *queues, GPUQUEUE_CLASSES_FILE=str(classes))
        processes = {"dispatcher": dispatcher, "caller": psutil.Process()}
        _send(stage.app, stage, GPU_QUEUE, 1)
        return _jobs(size, stage, processes, (GPU_QUEUE,))


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
