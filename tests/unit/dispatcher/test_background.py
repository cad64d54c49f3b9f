"""The queue beside the path: bounded, and no caller waits for its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gpuqueue.dispatcher import background
from gpuqueue.dispatcher.background import BackgroundQueue
from tests.support.waiting import PATIENCE, until


class Away(ConnectionError):
    pass


class Desk:
    """What a queue writes to: it may be away, hang, or refuse an item."""

    def __init__(self, limit: int = 10) -> None:
        self.written: list[str] = []
        self.writes = 0
        self.lost = 0
        self.away = False
        self.refused = ""
        self.open = threading.Event()
        self.open.set()
        self.queue: BackgroundQueue[str] = BackgroundQueue(
            "desk", self._write, lambda exc: isinstance(exc, Away), self._lose, limit
        )

    def _lose(self, number: int) -> None:
        self.lost += number

    def _write(self, items: list[str]) -> None:
        self.writes += 1
        self.open.wait(PATIENCE)
        if self.away:
            raise Away("no answer")
        if self.refused in items:
            raise ValueError("no")
        self.written += items

    def wrote(self, *items: str) -> None:
        until(lambda: self.written == list(items), PATIENCE, f"{items}", lambda: str(self.written))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(background, "EARLIEST", 0.02)
    monkeypatch.setattr(background, "LATEST", 0.05)
    made = Desk()
    yield made
    made.open.set()
    made.queue.close()


def hang(desk: Desk) -> None:
    """Have the thread hang in a write."""
    desk.open.clear()
    before = desk.writes
    desk.queue.put("hanging", "hanging")
    until(lambda: desk.writes > before)


def took(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_items_are_written_in_order(desk: Desk) -> None:
    for name in "abc":
        desk.queue.put(name, name)
    desk.wrote(*"abc")


def test_a_later_item_replaces_the_waiting_one_of_its_key(desk: Desk) -> None:
    hang(desk)
    desk.queue.put("a", "old")
    desk.queue.put("b", "b")
    desk.queue.put("a", "new")
    desk.open.set()
    desk.wrote("hanging", "b", "new")
    assert desk.lost == 0


def test_a_full_queue_drops_its_oldest_items_and_counts_them(desk: Desk) -> None:
    hang(desk)
    for number in range(25):
        desk.queue.put(number, str(number))
    assert (len(desk.queue), desk.lost) == (10, 15)
    desk.open.set()
    desk.wrote("hanging", *map(str, range(15, 25)))


def test_no_caller_waits_for_a_write_that_hangs(desk: Desk) -> None:
    hang(desk)

    def put() -> None:
        for number in range(1000):
            desk.queue.put(number, str(number))

    assert took(put) < 1


def test_items_wait_for_the_end_of_an_outage(desk: Desk) -> None:
    desk.away = True
    desk.queue.put("a", "a")
    until(lambda: desk.writes >= 3)
    desk.queue.put("b", "b")
    desk.away = False
    desk.wrote("a", "b")
    assert desk.lost == 0


def test_an_outage_overflows_with_its_oldest_items(desk: Desk) -> None:
    desk.away = True
    for number in range(30):
        desk.queue.put(number, str(number))
    until(lambda: desk.writes >= 3)
    until(lambda: len(desk.queue) == 10 and desk.lost == 20)
    desk.away = False
    desk.wrote(*map(str, range(20, 30)))


def test_one_refused_item_does_not_cost_the_others(desk: Desk) -> None:
    desk.refused = "b"
    hang(desk)
    for name in "abc":
        desk.queue.put(name, name)
    desk.open.set()
    desk.wrote("hanging", "a", "c")
    assert desk.lost == 1


def test_an_item_is_not_written_before_its_time(desk: Desk) -> None:
    desk.queue.put("late", "late", 0.2)
    desk.queue.put("soon", "soon")
    desk.wrote("soon")
    assert took(lambda: desk.wrote("soon", "late")) > 0.1


def test_close_writes_what_waits(desk: Desk) -> None:
    desk.queue.put("a", "a", 60)
    desk.queue.close()
    assert desk.written == ["a"]


def test_close_does_not_wait_for_a_write_that_hangs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "LAST_WRITE", 0.1)
    hang(desk)
    assert took(desk.queue.close) < 1


def test_an_item_of_a_closed_queue_waits_for_nothing(desk: Desk) -> None:
    desk.queue.close()
    desk.queue.put("a", "a")
    assert took(desk.queue.close) < 1


def test_a_thread_that_cannot_prepare_itself_writes_all_the_same() -> None:
    written: list[str] = []

    def begin() -> None:
        raise ZeroDivisionError

    beside: BackgroundQueue[str] = BackgroundQueue(
        "desk", written.extend, lambda exc: False, int, begin=begin
    )
    beside.put(1, "a")
    until(lambda: written == ["a"])
    beside.close()


def test_items_lost_for_one_cause_are_logged_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.refused = "bad"
    for number in range(5):
        desk.queue.put(number, "bad")
    desk.queue.put("good", "good")
    desk.wrote("good")
    assert desk.lost == 5
    assert len([each for each in caplog.records if "ValueError: no" in each.getMessage()]) == 1
