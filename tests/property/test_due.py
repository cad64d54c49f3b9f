"""A job with an eta or expires wakes the leader only if it is due sooner than what is due next."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.job import Job
from gpuqueue.store.line import Line
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
#: Slots for both isolations of one class; no slot of the other.
T4, FULL = GpuClass("t4", shared_slots=1, exclusive_slots=1), GpuClass("full")
NOW = 1_000_000.0


class Arrivals(Timed):
    """Jobs that arrive in classes at one moment."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushdb()
        self.client, self.now = client, NOW
        self.line = Line(client, by="d1")
        for each in (T4, FULL):
            self.line.open(each.name)

    def sooner(
        self, name: str, into: GpuClass = FULL, times: dict[str, float] | None = None, **more: float
    ) -> bool:
        later: Any = {key: NOW + seconds for key, seconds in ((times or {}) | more).items()}
        job = Job(name, "shop.train", into.name, "shared", **later)
        return self.line.take_in(into, job.record(), "{}").sooner


@pytest.fixture
def arrivals(schedule_redis: redis.Redis) -> Arrivals:
    return Arrivals(schedule_redis)


@pytest.mark.parametrize("kind", ["eta", "expires"])
def test_only_a_job_due_before_all_others_wakes_the_leader(arrivals: Arrivals, kind: str) -> None:
    assert not arrivals.sooner("of no time")
    assert arrivals.sooner("a", times={kind: 50.0})
    assert not arrivals.sooner("b", times={kind: 50.0})
    assert not arrivals.sooner("c", times={kind: 50.1})
    assert arrivals.sooner("d", times={kind: 49.9})
    assert not arrivals.sooner("d", times={kind: 1.0}), "a known delivery adds nothing"
    assert not arrivals.sooner("of no time either")


def test_the_sooner_of_eta_and_expires_counts(arrivals: Arrivals) -> None:
    assert arrivals.sooner("a", eta=50.0, expires=40.0)
    assert not arrivals.sooner("b", eta=45.0, expires=60.0)
    assert arrivals.sooner("c", eta=39.0, expires=60.0)
    assert not arrivals.sooner("d", eta=-5.0), "an eta of the past is none"
    assert arrivals.sooner("e", eta=-5.0, expires=38.0)
    assert arrivals.sooner("f", expires=-1.0), "expired on arrival"


def test_each_class_has_times_apart(arrivals: Arrivals) -> None:
    assert arrivals.sooner("a", expires=5.0)
    assert arrivals.sooner("b", into=GpuClass("other"), expires=50.0)
    assert not arrivals.sooner("c", expires=50.0)


def test_the_deadline_of_an_attempt_is_due_as_well(arrivals: Arrivals) -> None:
    assert arrivals.sooner("a", into=T4, expires=10.0)  # it starts, and its expiry is gone
    arrivals.line.launched(Attempt("t4", "a", 1), "h:1", 20.0)
    assert not arrivals.sooner("b", into=T4, expires=21.0)
    assert arrivals.sooner("c", into=T4, expires=19.0)
