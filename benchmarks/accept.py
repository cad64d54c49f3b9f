"""How fast a dispatcher accepts messages.

Measured: messages per second that one dispatcher process keeps, acknowledges and puts in line. N
messages appear in its queue at one instant (RENAME of a prepared list), and the clock stops when N
more jobs wait. An exclusive job runs, so nothing starts. Peer: a plain Celery worker that runs N
empty tasks, with threads and with prefork (2 each); its clock stops when the backend has N results.
All three run during the whole benchmark and take turns. Aim: none; a GPU job runs for seconds or
hours.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.harness import Figure, Sample, Size, alternate, until
from benchmarks.messages import Template, template
from benchmarks.stage import Stage
from gpuqueue.store.client import connect
from gpuqueue.store.keys import class_key

CLASS = "t4"
PREPARED = "bench:prepared"
GPU_QUEUE, EXCLUSIVE_QUEUE = "gpu.t4.shared", "gpu.t4.exclusive"


def run(size: Size) -> list[Figure]:
    """Measure it."""
    count, repeats = size.of(1000, 150), size.of(7, 2)
    with Stage() as stage:
        aside = connect(stage.url(1))
        sender = stage.celery(1, 1)
        made = {name: template(sender, name, aside) for name in (GPU_QUEUE, "threads", "prefork")}
        stage.dispatcher()
        stage.worker("threads", "threads", 2, backend=2)
        stage.worker("prefork", "prefork", 2, backend=3)
        backends = {"threads": connect(stage.url(2)), "prefork": connect(stage.url(3))}
        waiting = class_key(CLASS, "waiting_shared")
        stage.app.send_task("bench.hold", queue=EXCLUSIVE_QUEUE, ignore_result=True)
        until(lambda: stage.reader.holders(CLASS), "the exclusive job has its slot")

        def accepting() -> float:
            target = stage.client.zcard(waiting) + count
            found = _drain(
                stage,
                made[GPU_QUEUE],
                GPU_QUEUE,
                count,
                lambda: stage.client.zcard(waiting) == target,
            )
            assert stage.client.zcard(class_key(CLASS, "holders_exclusive")) == 1, (
                "the exclusive job has lost its slot"
            )
            return found

        def running(queue: str) -> Callable[[], float]:
            def measure() -> float:
                backends[queue].flushdb()
                return _drain(
                    stage, made[queue], queue, count, lambda: backends[queue].dbsize() == count
                )

            return measure

        ours, threads, prefork = alternate(
            repeats, accepting, running("threads"), running("prefork")
        )
        for client in (aside, *backends.values()):
            client.close()
        sender.close()
    peers = (
        Sample("Celery worker, threads, no-op tasks", threads),
        Sample("Celery worker, prefork, no-op tasks", prefork),
    )
    return [
        Figure(
            "messages taken in by a dispatcher",
            "messages/s",
            Sample("kept and in line", ours),
            peers,
        )
    ]


def _drain(stage: Stage, made: Template, queue: str, count: int, done: Callable[[], bool]) -> float:
    wires = made.wires(count)
    stage.client.rpush(PREPARED, *wires)
    begun = time.perf_counter()
    stage.client.rename(PREPARED, queue)
    until(done, f"{count} messages of {queue} are drained", 120)
    return count / (time.perf_counter() - begun)
