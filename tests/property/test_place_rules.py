"""What a place that is set aside holds back, what it leaves alone, and when it is used again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import WaitReason
from gpuqueue.store import places
from gpuqueue.store.keys import class_key
from tests.property.faulty_machine import APPLICATION, HOST, Ends, Machine

pytestmark = pytest.mark.integration


@pytest.fixture
def machine(schedule_redis: redis.Redis) -> Callable[..., Machine]:
    def make(how: Ends, **more: Any) -> Machine:
        return Machine(schedule_redis, how, **more)

    return make


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
    here = machine(lambda record: "import", site=PODS, devices=0)
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
