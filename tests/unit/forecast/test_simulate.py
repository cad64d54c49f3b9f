"""A class runs on until a job starts: small cases by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gpuqueue.forecast import simulate
from gpuqueue.forecast.run_times import RunTimes
from gpuqueue.forecast.simulate import Starts, starts
from gpuqueue.forecast.snapshot import Held, Rules, Snapshot, Waiting
from gpuqueue.forecast.what_if import WrongChange, changed, parse

NOW = 1000.0
RULES = Rules(1, 1, 8, 1)
RUNS = RunTimes({("shared", "t", ""): [10.0], ("exclusive", "t", ""): [100.0]})
JOB = Waiting("me", "shared", 3, 9, task="t")


def waiting(number: int, isolation: str = "shared", priority: int = 3) -> Waiting:
    return Waiting(f"j{number}", isolation, priority, number, task="t")


def snapshot(*ahead: Waiting, rules: Rules = RULES, held: int = 1, **more: object) -> Snapshot:
    """One shared job runs since 4 s, and some jobs wait before ours."""
    holders = [Held(f"h{at}#1", "shared", task="t", since=NOW - 4) for at in range(held)]
    made = Snapshot(NOW, rules, [*ahead, JOB], held=holders, asked=JOB)
    return replace(made, **more)  # type: ignore[arg-type]


def at(found: Starts) -> tuple[float | None, float | None]:
    assert found.unknown is None
    return found.earliest(), found.latest()


def test_a_start_follows_from_the_ends_ahead() -> None:
    assert at(starts(snapshot(), "me", RUNS)) == (6, 6)
    assert at(starts(snapshot(waiting(1), waiting(2)), "me", RUNS)) == (26, 26)
    assert at(starts(snapshot(waiting(1, "exclusive")), "me", RUNS)) == (106, 106)
    assert at(starts(snapshot(held=0), "me", RUNS)) == (0, 0)


def test_a_delayed_job_starts_when_it_is_due() -> None:
    later = replace(snapshot(), waiting=[], delayed=[(NOW + 50, JOB)])
    assert at(starts(later, "me", RUNS)) == (50, 50)


def test_a_range_is_as_wide_as_run_times_differ() -> None:
    runs = RunTimes({("shared", "t", ""): [float(each) for each in range(5, 37)]})
    low, high = at(starts(snapshot(), "me", runs))
    assert low is not None and high is not None
    assert 1 <= low < 8 and 24 < high <= 32
    assert starts(snapshot(), "me", runs) == starts(snapshot(), "me", runs), "it is repeatable"


def test_a_task_without_run_times_is_named() -> None:
    found = starts(snapshot(), "me", RunTimes({}))
    assert (found.unknown, found.earliest(), found.latest()) == ("t", None, None)


def test_a_start_beyond_what_is_simulated_is_later() -> None:
    ahead = [waiting(at) for at in range(1, simulate.STEPS_OF_ONE + 50)]
    job = replace(JOB, arrival=9999)
    far = replace(snapshot(*ahead), waiting=[*ahead, job], asked=job)
    low, high = at(starts(far, "me", RUNS))
    assert low is not None and low >= 10 * (simulate.STEPS_OF_ONE - 50) and high is None
    unread = replace(snapshot(waiting(1)), waiting=[waiting(1)], more={"shared": 90_000})
    low, high = at(starts(unread, "me", RUNS))
    assert low is not None and low > 5000 and high is None, "the others are like the last"


def test_a_class_that_is_not_open_has_no_start() -> None:
    assert at(starts(snapshot(opened=False, held=0), "me", RUNS)) == (0, None)


CHANGES: dict[str, tuple[list[str], float]] = {
    "more slots of its isolation": (["slots=2"], 0),
    "the same, by name": (["shared_slots=2"], 0),
    "slots of the other isolation": (["exclusive_slots=9"], 26),
    "a better priority": (["priority=0"], 6),
    "both": (["priority=0", "slots=2"], 0),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_moves_the_start(name: str) -> None:
    texts, start = CHANGES[name]
    ahead = [waiting(1), waiting(2)] if "slots=2" not in texts[0] else []
    found = changed(snapshot(*ahead), parse(texts))
    assert at(starts(found, "me", RUNS)) == (start, start)


def test_a_better_priority_brings_an_unread_job_among_the_others() -> None:
    line = [waiting(at) for at in (1, 2)]
    far = replace(snapshot(), waiting=line, more={"shared": 5000})
    assert at(starts(changed(far, {"priority": 0}), "me", RUNS)) == (6, 6)
    assert changed(far, {"priority": 9}).waiting == line, "its place is not known"


WRONG: Mapping[str, str] = {
    "colour=1": "names no field; use slots=NUMBER, shared_slots=NUMBER",
    "slots": "names no field",
    "slots=many": "--if slots='many' is not a whole number from 0 to 10000; use one: slots",
    "slots=-1": "is not a whole number",
    "slots=1e3": "is not a whole number",
    "priority=10": "--if priority='10' is not a whole number from 0 to 9; use one",
}


@pytest.mark.parametrize("text", list(WRONG))
def test_a_wrong_change_names_field_value_and_fix(text: str) -> None:
    with pytest.raises(WrongChange) as caught:
        parse([text])
    assert WRONG[text] in str(caught.value)


@pytest.mark.parametrize("texts", [["slots=1", "slots=2"], ["slots=1", "shared_slots=2"]])
def test_changes_may_not_contradict(texts: list[str]) -> None:
    with pytest.raises(WrongChange, match=r"name it once|leave one out"):
        parse(texts)
