"""Submit the jobs as any application would: with plain Celery calls, and ``gpu(...)`` for options.

``python -m examples.digits.submit`` submits only the grid and waits for the best network.
"""

from __future__ import annotations

from celery import chord
from celery.result import AsyncResult

from examples.digits.app import cross_validate, pick_best, read_cropped, train
from gpuqueue import gpu

GRID = [(hidden, rate) for hidden in (16, 32, 64, 128) for rate in (0.001, 0.003, 0.01)]
#: Seconds; far longer than any of these jobs takes, so that none can hang.
LIMIT = 120
#: Priority of the grid: 0 precedes 9, so exclusive jobs need not wait for the whole grid.
BACKGROUND = 5


def send_grid() -> tuple[AsyncResult, dict[str, AsyncResult]]:
    """Train every point of the grid beside others, then pick the best. Return the pick, and label →
    point.
    """
    beside = gpu("t4", isolation="shared", priority=BACKGROUND, time_limit=LIMIT)
    header = [train.s(hidden, rate).set(**beside) for hidden, rate in GRID]
    best = chord(header)(pick_best.s().set(**gpu("t4", isolation="shared", time_limit=LIMIT)))
    labels = [f"grid {hidden}/{rate}" for hidden, rate in GRID]
    return best, dict(zip(labels, best.parent.results, strict=True))


def send_whole_gpu() -> dict[str, AsyncResult]:
    """Send two jobs that need the GPU exclusively. Return label → job."""
    alone = gpu("t4", isolation="exclusive", time_limit=LIMIT)
    return {
        f"cross-validate {hidden}": cross_validate.apply_async((hidden, 0.003), **alone)
        for hidden in (64, 128)
    }


def send_failing() -> AsyncResult:
    """Send a job that fails with a real error."""
    return read_cropped.apply_async(
        **gpu("t4", isolation="shared", priority=BACKGROUND, time_limit=LIMIT)
    )


def send_endless() -> AsyncResult:
    """Send a training that takes hours, to cancel it while it runs."""
    return train.apply_async((128, 0.0001, 1_000_000), **gpu("t4", isolation="shared"))


def send_unneeded() -> AsyncResult:
    """Send the last job in line, to cancel it while it waits."""
    return cross_validate.apply_async(
        (32, 0.003), **gpu("t4", isolation="exclusive", priority=9, time_limit=LIMIT)
    )


if __name__ == "__main__":
    best, points = send_grid()
    print(f"sent {len(points)} trainings; waiting for the best (Ctrl-C leaves them in the queue)")
    answer = best.get(timeout=300)
    print(
        f"best: {answer['hidden']} neurons at rate {answer['rate']}: accuracy"
        f" {answer['accuracy']:.3f} on {answer['device']}"
    )
