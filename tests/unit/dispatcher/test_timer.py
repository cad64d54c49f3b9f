"""Deferred calls run on time and once, and a failing one delays no other."""

from __future__ import annotations

import queue
import threading

from gpuqueue.dispatcher.timer import Later


def test_calls_come_in_the_order_of_their_times() -> None:
    done: queue.Queue[str] = queue.Queue()
    later = Later("test")
    later.call(0.06, lambda: done.put("second"))
    later.call(0.01, lambda: done.put("first"))
    assert [done.get(timeout=5), done.get(timeout=5)] == ["first", "second"]
    later.close()


def test_a_failing_entry_delays_no_other() -> None:
    done = threading.Event()
    later = Later("test")
    later.call(0.0, lambda: 1 // 0)
    later.call(0.01, done.set)
    assert done.wait(5)
    later.close()


def test_what_is_left_at_the_end_is_dropped() -> None:
    done = threading.Event()
    later = Later("test")
    later.call(60, done.set)
    later.close()
    assert not done.is_set()


def test_one_that_was_never_used_has_no_thread_to_end() -> None:
    Later("test").close()
