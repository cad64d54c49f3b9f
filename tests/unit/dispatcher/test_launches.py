"""A launch that fails, for any cause, ends its attempt, or is tried again at a known time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from redis.exceptions import ResponseError

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher import slots as module
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.launchers.base import CannotLaunch, LauncherUnavailable, LaunchHeld, LaunchLater
from gpuqueue.model.attempt import Attempt, Observation, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.record import Record
from gpuqueue.store.answers import Released
from tests.support.waiting import PATIENCE, until

RECORD = cast(
    Record, {"gpu_class": "t4", "delivery": "a", "attempt": 1, "token": "x", "admitted": 100.0}
)
AWAY = LaunchLater("away", after=7, limit=60)


class Fake:
    """A store and a launcher that do as the test says, and keep what they are told."""

    claim_within = 60.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: float = 100.0) -> None:
        self.error: Exception | None = None
        self.refusals: list[Exception] = []
        self.nothing_runs: bool | Exception = True
        self.released: list[tuple[str, End, bool]] = []
        self.seen: list[Observation] = []
        self.confirmed = 0
        monkeypatch.setattr(module, "redis_time", lambda client: now)
        other = cast(Any, self)
        self.slots = Slots(other, other, {"t4": GpuClass("t4")}, other, other, other)

    def store(self, *_: Any, **__: Any) -> None:
        """No state is shown."""

    def start(self, record: Record) -> str:
        if self.error:
            raise self.error
        return "h:n:1"

    def abandon(self, record: Record) -> bool:
        if isinstance(self.nothing_runs, Exception):
            raise self.nothing_runs
        return self.nothing_runs

    def launched(self, *_: Any) -> bool:
        self.confirmed += 1
        return True

    def observed(self, observations: list[Observation]) -> None:
        self.seen += observations

    def relaunch(self, attempt: Attempt, older_than: float) -> None:
        """It is postponed."""

    def release(
        self, gpu_class: GpuClass, attempt: Attempt, end: End, instance: str, final: bool
    ) -> Released:
        if self.refusals:
            raise self.refusals.pop()
        self.released.append((attempt.delivery, end, final))
        return Released(True, "ended", attempt)

    def launch(self) -> None:
        self.slots.relaunch(RECORD)
        self.slots.close()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    yield Fake(monkeypatch)


def test_a_launch_is_confirmed(fake: Fake) -> None:
    fake.launch()
    assert (fake.confirmed, fake.released) == (1, [])


@pytest.mark.parametrize(
    "error", [TypeError("no such field"), KeyError("image"), RuntimeError("broken")]
)
def test_a_fault_of_the_launcher_ends_the_attempt(fake: Fake, error: Exception) -> None:
    fake.error = error
    fake.launch()
    [(delivery, end, final)] = fake.released
    assert (delivery, end.reason, final) == ("a", EndReason.INFRA, False)
    assert end.error == repr(error)


def test_what_may_run_after_a_fault_keeps_its_slot(fake: Fake) -> None:
    fake.error, fake.nothing_runs = TypeError("after the start"), False
    fake.launch()
    assert fake.released == []


def test_a_refusal_for_good_is_final(fake: Fake) -> None:
    fake.error = CannotLaunch("no such image", EndReason.IMAGE)
    fake.launch()
    assert fake.released == [("a", End(EndReason.IMAGE, "no such image"), True)]


def test_a_postponed_launch_keeps_its_slot_until_a_known_time(fake: Fake) -> None:
    fake.error = AWAY
    fake.launch()
    assert fake.released == []
    wait = WaitReason.LAUNCH_REFUSED
    assert fake.seen == [Observation(Attempt("t4", "a", 1), wait, "away", launch_in=7)]


def test_a_launch_that_is_postponed_for_too_long_holds_the_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake(monkeypatch, now=160.0)
    fake.error = AWAY
    fake.launch()
    end = End(EndReason.INFRA, "not within 60 s: away", blames=PlaceKind.LAUNCH)
    assert fake.released == [("a", end, False)]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(PlaceKind.LAUNCH, EndReason.INFRA), (PlaceKind.QUOTA, EndReason.QUOTA)],
)
def test_a_launch_that_the_cluster_refuses_holds_the_class(
    fake: Fake, kind: PlaceKind, reason: EndReason
) -> None:
    fake.error = LaunchHeld("forbidden", kind)
    fake.launch()
    [(_, end, final)] = fake.released
    assert (end, final) == (End(reason, "forbidden", blames=kind), False)
    assert end.context()["tried"] == "held"


def test_an_attempt_stays_while_it_is_unknown_whether_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake(monkeypatch, now=10_000.0)
    fake.error, fake.nothing_runs = AWAY, LauncherUnavailable("the API server is away")
    fake.launch()
    assert fake.released == []
    assert [each.launch_in for each in fake.seen] == [7]


def test_an_end_that_redis_refuses_is_told_again(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EARLIEST", 0.01)
    fake.refusals = [ResponseError("WRONGTYPE Operation against a key")] * 3
    end = End(EndReason.ERROR, "exit code 1")
    assert not fake.slots.on_end(RunningAttempt(Attempt("t4", "a", 1), "h:n:1"), end)
    until(lambda: fake.released == [("a", end, False)], PATIENCE, "the end is told")
    fake.slots.close()
