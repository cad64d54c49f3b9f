"""A step that fails is told once, waits, and keeps no other step from its turn."""

from __future__ import annotations

import logging

import pytest

from gpuqueue import steps as module
from gpuqueue.steps import AGAIN, EARLIEST, LASTING, LATEST, MOST, Steps
from gpuqueue.telemetry import STEP_FAILURES


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """A loop with steps that fail on demand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.steps = Steps(lambda exc: isinstance(exc, ConnectionError), self.clock)
        self.error: Exception | None = None
        self.ran = 0

    def act(self) -> str:
        self.ran += 1
        if self.error:
            raise self.error
        return "done"

    def run(self, step: str = "stop", where: str = "", job: str = "") -> str:
        return self.steps.run(step, self.act, "failed", where=where, job=job)

    def turns(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            self.run()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def counted(step: str) -> float:
    return STEP_FAILURES.labels(step)._value.get()  # type: ignore[no-any-return]


def test_a_step_that_fails_is_counted_and_keeps_no_other(loop: Loop) -> None:
    before = counted("stop"), counted("repair")
    loop.error = ValueError("odd")
    assert loop.run("stop", where="t4") == "failed"
    loop.error = None
    assert loop.run("stop", where="a100") == loop.run("repair", where="t4") == "done"
    assert (counted("stop"), counted("repair")) == (before[0] + 1, before[1])


def test_a_step_that_fails_waits_ever_longer(loop: Loop) -> None:
    loop.error = ValueError("odd")
    loop.turns(20)
    assert loop.ran == 5  # after 0, 1, 3, 7, 15 s
    loop.turns(600)
    assert loop.ran <= 5 + 600 / LATEST + 2
    assert EARLIEST == 1.0


def test_one_cause_is_logged_once_and_again_after_a_while(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, module.__name__)
    loop.error = ValueError("odd")
    loop.turns(int(AGAIN) - 100)
    assert [each.message for each in caplog.records] == [
        "step 'stop' failed; the other steps go on: ValueError: odd"
    ]
    loop.turns(200)
    assert len(caplog.records) == 2
    loop.error = ValueError("another cause")
    loop.turns(int(LATEST) + 1)
    assert "another cause" in caplog.records[-1].message
    loop.error = None
    loop.turns(int(LATEST) + 1)
    assert "works again after" in caplog.records[-1].message
    assert len(caplog.records) == 4
    loop.turns(10)
    assert len(caplog.records) == 4


def test_an_error_that_concerns_all_steps_ends_the_turn_without_a_line(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("stop")
    loop.error = ConnectionError("away")
    with pytest.raises(ConnectionError):
        loop.run()
    assert (counted("stop"), caplog.records, loop.steps.trouble()) == (before, [], "")


def test_a_step_that_fails_for_long_is_trouble_and_a_job_is_not(loop: Loop) -> None:
    loop.error = ValueError("odd")
    loop.run("repair", job="a#1")
    loop.clock.now += 2 * LASTING
    loop.run("repair", job="a#1")
    assert loop.steps.trouble() == ""
    loop.run("class", where="t4")
    assert loop.steps.trouble() == ""
    loop.clock.now += LASTING
    loop.run("class", where="t4")
    assert loop.steps.trouble() == "step 'class' of class t4 has failed for 60 s: ValueError: odd"
    loop.error, loop.clock.now = None, loop.clock.now + LATEST
    loop.run("class", where="t4")
    assert loop.steps.trouble() == ""


def test_failures_of_any_number_of_jobs_take_bounded_memory(loop: Loop) -> None:
    for number in range(MOST + 50):
        loop.error = ValueError("x" * 100_000)
        loop.run("stop", job=f"job-{number}")
    assert len(loop.steps._failures) == MOST
    assert max(len(each.cause) for each in loop.steps._failures.values()) <= module.LONGEST
