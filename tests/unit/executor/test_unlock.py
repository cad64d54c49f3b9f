"""How an unlock waits for its header in one process: with the pauses and the bounds of Celery."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery, Task
from celery.exceptions import MaxRetriesExceededError, Retry

from gpuqueue.executor import unlock
from gpuqueue.model.names import CHORDS, UNLOCK
from gpuqueue.model.record import Record


class Bench:
    """An unlock whose header is ready after some looks, with a clock that pauses move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed, self.looks, self.ready_after = 100.0, 0, 10**6
        self.waiting = False
        self.pauses: list[float] = []
        self.sent: list[int] = []
        self.options: dict[str, Any] = {"countdown": 1.0}
        self.app = Celery("unlocks", broker="memory://", set_as_current=False)
        monkeypatch.setattr(time, "monotonic", lambda: self.elapsed)
        monkeypatch.setattr(time, "sleep", self._sleep)

        @self.app.task(bind=True, shared=False, max_retries=None)  # type: ignore[untyped-decorator]
        def task(own: Task) -> str:
            self.looks += 1
            if self.looks >= self.ready_after:
                return "ready"
            try:
                raise own.retry(**self.options)
            except Retry:
                raise
            except Exception as exc:  # as Celery's unlock has it
                raise ValueError("the chord has failed") from exc

        self.task = task
        monkeypatch.setattr(task, "apply_async", None)
        monkeypatch.setattr(
            task, "signature_from_request", lambda *_, retries, **__: _Sent(self.sent, retries)
        )

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.elapsed += seconds

    def run(self, seconds: float = 60.0, retries: int = 0) -> Any:
        self.task.push_request(id="u", retries=retries, called_directly=False)
        try:
            return unlock.patient(self.task, self.task.run, seconds, lambda: self.waiting)()
        finally:
            self.task.pop_request()


class _Sent:
    """The message of a retry."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}

    def __init__(self, sent: list[int], retries: int) -> None:
        self._sent, self._retries = sent, retries

    def apply_async(self) -> None:
        self._sent.append(self._retries)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_it_looks_again_after_each_pause(bench: Bench) -> None:
    bench.ready_after = 4
    assert bench.run() == "ready"
    assert (bench.pauses, bench.sent) == ([1.0] * 3, [])


def test_it_is_retried_when_its_time_is_over(bench: Bench) -> None:
    with pytest.raises(Retry):
        bench.run(seconds=3.5)
    assert (bench.looks, bench.sent) == (4, [4])


def test_it_is_retried_after_a_turn_while_others_wait_for_a_slot(bench: Bench) -> None:
    bench.waiting = True
    bench.options["countdown"] = 0.25
    with pytest.raises(Retry):
        bench.run()
    assert (bench.pauses, bench.sent) == ([0.25] * 4, [5])


def test_a_pause_beyond_its_time_is_a_retry(bench: Bench) -> None:
    bench.options["countdown"] = 61
    with pytest.raises(Retry):
        bench.run()
    assert (bench.pauses, bench.sent) == ([], [1])


def test_looks_count_as_retries(bench: Bench) -> None:
    bench.options["max_retries"] = 5
    with pytest.raises(ValueError, match="the chord has failed") as caught:
        bench.run(retries=2)
    assert isinstance(caught.value.__cause__, MaxRetriesExceededError)
    assert (bench.looks, bench.sent) == (4, [])


def test_the_task_retries_as_before_afterwards(bench: Bench) -> None:
    bench.ready_after = 2
    bench.run()
    assert "retry" not in vars(bench.task)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [((None, None), 60.0), ((300, None), 60.0), ((30, 20), 10.0), ((None, 8), 4.0)],
)
def test_half_of_a_time_limit_bounds_its_patience(
    limits: tuple[float | None, float | None], seconds: float
) -> None:
    assert unlock.patience(limits) == seconds


def test_an_unlock_with_a_gpu_is_not_patient() -> None:
    with_gpu: Record = {"gpu_class": "t4", "task": UNLOCK}
    without: Record = {"gpu_class": CHORDS, "task": UNLOCK}
    assert not unlock.is_unlock(with_gpu)
    assert unlock.is_unlock(without)
