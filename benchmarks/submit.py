"""What submitting to a GPU queue costs a caller.

Measured: calls of ``apply_async`` per second in one process, with a Redis broker and result
backend, to ``gpu.t4.shared`` and with ``**gpu("t4", ...)``. The queues have no consumers; the lists
are emptied between turns. Peer: ``apply_async`` of the same task to a CPU queue.

Floor: one bare LPUSH of the same message with redis-py.

Aim: at least 0.95 of plain Celery.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.app import noop
from benchmarks.harness import Figure, Sample, Size, alternate, rate, ratio
from benchmarks.stage import Stage
from gpuqueue import gpu

AIM = 0.95
QUEUES = ("cpu", "gpu.t4.shared", "gpu.t4.exclusive", "bare")


def run(size: Size) -> list[Figure]:
    """Measure it."""
    calls, repeats = size.of(400, 100), size.of(15, 7)
    with Stage() as stage:
        task = stage.app.task(noop.run, name="bench.noop")

        def submitting(step: Callable[[], object]) -> Callable[[], float]:
            def measure() -> float:
                found = rate(calls, step)
                stage.client.delete(*QUEUES)
                return found

            return measure

        task.apply_async((1, "two"), queue="bare")
        wire = stage.client.rpop("bare")
        assert isinstance(wire, str)
        plain, routed, asked, bare = alternate(
            repeats,
            submitting(lambda: task.apply_async((1, "two"), queue="cpu")),
            submitting(lambda: task.apply_async((1, "two"), queue="gpu.t4.shared")),
            submitting(
                lambda: task.apply_async(
                    (1, "two"), **gpu("t4", isolation="shared", memory="9GiB", tenant="vision")
                )
            ),
            submitting(lambda: stage.client.lpush("bare", wire)),
        )
    peer, floor = Sample("apply_async to a CPU queue", plain), Sample("bare LPUSH", bare)
    return [
        _figure("apply_async to gpu.t4.shared", Sample("queue named", routed), peer, floor),
        _figure(
            'apply_async with **gpu("t4", ...)', Sample("options made by gpu()", asked), peer, floor
        ),
    ]


def _figure(name: str, ours: Sample, peer: Sample, floor: Sample) -> Figure:
    met = (ratio(ours, peer) or 0) >= AIM
    return Figure(name, "calls/s", ours, (peer,), floor, f"ratio ≥ {AIM}", met)
