"""How fast a dispatcher accepts messages.

Measured: messages per second that one dispatcher process keeps, acknowledges and puts in line. N
messages appear in its queue at one instant (RENAME of a prepared list), and the clock stops when N
more jobs wait. An exclusive job runs, so nothing starts. The same with `expires`, with `eta` (N
more jobs are delayed), and while the result backend, another Redis, does not answer. Peer: a plain
Celery worker that runs N empty tasks, with threads and with prefork (2 each); its clock stops when
the backend has N results. All run during the whole benchmark and take turns. Aim: with `expires`,
and without the result backend, at least 0.9 of the plain rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import psutil

from benchmarks.harness import Figure, Sample, Size, alternate, ratio, until
from benchmarks.messages import Template, template
from benchmarks.stage import Stage
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.keys import class_key

CLASS = "t4"
#: Aim: this part of the plain rate.
LEAST = 0.9
PREPARED = "bench:prepared"
GPU_QUEUE, EXCLUSIVE_QUEUE = "gpu.t4.shared", "gpu.t4.exclusive"


def run(size: Size) -> list[Figure]:
    """Measure it."""
    count, repeats = size.of(1000, 150), size.of(7, 2)
    with Stage() as stage, EmbeddedRedis(stage.directory / "results") as results:
        aside = connect(stage.url(1))
        sender = stage.celery(1, 1)
        made = {name: template(sender, name, aside) for name in (GPU_QUEUE, "threads", "prefork")}
        later = [(datetime.now(UTC) + timedelta(days=days)).isoformat() for days in (1, 2)]
        expiring = template(sender, GPU_QUEUE, aside, expires=later[1])
        delayed = template(sender, GPU_QUEUE, aside, eta=later[0])
        stage.dispatcher(CELERY_RESULT_BACKEND=results.url)
        stage.worker("threads", "threads", 2, backend=2)
        stage.worker("prefork", "prefork", 2, backend=3)
        backends = {"threads": connect(stage.url(2)), "prefork": connect(stage.url(3))}
        stage.app.send_task("bench.hold", queue=EXCLUSIVE_QUEUE, ignore_result=True)
        until(lambda: stage.reader.holders(CLASS), "the exclusive job has its slot")

        def accepting(made: Template, line: str = "waiting_shared") -> float:
            key = class_key(CLASS, line)
            target = stage.client.zcard(key) + count
            found = _drain(stage, made, GPU_QUEUE, count, lambda: stage.client.zcard(key) == target)
            assert stage.client.zcard(class_key(CLASS, "holders_exclusive")) == 1, (
                "the exclusive job has lost its slot"
            )
            return found

        def without_results() -> float:
            process = psutil.Process(results.pid)
            process.suspend()
            try:
                return accepting(made[GPU_QUEUE])
            finally:
                process.resume()

        def running(queue: str) -> Callable[[], float]:
            def measure() -> float:
                backends[queue].flushdb()
                return _drain(
                    stage, made[queue], queue, count, lambda: backends[queue].dbsize() == count
                )

            return measure

        ours, expire, delay, away, threads, prefork = alternate(
            repeats,
            partial(accepting, made[GPU_QUEUE]),
            partial(accepting, expiring),
            partial(accepting, delayed, "delayed"),
            without_results,
            running("threads"),
            running("prefork"),
        )
        for client in (aside, *backends.values()):
            client.close()
        sender.close()
    plain = Sample("kept and in line", ours)
    peers = (
        Sample("Celery worker, threads, no-op tasks", threads),
        Sample("Celery worker, prefork, no-op tasks", prefork),
    )
    return [
        Figure("messages taken in by a dispatcher", "messages/s", plain, peers),
        _beside("with expires", expire, plain),
        Figure("with eta", "messages/s", Sample("kept until then", delay), (plain,)),
        _beside("while the result backend hangs", away, plain),
    ]


def _beside(name: str, values: tuple[float, ...], plain: Sample) -> Figure:
    ours = Sample("kept and in line", values)
    found = ratio(ours, plain)
    met = found is not None and found >= LEAST
    return Figure(name, "messages/s", ours, (plain,), aim=f"≥ {LEAST} of it", met=met)


def _drain(stage: Stage, made: Template, queue: str, count: int, done: Callable[[], bool]) -> float:
    wires = made.wires(count)
    stage.client.rpush(PREPARED, *wires)
    begun = time.perf_counter()
    stage.client.rename(PREPARED, queue)
    until(done, f"{count} messages of {queue} are drained", 120)
    return count / (time.perf_counter() - begun)
