"""What a place that is set aside holds back, what it leaves alone, and when it is used again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind, Site
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.store import places
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.faulty_machine import APPLICATION, HOST, Machine, names

pytestmark = pytest.mark.integration


#: Attempts in pods, and the application in the image of their class.
MAIN = "application:shop@main"
PODS = Site(application="shop", images={"t4": "main"})


# -- what is held ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "place", "reason"),
    [("start", HOST, "HOST_SET_ASIDE"), ("import", APPLICATION, "APPLICATION_HELD")],
)
def test_a_job_that_comes_while_its_machine_is_at_fault_waits_in_line(
    machine: Callable[..., Machine], fault: str, place: str, reason: str
) -> None:
    here = machine(lambda record: fault, devices=0)
    here.submit("a", "b")
    here.end_all()
    assert here.set_aside() == {place}
    here.submit("later", "last")
    assert here.started == []
    assert (here.record("later")["state"], here.why("later")) == ("waiting", reason)
    here.now += 2.1
    [probe] = here.line.admit(here.gpu_class)
    assert (probe["delivery"], probe["probes"]) == ("later", [place]), "one tries, in order"


def test_a_broken_image_of_a_class_holds_no_job_with_another_image(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "import", site=PODS, devices=0)
    here.submit("a", "b")
    here.end_all()
    assert here.set_aside() == {MAIN}
    here.submit("same", "other", image="other")
    assert [record["delivery"] for record in here.started] == ["same", "other"]


@pytest.mark.parametrize(("isolation", "room"), [("shared", 2), ("exclusive", 1)])
def test_a_gpu_takes_its_share_of_the_slots_beside_one_at_fault(
    machine: Callable[..., Machine], isolation: str, room: int
) -> None:
    here = machine(lambda record: "success" if record["device"] else "gpu", devices=2)
    here.submit("a", "b", "c", "d", isolation=isolation)
    assert [record["device"] for record in here.started] == [0, 1, 0, 1]
    here.end_all()
    assert here.set_aside() == {"device:h/GPU-a"}
    here.submit("e", "f", "g", isolation=isolation)
    assert [record["device"] for record in here.started] == [1] * room
    assert here.why("g") == "DEVICE_SET_ASIDE"


def test_a_job_waits_in_no_line_while_its_image_is_tried(machine: Callable[..., Machine]) -> None:
    """Also where jobs wait for what the cluster refuses for a shorter time."""
    site = Site(application="shop", images={"t4": "main"}, held={"t4": 3.0})
    here = machine(lambda record: "import", site=site, devices=0)
    here.submit("a", "b")
    here.end_all()
    here.now += 2.1
    here.submit("probe", "next")
    assert [record["probes"] for record in here.started] == [[MAIN]]
    record = here.record("next")
    assert (record["state"], record["wait"]) == ("delayed", "APPLICATION_HELD")
    assert 5 <= record["eta"] - here.now < 6, "it is looked at again while the probe runs"


# -- when it is used again -------------------------------------------------------------------------


def test_only_a_place_that_is_known_can_be_cleared(machine: Callable[..., Machine]) -> None:
    here = machine(lambda record: "import")
    assert not places.clear(here.client, "t4", APPLICATION)
    here.submit("a")
    here.end_all()
    assert places.clear(here.client, "t4", APPLICATION)
    assert here.places() == {}


def test_clearing_a_place_returns_only_the_jobs_that_wait_for_it(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "import", site=PODS, devices=0)
    here.submit("probe", "waits", "gone")
    here.end_all()
    here.now += 2.1
    here.line.tick("t4")
    [probe] = here.line.admit(here.gpu_class)
    assert (probe["delivery"], probe["probes"]) == ("probe", [MAIN])
    here.line.observed([Observation(Attempt.of(probe), WaitReason.PULLING_IMAGE)])
    here.client.hdel(class_key("t4", "jobs"), "gone")
    assert here.record("waits")["eta"] >= here.now + 5
    assert places.clear(here.client, "t4", MAIN)
    assert here.client.zrange(class_key("t4", "delayed"), 0, -1) == ["waits", "gone"]
    assert here.record("waits")["eta"] == here.now
    here.line.tick("t4")
    assert here.record("waits")["state"] == "waiting"
    assert here.record("probe")["state"] == "launching"


def test_clearing_a_place_hastens_no_job_that_waits_for_its_own_pause(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "gpu")
    here.submit("a")
    here.end_all()
    assert here.set_aside() == set() and list(here.places()) == ["device:h/GPU-a"]
    assert places.clear(here.client, "t4", "device:h/GPU-a")
    assert here.record("a")["eta"] == here.now + 1


# -- how a place stands ----------------------------------------------------------------------------

NOW = 1_000_000.0
PAST, FUTURE = NOW - 5, NOW + 5


def entry(last: float = PAST, until: float | None = None, **more: Any) -> str:
    """Make what Redis keeps of a place."""
    known = {"failures": 2, "last": last, "jobs": {}} | more
    return json.dumps(known | ({} if until is None else {"until": until, "pause": 4}))


@pytest.mark.parametrize(
    ("until", "probe", "starts", "tries"),
    [
        (None, "", True, False),
        (FUTURE, "", False, False),
        (NOW, "", True, True),
        (PAST, "p#1", False, False),  # granted, and not claimed
        (PAST, "p#2", True, True),  # it holds no slot any more
        (PAST, "p#1 after 59", False, False),
        (PAST, "p#1 after 60", True, False),  # it has proved that the place works
        (FUTURE, "p#1 after 60", True, False),
        (PAST, "p#9 after 60", False, False),  # the holder is of another attempt than the record
    ],
)
def test_how_a_place_stands_decides_who_starts_there(
    machine: Callable[..., Machine], until: float | None, probe: str, starts: bool, tries: bool
) -> None:
    here = machine(lambda record: "success", devices=0)
    here.submit("p")
    [running], here.started = here.started, []
    holder, _, seconds = probe.partition(" after ")
    if holder == "p#9":
        here.client.zadd(class_key("t4", "holders_shared"), {holder: NOW})
    if seconds:
        ExecutorAttempt(here.client, Attempt.of(running), running["token"]).claim("h:n:1", "w")
        here.now += float(seconds)
        until = until and until + float(seconds)
    named: Any = {"probe": holder, "delivery": "p"} if holder else {}
    here.client.hset(class_key("t4", "places"), HOST, entry(until=until, **named))
    here.submit("a")
    assert [record["delivery"] for record in here.started] == ["a"] * starts
    assert [record.get("probes") for record in here.started if tries] == [[HOST]] * tries


@pytest.mark.parametrize(
    ("place", "until", "probe", "forgotten"),
    [
        ("node:n", None, "", True),
        ("node:n", NOW, "", True),
        ("node:n", FUTURE, "", False),
        ("node:m", None, "", False),
        (HOST, None, "", True),
        (HOST, PAST, "", False),
        (HOST, PAST, "a#1", True),
        (HOST, PAST, "b#1", False),
        ("host:other", None, "", False),
    ],
)
def test_a_success_at_a_place_forgets_the_failures_that_it_disproves(
    machine: Callable[..., Machine], place: str, until: float | None, probe: str, forgotten: bool
) -> None:
    here = machine(lambda record: "success", devices=0)
    here.submit("a")
    [granted] = here.started
    here.line.observed([Observation(Attempt.of(granted), node="n")])
    named: Any = {"probe": probe, "delivery": "a"} if probe else {}
    here.client.hset(class_key("t4", "places"), place, entry(until=until, **named))
    here.end_all()
    assert here.ended == {"a": "SUCCEEDED"}
    assert (place not in here.places()) is forgotten


HOUR_AGO = NOW - 3600


@pytest.mark.parametrize(
    ("last", "until", "probe", "due"),
    [
        (PAST, None, "", PAST + 3601),
        (PAST, NOW - 3, "", NOW - 3 + 3601),
        (PAST, FUTURE, "", FUTURE),
        (HOUR_AGO, None, "", NOW + 1),
        (HOUR_AGO - 1, None, "", None),
        (HOUR_AGO - 1, NOW - 3, "", NOW - 3 + 3601),
        (HOUR_AGO - 1, HOUR_AGO - 1, "p#1", math.inf),  # it is tried now
        (HOUR_AGO - 1, HOUR_AGO - 1, "p#2", None),
    ],
)
def test_a_place_is_forgotten_after_an_hour_without_failure_or_probe(
    machine: Callable[..., Machine], last: float, until: float | None, probe: str, due: float | None
) -> None:
    """``due``: when the next turn looks at the place; None: it is forgotten in this one."""
    here = machine(lambda record: "success", devices=0)
    here.submit("p")
    named: Any = {"probe": probe, "delivery": "p"} if probe else {}
    here.client.hset(class_key("t4", "places"), HOST, entry(last, until, **named))
    _, found = here.line.tick("t4")
    assert list(here.places()) == ([] if due is None else [HOST])
    assert (found or math.inf) == (math.inf if due is None else due)


def test_the_place_that_is_due_first_sets_the_next_turn(machine: Callable[..., Machine]) -> None:
    here = machine(lambda record: "success")
    for seconds in (30, 10, 20):
        known = entry(until=NOW + seconds)
        here.client.hset(class_key("t4", "places"), f"node:{seconds}", known)
    assert here.line.tick("t4")[1] == NOW + 10
    here.submit("later", eta=NOW + 15)
    assert here.line.tick("t4")[1] == NOW + 10
    here.submit("sooner", eta=NOW + 5)
    assert here.line.tick("t4")[1] == NOW + 5


# -- what a failure changes ------------------------------------------------------------------------


def test_only_the_failure_of_its_probe_makes_the_pause_of_a_place_longer(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "crash", devices=0)
    here.submit("a", "b", "c")
    here.end_all()
    assert (here.places()[HOST]["pause"], here.places()[HOST]["until"]) == (2, NOW + 2)
    here.now += 2
    here.submit("probe")
    here.end_all()
    assert (here.places()[HOST]["pause"], here.places()[HOST]["until"]) == (4, NOW + 6)
    assert "probe" not in here.places()[HOST]


def test_a_place_names_eight_jobs_and_counts_each_of_them(machine: Callable[..., Machine]) -> None:
    here = machine(lambda record: "crash", slots=9, devices=0)
    here.submit(*names(9))
    here.end_all()
    assert here.places()[HOST]["jobs"] == {name: [name, 1] for name in names(8)}
    assert here.places()[HOST]["failures"] == 9
    here.now += 2
    here.submit("j00~1", id="j00")
    here.end_all()
    assert here.places()[HOST]["jobs"]["j00"] == ["j00~1", 2]


@pytest.mark.parametrize(
    ("state", "spared"), [("delayed", 1), ("finishing", None), ("ended", None), ("gone", None)]
)
def test_an_attempt_that_met_the_fault_of_a_place_is_not_counted_later(
    machine: Callable[..., Machine], state: str, spared: int | None
) -> None:
    here = machine(lambda record: "crash", devices=0)
    here.submit("a", "b")
    first, second = here.started
    here.end(first)
    if state != "delayed":
        here.line.cancel("t4", "a")
    if state in ("ended", "gone"):
        here.line.finish_claim("t4", "a", "f", 60)
        assert here.line.finished("t4", "a", "f", "CANCELLED")
    if state == "gone":
        here.client.hdel(class_key("t4", "jobs"), "a")
    here.end(second)
    assert here.set_aside() == {HOST}
    assert here.record("b")["spared"] == 1
    known = here.reader.record("t4", "a") or {}
    assert (known.get("state", "gone"), known.get("spared")) == (state, spared)


def test_the_place_that_failed_longest_ago_makes_room(machine: Callable[..., Machine]) -> None:
    here = machine(lambda record: "crash", devices=0)
    ages = [(number * 37) % 64 for number in range(64)]
    full = {f"node:{age}": entry(NOW - age) for age in ages}
    here.client.hset(class_key("t4", "places"), mapping=full)  # type: ignore[arg-type]
    here.submit("a")
    here.end_all()
    assert set(full) - set(here.places()) == {"node:63"}
    assert set(here.places()) - set(full) == {HOST}


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("no driver für é", "no driver für é"),
        ("é" * 150, "é" * 150),
        ("x" + "é" * 150, "x" + "é" * 149),
        ("驱" * 150, "驱" * 100),
        ("x" + "驱" * 150, "x" + "驱" * 99),
        ("x" * 301, "x" * 300),
    ],
)
def test_a_long_error_is_kept_up_to_its_last_whole_character(
    machine: Callable[..., Machine], error: str, kept: str
) -> None:
    here = machine(lambda record: "crash", devices=0)
    here.submit("a")
    [granted] = here.started
    end = End(EndReason.INFRA, error, blames=PlaceKind.HOST)
    here.line.release(here.gpu_class, Attempt.of(granted), end)
    assert here.places()[HOST]["error"] == kept
