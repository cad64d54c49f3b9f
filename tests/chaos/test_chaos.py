"""A few schedules of each launcher, and the checker itself: it tells what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.checker import Checker
from tests.chaos.faults import FAULTS, kinds
from tests.chaos.messages import Expected, Made
from tests.chaos.plan import Sent, plan
from tests.chaos.runner import one
from tests.chaos.stage import Stage
from tests.chaos.steps import OF_EXECUTORS, UNFINISHED, UNSTARTED
from tests.support.launching import KUBERNETES, LOCAL

#: What the schedules of CI do: each fault acts on something else.
CHOSEN = (
    "dispatcher killed at a step",
    "executor killed at a step",
    "dispatcher stopped, then continued",
    "replica promoted",
    "messages sent twice",
    "answers of Redis lost",
)
#: A step of an executor at which the code of its task may have run.
BEGUN = next(name for name in OF_EXECUTORS if name not in UNSTARTED)
PLAIN = Expected("a", "plain", 2)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("chaos") / "stage", kind)
    try:
        made.wait_until_ready()
        yield made
    finally:
        made.close()


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", CHOSEN)
def test_a_schedule_keeps_every_promise(stage: Stage, kind: str, fault: str) -> None:
    seed = CHOSEN.index(fault)
    played = one(stage, plan(seed, kind, {fault: FAULTS[fault].on}), seed)
    assert not played.verdict.problems, "\n".join([*played.trace, stage.logs()])
    assert played.verdict.jobs >= 5


@pytest.mark.parametrize("launcher", [LOCAL, KUBERNETES])
def test_a_seed_gives_the_same_schedule_and_each_fault_a_turn(launcher: str) -> None:
    known = kinds(launcher)
    assert plan(7, launcher, known) == plan(7, launcher, known) != plan(8, launcher, known)
    assert {plan(seed, launcher, known).faults[0].kind for seed in range(len(known))} == set(known)


def test_steps_that_are_named_are_steps_of_executors() -> None:
    assert {*UNSTARTED, UNFINISHED} < set(OF_EXECUTORS)


def event(kind: str, at: float, *, pid: int = 1, **more: Any) -> dict[str, Any]:
    known = {"id": "a", "retries": 0, "attempt": "1", "isolation": "shared", "step": BEGUN}
    return {"event": kind, "at": at, "pid": pid, **known, **more}


CALLBACK = Expected("a", "chain", 2, ("b",), always=False)
RUN = [event("start", 1.0), event("end", 2.0)]
DONE = {"status": "SUCCESS", "result": 2}
DIED = {"status": "FAILURE", "result": {"exc_type": "ExecutorDied"}}
BESIDE = [event("start", 1.2, pid=2, id="b", isolation="exclusive"), event("end", 1.4, pid=2)]
KILLED = [event("start", 1.0), event("killed", 1.5)]


def problems(
    events: list[dict[str, Any]],
    result: dict[str, Any] | None,
    expected: Expected = PLAIN,
    seen: tuple[str, ...] = (),
    cancel: str = "",
    not_before: float = 0.0,
    resends: bool = False,
) -> list[str]:
    made = Made(Sent(0, expected.kind, "gpu.t4.shared", 0, 0), [], [expected], not_before)
    results = {"a": result} if result else {}
    cancels = {"a": cancel} if cancel else {}
    told = ([made], events, results, {"a": list(seen)}, cancels)
    checker = Checker(*told, moved=False, resends=resends)
    return [re.split(r"[:]", each)[0] for each in checker.judge().problems]


@pytest.mark.parametrize(
    ("events", "result", "more", "found"),
    [
        (RUN, DONE, {}, []),
        (RUN, None, {}, ["lost"]),
        (RUN, {"status": "DISPATCHED", "result": None}, {}, ["lost"]),
        ([*RUN, event("start", 3.0), event("end", 4.0)], DONE, {}, ["run twice"]),
        ([*RUN, *RUN], DONE, {"resends": True}, ["run twice"]),
        ([*RUN, *RUN], DONE, {"expected": CALLBACK, "resends": True}, []),
        ([*RUN, *RUN, *RUN], DONE, {"expected": CALLBACK, "resends": True}, ["run twice"]),
        ([*KILLED, *RUN], DONE, {}, []),
        *(
            ([*RUN, event("killed", 2.5, step=step), *RUN], DONE, {}, ["run twice"])
            for step in UNSTARTED
        ),
        (KILLED, DIED, {}, []),
        (RUN, DIED, {}, ["contradicted"]),
        ([], DONE, {}, ["contradicted"]),
        (RUN, DONE | {"result": 3}, {}, ["contradicted"]),
        (RUN, DONE, {"seen": ("SUCCESS", "FAILURE")}, ["contradicted"]),
        (RUN, {"status": "REVOKED", "result": {}}, {}, ["contradicted"]),
        (RUN, DONE, {"expected": Expected("a", "failing", "x")}, ["contradicted"]),
        (
            RUN,
            DONE,
            {"expected": Expected("a", "cancelled", 2), "cancel": "cancelled"},
            ["contradicted"],
        ),
        (RUN, DONE, {"not_before": 1.5}, ["contradicted"]),
        (
            [
                *RUN,
                event("start", 1.2, pid=2, id="b", isolation="exclusive"),
                event("end", 1.4, pid=2),
            ],
            DONE,
            {},
            ["side by side"],
        ),
    ],
)
def test_the_checker_finds_what_is_wrong(
    events: list[dict[str, Any]],
    result: dict[str, Any] | None,
    more: dict[str, Any],
    found: list[str],
) -> None:
    assert problems(events, result, **more) == found
