"""A finish that fails keeps no other from its turn, and is logged once per cause."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from gpuqueue import steps
from gpuqueue.dispatcher import finish as finish_module
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.model.place import NOWHERE
from tests.support.waiting import PATIENCE, until


class Line:
    """Every claim is an answer, or an error."""

    def __init__(self) -> None:
        self.claims: list[str] = []
        self.answer: Callable[[str], Any] = lambda delivery: ("gone", None, None)

    def finish_claim(self, gpu_class: str, delivery: str, *more: Any, **named: Any) -> Any:
        self.claims.append(delivery)
        return self.answer(delivery)


class App:
    """Its result backend cannot be made."""

    @property
    def backend(self) -> Any:
        raise ZeroDivisionError("no backend")


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def finisher(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finisher]:
    monkeypatch.setattr(steps, "EARLIEST", 0.01)
    monkeypatch.setattr(steps, "LATEST", 0.01)
    known: Any = line
    launcher: Any = SimpleNamespace(finishers=1)
    nothing: Any = None
    made = Finisher(known, nothing, nothing, App(), "here", launcher, print)
    yield made
    made.close()


def finish(finisher: Finisher, line: Line, delivery: str, times: int = 1) -> None:
    """Submit a job until it was tried so many times more."""
    target = line.claims.count(delivery) + times

    def tried() -> bool:
        finisher.submit("t4", delivery)
        return line.claims.count(delivery) >= target

    until(tried)


def test_a_result_backend_that_cannot_be_made_does_not_end_the_pool(
    finisher: Finisher, line: Line
) -> None:
    for delivery in ("a", "b", "c"):
        finish(finisher, line, delivery)


def test_a_finish_that_fails_is_logged_once_and_tried_again(
    finisher: Finisher, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(delivery: str) -> Any:
        raise KeyError(delivery)

    line.answer = fail
    finish(finisher, line, "a", 4)
    finish(finisher, line, "b")
    logged = [each.getMessage() for each in caplog.records if "finish" in each.getMessage()]
    until(lambda: len([each for each in caplog.records if "of b" in each.getMessage()]) == 1)
    assert len([each for each in logged if "of a" in each]) == 1


def test_an_outage_is_logged_once_for_all_jobs(
    finisher: Finisher, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    def away(delivery: str) -> Any:
        raise redis.ConnectionError("away")

    line.answer = away
    for delivery in ("a", "b", "c"):
        finish(finisher, line, delivery)
    finisher.close()
    assert len([each for each in caplog.records if "away" in each.getMessage()]) == 1


def test_the_claim_of_a_finish_is_kept_while_its_executor_waits_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    claims: list[tuple[float, float, bool]] = []
    free_at = 0.0

    class Claims:
        """As the script does: a claim reaches from its time on for its lease."""

        def finish_claim(
            self,
            gpu_class: str,
            delivery: str,
            finisher: str,
            lease: float,
            *,
            begins: bool = False,
            hold: Any = None,
        ) -> Any:
            nonlocal free_at
            claims.append((now, lease, begins))
            free_at = max(free_at, now + lease)
            record = {"delivery": delivery, "task": "t", "state": "finishing", "reason": "ERROR"}
            return "ok", record | {"finisher": finisher, "gpu_class": gpu_class}, None

        def record(self, gpu_class: str, delivery: str) -> Any:
            return {"state": "finishing", "finisher": named}

    named = ""

    def wait_for_an_image(record: Any, finisher: str, timeout: float, wanted: Any) -> str:
        nonlocal now, named
        named = finisher
        while now < 900:
            assert now < free_at, "another dispatcher would repeat the finish"
            assert wanted()
            now += 0.5
        return "written"

    known: Any = Claims()
    failed: list[Any] = []
    launcher: Any = SimpleNamespace(finishers=1, finish=wait_for_an_image, site=NOWHERE)
    nothing: Any = None
    made = Finisher(known, known, nothing, App(), "here", launcher, print, lease=15, timeout=30)
    outcomes: Any = SimpleNamespace(failed=lambda *told: failed.append(told), close=lambda: None)
    monkeypatch.setattr(made, "_outcomes", outcomes)
    monkeypatch.setattr(finish_module, "time", SimpleNamespace(monotonic=lambda: now))
    made.submit("t4", "a")
    until(lambda: failed)
    made.close()
    assert [begins for _, _, begins in claims[:2]] == [False, True]
    assert not any(begins for _, _, begins in claims[2:]), "a renewal is no try"
    assert len(claims) - 2 == 900 // 15


def test_a_job_under_way_is_not_finished_twice_at_a_time(finisher: Finisher, line: Line) -> None:
    goes_on = threading.Event()

    def wait(delivery: str) -> Any:
        goes_on.wait(PATIENCE)
        return "gone", None, None

    line.answer = wait
    finisher.submit("t4", "a")
    until(lambda: line.claims == ["a"])
    finisher.submit("t4", "a")
    goes_on.set()
    finisher.close()
    assert line.claims == ["a"]
