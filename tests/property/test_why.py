"""The reason why a job has not started."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import WaitReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.turn import Turn, Turns
from tests.property.open_class import NOW, OpenClass

pytestmark = pytest.mark.integration
FULL = GpuClass("t4", shared_slots=1)
#: The class has a free slot by now, and no job was admitted since.
FREE = GpuClass("t4", shared_slots=2)


class Queue(OpenClass):
    """``a`` runs, and ``b`` waits, in a class of a cluster."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, site=Site("", "shop"))

    def submit(self, **more: Any) -> None:
        for name in ("a", "b"):
            record: Any = {"delivery": name, "id": name, "isolation": "shared"}
            self.line.take_in(FULL, record | more, "{}")

    def fail(self, place: str, **more: Any) -> None:
        known = {"failures": 2, "jobs": {}, "last": NOW, "since": NOW} | more
        self.client.hset(class_key("t4", "places"), place, json.dumps(known))

    def reason(self, gpu_class: GpuClass) -> str:
        found = self.reader.why(gpu_class, "b")
        assert found is not None
        return found.reason


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_nothing_is_told_of_an_unknown_job(queue: Queue) -> None:
    assert queue.reader.why(FULL, "gone") is None


@pytest.mark.parametrize(
    ("image", "until", "reason"),
    [
        ("shop:1", NOW + 5, "APPLICATION_HELD"),
        ("shop:2", NOW + 5, "BEHIND_OTHERS"),
        (None, NOW + 5, "APPLICATION_HELD"),  # the image of the class is not known here
        ("shop:1", NOW - 5, "BEHIND_OTHERS"),
        ("shop:1", None, "BEHIND_OTHERS"),
    ],
)
def test_a_job_waits_for_the_application_of_its_image(
    queue: Queue, image: str | None, until: float | None, reason: str
) -> None:
    queue.submit(**({"image": image} if image else {}))
    queue.fail("application:shop@shop:1", **({"until": until, "pause": 2} if until else {}))
    assert queue.reason(FREE) == reason
    assert queue.reason(FULL) == "NO_FREE_SLOT", "a slot is what every image needs"


def test_a_job_that_runs_or_reports_waits_for_what_its_launcher_saw(queue: Queue) -> None:
    queue.submit()
    attempt, worker = Attempt.of(queue.record("a")), "t4-a-1@h"
    executor = ExecutorAttempt(queue.client, attempt, queue.record("a")["token"])
    executor.claim("h:n:1", worker)
    for _ in range(2):
        assert queue.line.observed([Observation(attempt, wait=WaitReason.UNSCHEDULABLE)]) == [True]
        found = queue.reader.why(FULL, "a")
        assert found and (found.reason, found.place, found.ahead) == ("UNSCHEDULABLE", 0, [])
        executor.report("SUCCEEDED")
    assert queue.record("a")["state"] == "reporting"


def test_a_job_in_no_line_waits_for_nothing(queue: Queue) -> None:
    queue.submit()
    queue.line.accept("t4", {"delivery": "c", "id": "c", "isolation": "shared"}, "{}")
    assert queue.record("c")["state"] == "accepted"
    found = queue.reader.why(FULL, "c")
    assert found and (found.reason, found.place, found.ahead) == ("", 0, [])


def test_only_jobs_before_a_job_are_ahead_of_it(queue: Queue) -> None:
    queue.submit()
    record: Any = {"delivery": "c", "id": "c", "isolation": "shared"}
    queue.line.take_in(FULL, record, "{}")
    places = {name: queue.reader.why(FULL, name) for name in ("b", "c")}
    ahead = {name: (why.place, why.ahead) for name, why in places.items() if why}
    assert ahead == {"b": (1, []), "c": (2, ["b"])}


def test_a_slot_of_no_job_asks_for_no_stop(queue: Queue) -> None:
    """It is set aside as damaged, and nothing runs that could be stopped."""
    for key in ("holders_shared", "stopping"):
        queue.client.zadd(class_key("t4", key), {"none": NOW})
    [turn] = Turns(queue.client, queue.line).take([FULL])
    assert isinstance(turn, Turn)
    assert (turn.stopping, turn.problems) == ([], [])
    assert queue.client.zcard(class_key("t4", "stopping")) == 0
