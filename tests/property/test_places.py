"""The fault of a place is the place's: found across jobs, set aside, tried again by one job."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import START, explain
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.faulty_machine import APPLICATION, GPUS, HOST, Machine, names
from tests.support.script_times import Times

pytestmark = pytest.mark.integration


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["shared", "exclusive"])
def test_one_broken_gpu_of_four_fails_no_job(
    machine: Callable[..., Machine], isolation: str
) -> None:
    met: Counter[str] = Counter()

    def how(record: Record) -> str:
        if record["device"] != 2:
            return "success"
        met[record["delivery"]] += 1
        return "gpu"

    here = machine(how)
    here.submit(*names(40), isolation=isolation)
    here.play(300)
    assert here.ended == dict.fromkeys(names(40), "SUCCEEDED")
    assert max(met.values()) == 1, "no job goes to the broken GPU twice"
    assert all(
        here.record(name)["attempt"] - here.record(name).get("spared", 0) <= 2 for name in met
    )


def test_a_set_aside_gpu_gets_one_job_at_a_time_after_growing_pauses(
    machine: Callable[..., Machine],
) -> None:
    broken, tried = True, []

    def how(record: Record) -> str:
        if record["device"] == 1:
            tried.append(here.now)
            return "gpu" if broken else "success"
        return "success"

    here = machine(how)
    place = "device:h/GPU-b"
    while here.now < 1_000_100:
        here.submit(*(f"j{here.now}-{number}" for number in range(4)))
        here.play(1)
        assert place not in here.places() or here.places()[place]["failures"] == len(tried)
        here.now += 0.5
        here.line.tick("t4")
    assert here.set_aside() == {place}
    pauses = [later - before for before, later in itertools.pairwise(tried[1:])]
    assert pauses == sorted(pauses) and pauses[-1] > 8 * pauses[0], pauses
    broken = False
    for number in range(100):
        here.submit(*(f"k{number}-{each}" for each in range(4)))
        here.play(1)
        here.now += 2
    assert here.set_aside() == set()
    assert set(here.ended.values()) == {"SUCCEEDED"}


def test_jobs_wait_with_a_reason_while_all_gpus_are_broken(
    machine: Callable[..., Machine],
) -> None:
    broken = True
    here = machine(lambda record: "gpu" if broken else "success")
    here.submit(*names(12))
    here.play(120)
    assert here.ended == {}
    assert here.set_aside() == {f"device:h/{gpu}" for gpu in GPUS}
    waiting = [name for name in names(12) if here.record(name)["state"] == "waiting"]
    assert {here.why(name) for name in waiting} == {"DEVICE_SET_ASIDE"}
    broken = False
    here.play(400)
    assert here.ended == dict.fromkeys(names(12), "SUCCEEDED")


def test_one_job_that_breaks_on_every_gpu_ends_by_its_own_attempts(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "gpu" if record["delivery"] == "bad" else "success")
    here.submit("bad")
    for number in range(30):
        here.submit(f"j{number}")
        here.play(1)
        here.now += 0.5
        here.line.tick("t4")
        here.started += here.line.admit(here.gpu_class)
    assert here.ended.pop("bad") == "INFRA"
    assert here.record("bad")["attempt"] == 3
    assert here.set_aside() == set()
    assert set(here.ended.values()) == {"SUCCEEDED"} and len(here.ended) == 30


def test_a_set_aside_gpu_leaves_its_share_of_the_slots_unused(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "gpu" if record["device"] == 0 else "success", slots=8)
    here.submit(*names(8))
    first, here.started = here.started, []
    assert Counter(record["device"] for record in first) == {0: 2, 1: 2, 2: 2, 3: 2}
    for record in first:
        if record["device"] == 0:
            here.end(record)
    here.submit("more")
    assert here.set_aside() == {"device:h/GPU-a"}
    assert here.record("more")["state"] == "waiting"
    assert here.why("more") == "DEVICE_SET_ASIDE"


def test_a_long_probe_returns_its_gpu_to_use_before_it_ends(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "gpu", slots=8, devices=1)
    here.submit("a", "b")
    here.play(1)
    assert here.set_aside() == {"device:h/GPU-a"}
    here.now += 10
    here.line.tick("t4")
    [probe] = here.line.admit(here.gpu_class)
    assert probe["probes"] == ["device:h/GPU-a"]
    ExecutorAttempt(here.client, Attempt.of(probe), probe["token"]).claim("h:n:2", "w")
    here.submit("c")
    assert (here.started, here.why("c")) == ([], "DEVICE_SET_ASIDE")
    here.now += 61
    here.line.tick("t4")
    assert len(here.line.admit(here.gpu_class)) == 2
    assert here.set_aside() == set()


def test_a_probe_that_is_cancelled_makes_room_for_the_next_one(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "gpu", devices=1)
    here.submit("a", "b")
    here.play(1)
    here.now += 10
    here.line.tick("t4")
    [probe] = here.line.admit(here.gpu_class)
    here.line.cancel("t4", probe["delivery"])
    released = here.line.release(here.gpu_class, Attempt.of(probe), explain(-15))
    assert [record["probes"] for record in released.granted] == [["device:h/GPU-a"]]


# -- applications ----------------------------------------------------------------------------------


def test_an_application_broken_for_a_minute_costs_no_job_and_no_order(
    machine: Callable[..., Machine],
) -> None:
    imports: list[float] = []

    def how(record: Record) -> str:
        if here.now < 1_000_060:
            imports.append(here.now)
            return "import"
        return "success"

    here = machine(how)
    here.submit(*names(30))
    here.play(20)
    assert here.set_aside() == {APPLICATION}
    assert here.places()[APPLICATION]["error"] == "ImportError: no module named nmupy"
    assert {here.why(name) for name in names(30)} == {"APPLICATION_HELD"}
    here.play(300)
    assert here.succeeded == names(30)
    assert here.set_aside() == set()
    assert len(imports) <= 4 + 6, "after the first jobs, one probe after each pause"
    assert all(
        here.record(name)["attempt"] - here.record(name).get("spared", 0) == 1 for name in names(30)
    )


def test_one_job_alone_waits_for_its_application_without_an_end(
    machine: Callable[..., Machine],
) -> None:
    broken = True
    here = machine(lambda record: "import" if broken else "success")
    here.submit("a")
    here.play(1500, step=2)
    assert here.record("a")["state"] in ("delayed", "waiting")
    assert here.places()[APPLICATION]["pause"] == 300
    broken = False
    here.play(400, step=2)
    assert here.succeeded == ["a"]


def test_a_job_expires_while_its_application_is_held(machine: Callable[..., Machine]) -> None:
    here = machine(lambda record: "import")
    here.submit("a", "b", "c", "d", "e", expires=1_000_030.0)
    here.play(60)
    assert {here.record(each)["reason"] for each in "abcde"} == {"EXPIRED"}


def test_an_import_that_crashes_twice_holds_the_application(
    machine: Callable[..., Machine],
) -> None:
    here: Machine = machine(lambda record: "import crash" if here.now < 1_000_040 else "success")
    here.submit(*names(6))
    here.play(5)
    assert here.set_aside() == {APPLICATION}
    here.play(300)
    assert here.ended == dict.fromkeys(names(6), "SUCCEEDED")


def test_a_task_that_fails_or_dies_never_blames_its_place(machine: Callable[..., Machine]) -> None:
    here = machine(lambda record: "error" if int(record["delivery"][1:]) % 2 else "died")
    here.submit(*names(20))
    here.play(60)
    assert set(here.ended.values()) == {"ERROR"} and len(here.ended) == 20
    assert here.places() == {}
    assert {here.record(name)["attempt"] for name in names(20)} == {1}


def test_a_task_that_ends_with_the_status_of_an_import_blames_nothing(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "status" if record["delivery"] == "bad" else "success")
    here.submit("bad", *names(20))
    here.play(60)
    assert here.places() == {}
    assert here.ended == dict.fromkeys(names(20), "SUCCEEDED") | {"bad": "INFRA"}
    assert here.record("bad")["attempt"] == 3


def test_a_broken_image_holds_its_own_jobs_and_no_others(machine: Callable[..., Machine]) -> None:
    here = machine(
        lambda record: "import" if record.get("image") == "bad" else "success",
        site=Site(application="shop", images={"t4": "good"}),
        devices=0,
    )
    bad, good = names(20)[:10], names(20)[10:]
    here.submit(*bad, image="bad")
    here.submit(*good)
    here.play(3)
    assert here.succeeded == good
    assert here.set_aside() == {"application:shop@bad"}
    assert {here.why(name) for name in bad} == {"APPLICATION_HELD"}
    here.how = lambda record: "success"
    here.play(60)
    assert here.succeeded == good + bad


# -- hosts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["start", "crash"])
def test_a_host_that_starts_nothing_for_a_minute_costs_no_job(
    machine: Callable[..., Machine], fault: str
) -> None:
    here: Machine = machine(lambda record: fault if here.now < 1_000_060 else "success")
    here.submit(*names(20))
    here.play(25)
    assert here.set_aside() == {HOST}
    assert {here.why(name) for name in names(20)} == {"HOST_SET_ASIDE"}
    here.play(900)
    assert here.ended == dict.fromkeys(names(20), "SUCCEEDED")


def test_one_job_whose_executor_dies_at_its_start_ends_by_its_own_attempts(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "crash" if record["delivery"] == "bad" else "success")
    here.submit("bad", *names(10))
    here.play(2)
    for number in range(30):
        here.submit(f"k{number}")
        here.play(1)
        here.now += 0.5
        here.line.tick("t4")
        here.started += here.line.admit(here.gpu_class)
    assert here.ended.pop("bad") == "INFRA"
    assert set(here.ended.values()) == {"SUCCEEDED"} and len(here.ended) == 40
    assert here.set_aside() == set()


def test_two_jobs_that_kill_their_executors_do_not_block_a_third(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: "success" if record["delivery"] == "good" else "crash", slots=1)
    here.submit("bad1", "bad2", "good")
    here.play(60)
    assert here.succeeded == ["good"]


# -- bounds ----------------------------------------------------------------------------------------


def test_senders_cannot_make_the_queue_remember_more_places_than_its_bound(
    machine: Callable[..., Machine],
) -> None:
    site = Site(application="shop", images={"t4": "good"})
    here = machine(lambda record: "import", site=site, devices=0, slots=300)
    for number in range(200):
        here.submit(f"j{number}", image=f"image{number}" + "x" * 400)
    here.end_all()
    assert len(here.places()) == 64
    here.now += 10_000
    here.line.tick("t4")
    assert here.places() == {}


@pytest.mark.parametrize("where", ["machine", "cluster"])
def test_no_script_is_long_with_a_held_application_and_a_full_line(
    machine: Callable[..., Machine], where: str
) -> None:
    site = Site("h", "shop") if where == "machine" else Site("", "shop", {}, {"t4": "image"})
    here = machine(lambda record: "import", site=site, devices=0, slots=4)
    here.submit(*names(8))
    pipe = here.client.pipeline(transaction=False)
    for number in range(20_000):
        name = f"w{number}"
        record: Any = {"delivery": name, "id": name, "gpu_class": "t4", "isolation": "shared"}
        record |= {"state": "waiting", "arrival": 100 + number}
        pipe.hset(class_key("t4", "jobs"), name, json.dumps(record))
        pipe.zadd(class_key("t4", "waiting_shared"), {name: 100 + number})
    pipe.execute()
    times = Times(here.client)
    here.end_all()
    for _ in range(100):
        times(here.line.tick, "t4")
        times(here.line.admit, here.gpu_class)
        here.now += 0.1
    assert here.set_aside()
    assert times.longest < 0.1


def test_the_start_is_blamed_by_every_status_but_a_stop() -> None:
    assert {code: explain(code).blames for code in (1, 127, -9, -11, 0, 75, 78)} == dict.fromkeys(
        (1, 127, -9, -11, 0, 75, 78), START
    )
    assert {code: explain(code).blames for code in (None, 76, 143, -15)} == dict.fromkeys(
        (None, 76, 143, -15), ""
    )
