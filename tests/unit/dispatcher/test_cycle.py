"""A cycle of the watcher: what a leader does and when. No step keeps another from its turn."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher import watch as module
from gpuqueue.dispatcher.watch import Watcher, WatchIntervals, concerns_all
from gpuqueue.errors import LayoutMismatch
from gpuqueue.launchers.base import BLIND_AFTER, LauncherUnavailable
from gpuqueue.steps import Steps
from gpuqueue.telemetry import STEP_FAILURES

TICK, RELIST, LEASE, SILENCE, BEAT = 1.0, 2.0, 15.0, 150.0, 2.0
STEPS = ["announce", "bounds", "unserved", "repair", "launcher", "states", "speak", "beat"]


class Shown(dict[str, GpuClass]):
    """The classes that are shown: none is added."""

    def look(self) -> None:
        """No other dispatcher shows one."""


class Bench:
    """A watcher whose parts note that they were called, and fail on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed = 100.0
        self.offset = 1_000_000.0
        self.unseen = 0.0
        self.leadership = SimpleNamespace(leads=True, terms=1)
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.adopted: list[set[str]] = []
        self.woken: list[str | None] = []
        self.due_in = 0.5
        self.repair_takes = 0.0
        self.consumed: tuple[str, ...] = ()
        monkeypatch.setattr(time, "monotonic", lambda: self.elapsed)
        monkeypatch.setattr(module, "redis_time", self._redis_time)

        def call(name: str) -> Any:
            return lambda *arguments, **named: self._called(name)

        self.turns = SimpleNamespace(
            closed=set(),
            working=set(),
            forget=call("forget"),
            open=self._open,
            take=self._take,
            next=lambda now: now + self.due_in,
        )
        self.repair = SimpleNamespace(unsettled=set(), run=self._repair)
        parts: dict[str, Any] = {
            "client": None,
            "waiting": None,
            "line": SimpleNamespace(
                open=lambda name: self._called(f"open {name}"),
                announce=lambda *_: None,
                set_bounds=call("bounds"),
            ),
            "classes": {"t4": GpuClass("t4")},
            "lease": SimpleNamespace(
                seconds=LEASE, group=":t4", announce=call("announce"), show=lambda _: None
            ),
            "leadership": self.leadership,
            "launcher": SimpleNamespace(
                lead=lambda leads: self._called(f"lead {leads}"),
                check=call("launcher"),
                unseen=lambda: self.unseen,
                unknown=(),
            ),
            "turns": self.turns,
            "stopper": SimpleNamespace(forget=call("signals forgotten")),
            "repair": self.repair,
            "unserved": SimpleNamespace(jobs={}, silence=SILENCE, look_after=call("unserved")),
            "states": SimpleNamespace(refresh_if_due=call("states")),
            "workers": SimpleNamespace(
                every=BEAT,
                look=call("speak"),
                beat=call("beat"),
                be_silent=call("silent"),
            ),
            "shown": Shown({"t4": GpuClass("t4")}),
            "consumed": lambda: self.consumed,
            "check_layout": call("layout"),
        }
        self.parts = parts
        self.steps = Steps(concerns_all, clock=lambda: self.elapsed)
        self.watcher = Watcher(**parts, intervals=WatchIntervals(TICK, RELIST), steps=self.steps)

    def now(self) -> float:
        return self.offset + self.elapsed

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]

    def _redis_time(self, client: None) -> float:
        self._called("clock")
        return self.now()

    def _open(self, name: str) -> None:
        self.turns.closed.discard(name)

    def _take(self, now: float, woken: str | None) -> None:
        assert now == self.now()
        self.woken.append(woken)
        self._called("turns")

    def _repair(self, now: float, adopt_at_once: set[str], **more: Any) -> None:
        assert now == self.now()
        self.adopted.append(set(adopt_at_once))
        self._called("repair")
        self.elapsed += self.repair_takes

    def cycle(self, seconds: float = 0.0, woken: str | None = None) -> list[str]:
        """What a cycle does, so many seconds later."""
        self.elapsed += seconds
        self.calls.clear()
        self.sleep = self.watcher.cycle(woken)
        return list(self.calls)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def failures(step: str) -> float:
    counter: float = STEP_FAILURES.labels(step)._value.get()
    return counter


# -- what and when ---------------------------------------------------------------------------------


def test_the_first_cycle_of_a_leader_takes_all_steps_in_order(bench: Bench) -> None:
    assert [each for each in bench.cycle() if not each.startswith("lead ")] == [
        "layout", "clock", "forget", "announce", "signals forgotten", "forget",
        "bounds", "turns", "unserved", "repair", "launcher", "states", "speak", "beat",
    ]  # fmt: skip
    assert "lead True" in bench.calls and bench.watcher.leads


def test_a_cycle_at_once_takes_only_the_turns(bench: Bench) -> None:
    bench.cycle()
    assert bench.cycle(0.01, "t4") == ["turns", "states"]
    assert bench.woken == [None, "t4"]


@pytest.mark.parametrize(
    ("step", "every"),
    [
        ("launcher", TICK),
        ("repair", RELIST),
        ("announce", LEASE),
        ("bounds", LEASE),
        ("layout", LEASE),
        ("unserved", SILENCE / 3),
        ("speak", 3 * LEASE),
        ("beat", BEAT),
    ],
)
def test_a_step_is_taken_when_its_time_has_come(bench: Bench, step: str, every: float) -> None:
    bench.cycle()
    assert step not in bench.cycle(every - 0.01)
    assert step in bench.cycle(0.02)


def test_a_repair_that_takes_long_leaves_the_leader_time_for_the_rest(bench: Bench) -> None:
    bench.repair_takes = RELIST
    bench.cycle()
    assert "repair" not in bench.cycle(3.9 * RELIST)
    assert "repair" in bench.cycle(0.2 * RELIST)
    bench.repair_takes = 0.0
    bench.cycle(4.1 * RELIST)
    assert "repair" in bench.cycle(RELIST), "a quick one comes as often as before"


def test_queues_are_announced_when_they_change(bench: Bench) -> None:
    bench.cycle()
    assert "announce" not in bench.cycle(0.01)
    bench.consumed = ("gpu.t4",)
    assert "announce" in bench.cycle(0.01)
    bench.errors["announce"] = ValueError("broken")
    bench.consumed = ()
    bench.cycle(0.01)
    del bench.errors["announce"]
    assert "announce" in bench.cycle(TICK), "until it is"
    assert "announce" not in bench.cycle(0.01)


def test_unserved_classes_with_jobs_are_looked_after_often(bench: Bench) -> None:
    bench.parts["unserved"].jobs["a100"] = 1
    bench.cycle()
    assert "unserved" in bench.cycle(RELIST)


def test_a_leader_sleeps_until_the_next_class_is_due(bench: Bench) -> None:
    bench.cycle()
    assert bench.sleep == pytest.approx(0.5)


# -- the lead --------------------------------------------------------------------------------------


def test_a_dispatcher_that_does_not_lead_only_announces_itself(bench: Bench) -> None:
    bench.leadership.leads = False
    assert bench.cycle() == ["layout", "clock", "forget", "announce"]
    assert bench.sleep == TICK and bench.cycle(TICK) == []


def test_a_leader_that_loses_the_lease_stops_to_lead(bench: Bench) -> None:
    bench.cycle()
    bench.leadership.leads = False
    assert bench.cycle(LEASE / 3) == ["lead False", "silent"]
    assert not bench.watcher.leads
    bench.leadership.leads = True
    assert {"speak", "beat"} <= set(bench.cycle(LEASE / 3)), "it is a worker again at once"


def test_a_heartbeat_that_is_asked_for_is_sent_at_once(bench: Bench) -> None:
    bench.cycle()
    assert "beat" not in bench.cycle(0.01)
    bench.watcher.beat_soon()
    assert "beat" in bench.cycle(0.01)


def test_a_leader_that_finds_no_lease_knows_nothing_of_any_class(bench: Bench) -> None:
    bench.cycle()
    assert "repair" not in bench.cycle(TICK)
    bench.leadership.terms += 1
    calls = bench.cycle(0.1)
    assert calls.index("forget") < calls.index("turns") and "repair" in calls
    assert "forget" not in bench.cycle(0.1)


def test_a_cluster_out_of_sight_makes_it_blind_though_no_repair_failed(bench: Bench) -> None:
    def blind(unseen: float) -> bool:
        bench.unseen = unseen
        return bench.watcher.blind

    bench.cycle()
    assert [blind(BLIND_AFTER - 0.1), blind(BLIND_AFTER)] == [False, True]
    bench.leadership.leads = False
    bench.cycle(TICK)
    assert [blind(60.0), blind(0.0)] == [True, False], "after it has resigned, too"


# -- one clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_jump_of_the_clock_of_redis_is_followed_at_once(bench: Bench, jump: float) -> None:
    bench.cycle()
    bench.offset += jump
    calls = bench.cycle(LEASE)
    assert calls.index("forget") < calls.index("turns")
    assert "forget" not in bench.cycle(LEASE)


def test_a_clock_that_drifts_has_not_jumped(bench: Bench) -> None:
    bench.cycle()
    bench.offset += 0.2
    assert "forget" not in bench.cycle(LEASE)


# -- closed classes --------------------------------------------------------------------------------


def test_a_closed_class_is_opened_after_a_repair_at_once(bench: Bench) -> None:
    bench.cycle()
    bench.turns.closed = {"t4"}
    assert bench.cycle(0.01)[:3] == ["turns", "repair", "open t4"]
    assert bench.adopted[-1] == {"t4"} and bench.turns.closed == set()


def test_a_class_that_is_not_settled_stays_closed(bench: Bench) -> None:
    bench.turns.closed = {"t4"}
    bench.repair.unsettled = {"t4"}
    assert "open t4" not in bench.cycle() and bench.turns.closed == {"t4"}


@pytest.mark.parametrize("error", [LauncherUnavailable("no list"), ValueError("broken")])
def test_no_class_is_opened_by_a_repair_that_failed(bench: Bench, error: Exception) -> None:
    bench.turns.closed = {"t4"}
    bench.errors["repair"] = error
    assert "open t4" not in bench.cycle() and bench.turns.closed == {"t4"}
    assert bench.watcher.blind == isinstance(error, LauncherUnavailable)
    del bench.errors["repair"]
    bench.cycle(TICK)
    assert bench.turns.closed == set() and not bench.watcher.blind


def test_a_leader_that_knows_nothing_of_a_class_is_blind(bench: Bench) -> None:
    launcher: Any = bench.watcher.launcher
    launcher.unknown = {"team"}
    bench.cycle(TICK)
    assert bench.watcher.blind
    launcher.unknown = ()
    bench.cycle(RELIST)
    assert not bench.watcher.blind


# -- one step fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_keeps_no_other_from_its_turn(bench: Bench, step: str) -> None:
    bench.errors[step] = ValueError("broken")
    before = failures(step)
    calls = bench.cycle()
    assert {*STEPS, "turns"} <= set(calls)
    assert failures(step) == before + 1 and bench.sleep == pytest.approx(0.5)


@pytest.mark.parametrize("step", [*STEPS, "turns", "layout", "clock"])
@pytest.mark.parametrize("error", [redis.ConnectionError("away"), LayoutMismatch("other")])
def test_an_error_that_concerns_all_ends_the_cycle(
    bench: Bench, step: str, error: Exception
) -> None:
    bench.errors[step] = error
    with pytest.raises(type(error)):
        bench.cycle()
