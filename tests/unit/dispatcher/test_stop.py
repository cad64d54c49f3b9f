"""Attempts that must stop get each signal once, and KILL after the grace period."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.launchers.base import Launcher, LauncherUnavailable, StopRefused
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.reader import Reader

GRACE = 10.0
ONE = Attempt("t4", "a", 1)


class Fake:
    """A reader with one record, and a launcher that keeps the signals."""

    owner = "here"

    def __init__(self, **fields: Any) -> None:
        self.kept: Record | None = cast(
            Record,
            {"attempt": 1, "instance": "ns/job", "owner": self.owner, "state": "running"} | fields,
        )
        self.sent: list[tuple[str, str]] = []
        self.away = False
        self.stopper = Stopper(cast(Reader, self), cast(Launcher, self), GRACE)

    def record(self, gpu_class: str, delivery: str) -> Record | None:
        return self.kept

    def stop(self, instance: str, signal: str) -> bool:
        if self.away:
            raise LauncherUnavailable("no answer")
        self.sent.append((instance, signal))
        return True

    def turn(self, after: float = 0.0) -> list[str]:
        """Stop the attempt; return the signals so far."""
        self.stopper.stop("t4", [(ONE, 100.0)], 100.0 + after)
        return [signal for _, signal in self.sent]


def test_a_signal_is_sent_once() -> None:
    fake = Fake(cancel="INT")
    assert (fake.turn(), fake.turn(1)) == (["INT"], ["INT"])


def test_an_attempt_that_outlives_its_grace_is_killed() -> None:
    fake = Fake()
    assert fake.turn() == ["TERM"]
    assert fake.turn(GRACE + 1) == fake.turn(GRACE + 2) == ["TERM", "KILL"]


def test_a_hard_limit_kills_at_once() -> None:
    assert Fake(timed_out="run").turn() == ["KILL"]


def test_a_process_that_has_reported_and_stays_is_killed_at_once() -> None:
    assert Fake(state="ended").turn() == ["KILL"]


def test_a_new_leader_sends_all_signals_again() -> None:
    fake = Fake()
    fake.turn()
    fake.stopper.forget()
    assert fake.turn(1) == ["TERM", "TERM"]


@pytest.mark.parametrize("fields", [{"attempt": 2}, {"instance": None}, {"owner": "another"}])
def test_only_a_current_attempt_of_this_owner_is_signalled(fields: dict[str, Any]) -> None:
    assert Fake(**fields).turn() == []


def test_an_attempt_without_a_record_is_not_signalled() -> None:
    fake = Fake()
    fake.kept = None
    assert fake.turn() == []


def test_an_unavailable_launcher_gets_the_signal_in_the_next_cycle() -> None:
    fake = Fake()
    fake.away = True
    assert fake.turn() == []
    fake.away = False
    assert fake.turn(1) == ["TERM"]


def test_a_signal_that_is_refused_is_sent_again_and_stops_no_other() -> None:
    fake, refused = Fake(), {"0"}
    both = [(Attempt("t4", name, 1), 100.0) for name in ("0", "1")]

    def record(gpu_class: str, delivery: str) -> Record:
        return cast(Record, {**(fake.kept or {}), "instance": delivery})

    def stop(instance: str, signal: str) -> bool:
        if instance in refused:
            raise StopRefused("a policy")
        fake.sent.append((instance, signal))
        return True

    fake.record, fake.stop = record, stop  # type: ignore[method-assign]
    for _ in range(2):
        fake.stopper.stop("t4", both, 100.0)
    assert fake.sent == [("1", "TERM")]
    refused.clear()
    fake.stopper.stop("t4", both, 100.0)
    assert fake.sent == [("1", "TERM"), ("0", "TERM")]


def test_a_turn_of_slow_answers_leaves_the_others_to_the_next() -> None:
    fake, now = Fake(), 0.0
    many = [(Attempt("t4", str(number), 1), 100.0) for number in range(20)]

    def slow(instance: str, signal: str) -> bool:
        nonlocal now
        now += 1.0
        fake.sent.append((instance, signal))
        return True

    fake.stop = slow  # type: ignore[method-assign]
    fake.stopper.clock = lambda: now
    lengths = []
    for _ in range(5):
        fake.stopper.stop("t4", many, 100.0)
        lengths.append(len(fake.sent))
    assert lengths == [5, 10, 15, 20, 20]
