"""When each class has its turn, and that nothing in a turn keeps the rest of it from being done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.class_turns import REST, ClassTurns
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import REFUSED
from gpuqueue.steps import Steps
from gpuqueue.store.answers import Granted
from gpuqueue.store.turn import Turn
from gpuqueue.telemetry import STEP_FAILURES

TICK, PATIENCE, BEGIN = 1.0, 10.0, 1_000_000.0
RECORD = {"delivery": "a"}


def turn(**more: Any) -> Turn:
    nothing: dict[str, Any] = {
        "moved": 0,
        "due": math.inf,
        "has_work": False,
        "opened": True,
        "granted": Granted(),
        "stopping": [],
        "finishing": [],
        "accepted": [],
        "problems": [],
    }
    return Turn(**{**nothing, **more})


class Leader:
    """The turns of a leader of two classes, and what they did."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.answers: dict[str, Turn | Exception] = {}
        self.work: set[str] = set()
        self.looked: list[set[str]] = []
        self.took: list[str] = []
        self.did: list[tuple[Any, ...]] = []
        self.broken: list[str] = []
        here = cast(Any, self)
        classes = {name: GpuClass(name) for name in ("t4", "a100")}
        steps = Steps(lambda exc: isinstance(exc, redis.ConnectionError), clock=lambda: self.now)
        self.turns = ClassTurns(here, classes, here, here, here, steps, TICK, PATIENCE)

    # -- store/turn.py -----------------------------------------------------------------------------

    def take(self, classes: Sequence[GpuClass]) -> list[Turn | Exception]:
        self.took += [each.name for each in classes]
        return [self.answers.get(each.name, turn()) for each in classes]

    def with_work(self, names: Iterable[str]) -> list[str]:
        self.looked.append(set(names))
        return [name for name in self.looked[-1] if name in self.work]

    # -- slots, stopper, finisher ------------------------------------------------------------------

    def _do(self, *what: Any) -> None:
        if what[0] in self.broken or what[-1] in self.broken:
            raise ValueError("broken")
        self.did.append(what)

    def launch(self, gpu_class: GpuClass, granted: Granted) -> None:
        self._do("launch", gpu_class.name, list(granted))

    def enqueue(self, gpu_class: GpuClass, delivery: str) -> None:
        self._do("enqueue", gpu_class.name, delivery)

    def stop(self, name: str, stopping: Any, now: float) -> None:
        self._do("stop", name, stopping)

    def submit(self, name: str, delivery: str) -> None:
        self._do("finish", name, delivery)

    # -- a cycle -----------------------------------------------------------------------------------

    def cycle(self, seconds: float = 0.0, woken: str | None = None) -> list[str]:
        """The classes whose turn it is, so many seconds later."""
        self.now += seconds
        self.took.clear()
        self.turns.take(self.now, woken)
        return sorted(self.took)


@pytest.fixture
def leader() -> Leader:
    return Leader()


def failures(step: str) -> float:
    counter: float = STEP_FAILURES.labels(step)._value.get()
    return counter


# -- when ------------------------------------------------------------------------------------------


def test_each_class_has_a_first_turn_and_none_while_nothing_is_due(leader: Leader) -> None:
    assert leader.cycle() == sorted(["t4", "a100", REFUSED])
    assert leader.turns.next(leader.now) == leader.now + TICK
    assert [leader.cycle(0.1), leader.cycle(TICK), leader.cycle(REST / 2)] == [[], [], []]


def test_a_class_without_work_has_a_turn_now_and_then(leader: Leader) -> None:
    leader.cycle()
    leader.answers["t4"] = turn(moved=1)  # a delayed job of which no process has told
    assert leader.cycle(REST) == sorted(["t4", "a100", REFUSED])
    assert leader.cycle() == ["t4"]


def test_a_class_whose_work_appears_has_its_turn_within_a_tick(leader: Leader) -> None:
    leader.cycle()
    leader.work = {"t4"}
    assert leader.cycle(TICK / 2) == []
    assert leader.cycle(TICK / 2) == ["t4"]


def test_one_look_asks_for_all_classes_that_are_not_due(leader: Leader) -> None:
    leader.answers["t4"] = turn(has_work=True)
    leader.cycle()
    leader.looked.clear()
    leader.cycle(TICK / 2)
    leader.cycle(TICK / 2)
    assert leader.looked == [{"a100", REFUSED}]


def test_a_class_with_work_has_a_turn_in_each_tick(leader: Leader) -> None:
    leader.answers["t4"] = turn(has_work=True)
    leader.cycle()
    assert [leader.cycle(TICK / 2), leader.cycle(TICK / 2)] == [[], ["t4"]]
    assert "t4" in leader.turns.working and "a100" not in leader.turns.working
    leader.answers["t4"] = turn()
    leader.cycle(TICK)
    assert "t4" not in leader.turns.working


def test_a_class_has_its_turn_when_its_next_job_is_due(leader: Leader) -> None:
    leader.answers["a100"] = turn(due=BEGIN + 30)
    leader.answers["t4"] = turn(due=BEGIN + 0.3, has_work=True)
    leader.cycle()
    assert leader.turns.next(leader.now) == pytest.approx(BEGIN + 0.3)
    assert leader.cycle(0.3) == ["t4"]
    leader.answers["t4"] = turn()
    assert [leader.cycle(28.7), leader.cycle(1.0)] == [["t4"], ["a100"]]


def test_a_class_that_moved_jobs_has_its_next_turn_at_once(leader: Leader) -> None:
    leader.answers["t4"] = turn(moved=1)
    leader.cycle()
    assert leader.turns.next(leader.now) <= leader.now
    assert leader.cycle() == ["t4"]


def test_a_woken_class_has_its_turn_at_once(leader: Leader) -> None:
    leader.cycle()
    assert leader.cycle(0.1, "a100") == ["a100"]


def test_all_classes_have_a_turn_after_what_was_known_is_forgotten(leader: Leader) -> None:
    leader.cycle()
    leader.turns.forget()
    leader.now -= 3600  # the clock of Redis was set back
    assert leader.cycle() == sorted(["t4", "a100", REFUSED])
    leader.work = {"t4"}
    assert leader.cycle(TICK) == ["t4"]


def test_a_class_is_closed_until_it_is_opened(leader: Leader) -> None:
    leader.answers["t4"] = turn(opened=False)
    leader.cycle()
    assert leader.turns.closed == {"t4"}
    leader.answers["t4"] = turn()
    leader.turns.open("t4")
    assert leader.turns.closed == set()
    assert leader.cycle(0.1) == ["t4"]


# -- what ------------------------------------------------------------------------------------------


def test_a_turn_launches_stops_and_finishes(leader: Leader) -> None:
    stopping = [(Attempt("t4", "s", 1), 5.0)]
    leader.answers["t4"] = turn(
        granted=Granted([0, '{"delivery": "a"}']),
        stopping=stopping,
        finishing=[("f", 1.0), ("g", 1.0)],
        accepted=[("old", BEGIN - PATIENCE), ("new", BEGIN - PATIENCE + 1)],
    )
    leader.cycle()
    assert [each for each in leader.did if each[1] == "t4"] == [
        ("launch", "t4", [RECORD]),
        ("stop", "t4", stopping),
        ("enqueue", "t4", "old"),
        ("finish", "t4", "f"),
        ("finish", "t4", "g"),
    ]


EVERYTHING = [
    ("launch", "t4", [RECORD]),
    ("stop", "t4", []),
    ("enqueue", "t4", "old"),
    ("enqueue", "t4", "next"),
    ("finish", "t4", "f"),
    ("finish", "t4", "g"),
]


@pytest.mark.parametrize("broken", ["launch", "stop", "enqueue", "old", "finish", "f"])
def test_what_fails_in_a_turn_keeps_nothing_else_from_it(leader: Leader, broken: str) -> None:
    leader.answers["t4"] = turn(
        granted=Granted([0, '{"delivery": "a"}']),
        finishing=[("f", 1.0), ("g", 1.0)],
        accepted=[("old", BEGIN - PATIENCE), ("next", BEGIN - PATIENCE)],
    )
    leader.broken = [broken]
    step = {"f": "finish", "old": "enqueue"}.get(broken, broken)
    before = failures(step)
    leader.cycle()
    assert failures(step) > before
    assert [each for each in leader.did if each[1] == "t4"] == [
        each for each in EVERYTHING if broken not in each
    ]


def test_a_class_that_fails_keeps_no_other_from_its_turn(leader: Leader) -> None:
    leader.answers["t4"] = redis.ResponseError("damaged")
    before = failures("class")
    leader.cycle()
    assert ("launch", "a100", []) in leader.did and ("launch", "t4", []) not in leader.did
    assert failures("class") == before + 1
    assert leader.turns.next(leader.now) > leader.now, "the watcher would not sleep"
    leader.answers["t4"] = turn()
    assert leader.cycle(TICK) == ["t4"]


def test_a_class_that_keeps_failing_is_tried_again_after_a_growing_pause(leader: Leader) -> None:
    leader.answers["t4"] = redis.ResponseError("damaged")
    leader.cycle()
    assert [leader.cycle(TICK) for _ in range(7)].count(["t4"]) == 3


def test_an_error_that_concerns_all_ends_the_turns(leader: Leader) -> None:
    leader.answers["t4"] = redis.ConnectionError("away")
    with pytest.raises(redis.ConnectionError):
        leader.cycle()


def test_a_step_of_the_script_that_fails_is_counted_and_the_turn_goes_on(leader: Leader) -> None:
    leader.answers["t4"] = turn(
        problems=[("delayed", redis.ResponseError("damaged"))], finishing=[("f", 1.0)]
    )
    before = failures("delayed")
    leader.cycle()
    assert failures("delayed") == before + 1
    assert ("finish", "t4", "f") in leader.did
    assert leader.cycle(TICK) == ["t4"], "the step is tried again"
    leader.answers["t4"] = turn()
    leader.cycle(TICK)
    assert leader.turns.steps._failures == {}
