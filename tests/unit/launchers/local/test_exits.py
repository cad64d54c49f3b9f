"""The end of each process is reported by itself: no error ends the watching thread."""

from __future__ import annotations

import errno
import logging
import os
import queue
import sys
from collections.abc import Iterator

import psutil
import pytest

from gpuqueue import steps
from gpuqueue.launchers.local import exits as module
from gpuqueue.launchers.local.exits import TRIES, Exits
from gpuqueue.telemetry import STEP_FAILURES
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exits]:
    monkeypatch.setattr(steps, "EARLIEST", 0.01)
    monkeypatch.setattr(steps, "LATEST", 0.01)
    exits = Exits()
    yield exits
    exits.close()


def process(code: int = 0) -> int:
    command = [sys.executable, "-S", "-c", f"raise SystemExit({code})"]
    return os.posix_spawn(sys.executable, command, os.environ, setsid=True)


def status(exits: Exits, code: int) -> int | None:
    """The reported status of a process that exits with a code."""
    found: queue.Queue[int | None] = queue.Queue()
    exits.watch(process(code), found.put)
    return found.get(timeout=20)


def failures(step: str) -> float:
    counter: float = STEP_FAILURES.labels(step)._value.get()
    return counter


@pytest.mark.parametrize("broken", ["_end_group", "_group_is_gone"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "no file"), psutil.AccessDenied(1), ChildProcessError()],
    ids=["no file", "denied", "no child"],
)
def test_an_end_that_cannot_be_read_at_first_is_reported(
    exits: Exits, monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception
) -> None:
    right, errors, before = getattr(module, broken), [error, error], failures("exit")

    def read(pid: int) -> object:
        if errors:
            raise errors.pop()
        return right(pid)

    monkeypatch.setattr(module, broken, read)
    assert status(exits, 3) == 3
    assert failures("exit") == before + 2


def test_the_thread_outlives_an_error_of_its_wait(
    exits: Exits, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, errors, before = exits._wait, [OSError("no"), ValueError("no")], failures("exits")

    def wait() -> None:
        if errors:
            raise errors.pop()
        right()

    monkeypatch.setattr(exits, "_wait", wait)
    exits._wake()
    assert status(exits, 4) == 4
    assert failures("exits") == before + 2 and exits._thread.is_alive()


def test_a_callback_that_fails_is_called_again_with_the_status(exits: Exits) -> None:
    statuses: queue.Queue[int | None] = queue.Queue()

    def handle(code: int | None) -> None:
        statuses.put(code)
        if statuses.qsize() < 2:
            raise ZeroDivisionError

    exits.watch(process(5), handle)
    until(lambda: statuses.qsize() == 2, what="the second call")
    assert [statuses.get(), statuses.get()] == [5, 5]


def test_a_callback_that_always_fails_is_left_and_logged_once_per_cause(
    exits: Exits, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int | None] = []

    def handle(code: int | None) -> None:
        calls.append(code)
        raise ZeroDivisionError("broken")

    with caplog.at_level(logging.ERROR):
        exits.watch(process(), handle)
        until(lambda: "the watcher repairs it" in caplog.text, what="the last try")
    assert calls == [0] * TRIES
    assert [each.exc_info is not None for each in caplog.records] == [True, False]
    assert status(exits, 6) == 6


def test_processes_are_polled_where_there_are_no_pidfds(
    exits: Exits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    right, errors = module._runs, [psutil.AccessDenied(1)]

    def runs(pid: int) -> bool:
        if errors:
            raise errors.pop()
        return right(pid)

    monkeypatch.setattr(module, "_runs", runs)
    assert status(exits, 7) == 7


def test_a_process_that_is_gone_already_is_reported_without_a_status(exits: Exits) -> None:
    gone = process()
    os.waitpid(gone, 0)
    found: queue.Queue[int | None] = queue.Queue()
    exits.watch(gone, found.put)
    assert found.get(timeout=20) is None
