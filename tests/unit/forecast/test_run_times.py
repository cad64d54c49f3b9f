"""How long jobs run, drawn from what ran of late; and which jobs come."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest

from gpuqueue.forecast.arrivals import recent
from gpuqueue.forecast.run_times import Draws, NotKnown, Past, RunTimes
from gpuqueue.forecast.snapshot import Held, Rules, Snapshot, Tenant, Tenants, Waiting

KIND = ("shared", "train", "a")
RULES = Rules(2, 1, 8, 1)


def draws(known: RunTimes, number: int = 200, **more: float) -> list[float]:
    made = Draws(known, random.Random(1))
    return [made.seconds(KIND, **more) for _ in range(number)]


def past(seconds: float | None, **more: object) -> Past:
    known = {"isolation": "shared", "task": "other", "tenant": "", "accepted": 0.0, "stop": 9.0}
    return Past(**{**known, **more}, seconds=seconds)  # type: ignore[arg-type]


def test_run_times_are_those_of_the_task_and_tenant() -> None:
    runs = {KIND: [5.0] * 32, ("shared", "train", ""): [50.0] * 32}
    found = draws(RunTimes(runs, [past(500.0)]))
    assert found.count(5.0) > 130
    assert set(found) == {5.0, 50.0, 500.0}


def test_a_task_without_runs_takes_those_of_its_class() -> None:
    known = [past(7.0), past(None), past(9.0, isolation="exclusive")]
    assert set(draws(RunTimes({}, known))) == {7.0}


def test_a_running_job_takes_longer_than_it_has() -> None:
    runs = {KIND: [1.0, 2.0, 10.0, 20.0]}
    assert all(each > 5 for each in draws(RunTimes(runs), elapsed=5.0))
    beyond = sorted(draws(RunTimes(runs), elapsed=30.0))
    assert beyond[0] > 30 and 45 < beyond[100] < 80, "half of them last as long again"


def test_a_time_limit_cuts_a_run_and_stands_in_for_its_time() -> None:
    assert set(draws(RunTimes({KIND: [50.0]}), limit=20.0)) == {20.0}
    found = draws(RunTimes({}), limit=20.0, elapsed=10.0)
    assert 10 <= min(found) < 11 and 19 < max(found) <= 20
    assert draws(RunTimes({}), limit=20.0, elapsed=25.0)[0] == 25.0


def test_nothing_is_invented_for_an_unknown_task() -> None:
    with pytest.raises(NotKnown, match="train"):
        draws(RunTimes({}))


def test_arrivals_of_late_come_again_in_reverse() -> None:
    ended = [past(1.0, accepted=10.0 * at, stop=10.0 * at + 1) for at in range(1, 5)]
    waiting = [Waiting("w", "exclusive", 3, 7, "b", since=45.0)]
    held = [Held("h#1", "shared", accepted=48.0)]
    snapshot = Snapshot(50.0, RULES, waiting, held=held, arrivals=9)
    runs = {("exclusive", "", ""): [1.0]}
    known = recent(snapshot, RunTimes(runs, ended))
    assert [when for when, _ in known.jobs] == [0, 10, 20, 30, 35, 38]
    came = list(known.again(50.0, 0, 1.0))
    assert [when for when, _ in came] == [52, 55, 60, 70, 80, 90], "none came before them"
    assert [job.delivery for _, job in came] == [f"+{at}" for at in range(1, 7)]
    assert [job.arrival for _, job in came] == [10, 11, 12, 13, 14, 15]
    assert [job.isolation for _, job in came][:2] == ["shared", "exclusive"]
    fast = list(known.again(50.0, 1, 2.0))
    assert [when for when, _ in fast] == [51.5, 54, 59, 64, 69], "without the last one"
    assert [job for _, job in fast] == [job for _, job in came][1:]


def test_arrivals_go_on_where_more_came_before() -> None:
    ended = [past(1.0, accepted=5.0, stop=20.0)]
    ended += [past(1.0, accepted=at, stop=at + 1) for at in (30.0, 45.0)]
    known = recent(Snapshot(50.0, RULES), RunTimes({}, ended, cut=True))
    came = [when for when, _ in islice(known.again(50.0, 0, 1.0), 5)]
    assert came == [55, 70, 85, 100, 115], "each 30 s the same"


def test_the_pace_changes_as_it_did() -> None:
    def spread(*times: float) -> float:
        waiting = [Waiting(str(at), "shared", since=each) for at, each in enumerate(times, 1)]
        runs = RunTimes({("shared", "", ""): [1.0]})
        return recent(Snapshot(max(times), RULES, waiting), runs).spread

    assert spread(1.0, 2.0) == 1.5, "nothing is known"
    even = spread(*(float(each) for each in range(1, 401)))
    assert 0.6 < even < 0.7
    bursts = [1000.0 * burst + each for burst in range(1, 5) for each in range(100)]
    assert spread(*bursts) > 2 * even


def test_only_arrivals_that_are_all_known_count() -> None:
    ended = [past(1.0, accepted=5.0, stop=20.0), past(1.0, accepted=30.0, stop=31.0)]
    known = recent(Snapshot(50.0, RULES), RunTimes({}, ended, cut=True))
    assert ([when for when, _ in known.jobs], known.span) == ([10.0], 30.0)


def test_jobs_that_were_not_read_came_too() -> None:
    waiting = [Waiting(str(at), "shared", since=10.0 * at) for at in range(1, 5)]
    runs = RunTimes({("shared", "", ""): [1.0]})
    known = recent(Snapshot(50.0, RULES, waiting, {"shared": 4}), runs)
    assert known.span == 20.0, "in half the time"


def test_new_tenants_come_as_others_came() -> None:
    tenants = Tenants({"old": Tenant(1), "new": Tenant(2), "first": Tenant(3)}, 60.0, 1.0, 0, 3)
    waiting = [
        Waiting("a", "shared", tenant="old", since=10.0, time_limit=5),
        Waiting("b", "shared", tenant="new", since=40.0, time_limit=5),
    ]
    known = recent(Snapshot(50.0, RULES, waiting, tenants=tenants), RunTimes({}))
    came = {job.tenant for _, job in known.again(50.0, 0, 1.0)}
    assert came == {"old", "+new"}
    earlier = [past(1.0, accepted=5.0, stop=9.0, tenant="first")]
    known = recent(Snapshot(50.0, RULES, waiting, tenants=tenants), RunTimes({}, earlier, cut=True))
    assert known.new == set(), "a later one than theirs was known before"


def test_a_new_tenant_goes_on_as_other_new_ones_did() -> None:
    names = ["old", "other", "me"]
    tenants = Tenants({each: Tenant(at) for at, each in enumerate(names, 1)}, 60.0, 1.0, 0, 3)
    sent = [
        ("old", 10.0),
        ("old", 15.0),
        ("other", 20.0),
        ("other", 23.0),
        ("old", 25.0),
        ("other", 29.0),
    ]
    line = [
        Waiting(str(at), "shared", tenant=each, since=since, time_limit=5)
        for at, (each, since) in enumerate([*sent, ("me", 40.0)])
    ]
    snapshot = Snapshot(50.0, RULES, line, arrivals=7, tenants=tenants, asked=line[-1])
    known = recent(snapshot, RunTimes({}))
    own = list(known.of_own(50.0, random.Random(1)))
    assert [(when, job.tenant) for when, job in own] == [(53, "me"), (59, "me")]
    assert len({job.delivery for _, job in own}) == 2
    assert all(job.arrival > 7 for _, job in own), "behind the job that is asked about"
    came = [job.tenant for _, job in known.again(50.0, 0, 1.0)]
    assert came == ["+other", "old", "+other", "+other", "old", "old"], (
        "its own are not counted twice"
    )
    of_old = recent(replace(snapshot, asked=line[0]), RunTimes({}))
    assert list(of_old.of_own(50.0, random.Random(1))) == [], "they come in time, mirrored"


def test_jobs_of_unknown_run_times_do_not_come() -> None:
    waiting = [Waiting("w", "shared", since=10.0), Waiting("l", "shared", since=9.0, time_limit=5)]
    known = recent(Snapshot(50.0, RULES, waiting), RunTimes({}))
    assert [job.delivery for _, job in known.jobs] == ["l"]


def test_no_arrival_is_known_of_a_new_class() -> None:
    known = recent(Snapshot(50.0, RULES), RunTimes({}))
    assert list(known.again(50.0, 0, 1.0)) == []
