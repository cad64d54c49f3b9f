"""Deferred calls run on time and once, and a failing one delays no other."""

from __future__ import annotations

import queue
import threading

import pytest

from gpuqueue.dispatcher.timer import Timer
from gpuqueue.telemetry import STEP_FAILURES
from tests.support.waiting import PATIENCE


def test_calls_come_in_the_order_of_their_times() -> None:
    done: queue.Queue[str] = queue.Queue()
    timer = Timer("test", "later")
    timer.call(0.06, lambda: done.put("second"))
    timer.call(0.01, lambda: done.put("first"))
    assert [done.get(timeout=PATIENCE), done.get(timeout=PATIENCE)] == ["first", "second"]
    timer.close()


def test_a_failing_entry_delays_no_other() -> None:
    done = threading.Event()
    timer = Timer("test", "later")

    def fail() -> None:
        raise ZeroDivisionError

    timer.call(0.0, fail)
    timer.call(0.01, done.set)
    assert done.wait(PATIENCE)
    timer.close()


def test_what_is_left_at_the_end_is_dropped() -> None:
    done = threading.Event()
    timer = Timer("test", "later")
    timer.call(60, done.set)
    timer.close()
    assert not done.is_set()


def test_one_that_was_never_used_has_no_thread_to_end() -> None:
    Timer("test", "later").close()


def test_a_cause_is_logged_once_for_each_job_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done, before = threading.Event(), STEP_FAILURES.labels("later")._value.get()
    timer = Timer("test", "later")

    def fail() -> None:
        raise ZeroDivisionError("broken")

    for job in ("a", "b", "a", "b", "a"):
        timer.call(0.0, fail, job)
    timer.call(0.05, done.set)
    assert done.wait(PATIENCE)
    timer.close()
    assert STEP_FAILURES.labels("later")._value.get() == before + 5
    assert [each.getMessage().partition(" failed")[0] for each in caplog.records] == [
        "step 'later' of a",
        "step 'later' of b",
    ]
