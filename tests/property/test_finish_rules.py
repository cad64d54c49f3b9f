"""Which finisher has a job, for how long, and which ended attempts need no result."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1)
RECORD: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}


class Queue(OpenClass):
    """A class with one job."""

    def refuse(self) -> None:
        """Let the job wait for a finisher."""
        assert self.line.accept("t4", RECORD | {"reason": "REJECTED"}, "{}") == "finishing"

    def claim(self, finisher: str, lease: float = 60) -> str:
        return self.line.finish_claim("t4", "a", finisher, lease)[0]

    def standing(self) -> tuple[str | None, str | None, list[str]]:
        """Return state and reason of the job, and the jobs that finishers may take."""
        record = self.reader.record("t4", "a") or {}
        names: Any = self.client.zrange(class_key("t4", "finishing"), 0, -1)
        return record.get("state"), record.get("reason"), names


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis, keep=1000)


def test_a_clock_that_jumps_back_lets_a_job_be_finished_at_once(queue: Queue) -> None:
    queue.refuse()
    queue.now -= 3600
    assert queue.claim("f", lease=60) == "ok", "no finisher has it"
    queue.now += 61
    assert queue.claim("g") == "ok", "the lease of the first one is over"


@pytest.mark.parametrize("outcome", ["RETRIED", "IGNORED"])
def test_a_process_that_died_in_a_silent_report_needs_no_result(queue: Queue, outcome: str) -> None:
    [granted] = queue.line.take_in(T4, RECORD, "{}").granted
    executor = ExecutorAttempt(queue.client, Attempt.of(granted), granted["token"])
    executor.claim("h:n:1", "w")
    executor.report(outcome)
    queue.line.release(T4, Attempt.of(granted), End(EndReason.ERROR, "exit code 1"), "h:n:1")
    assert queue.claim("f") == "superseded"
    assert queue.standing() == ("ended", outcome, [])


def test_a_finish_is_confirmed_or_failed_by_its_finisher_alone(queue: Queue) -> None:
    def refused(finisher: str) -> bool:
        failed = queue.line.finish_failed("t4", "a", finisher, "no callback")
        return failed is None and not queue.line.finished("t4", "a", finisher, "ERROR")

    assert refused("f"), "there is no job"
    queue.refuse()
    assert refused("f"), "no finisher has it"
    queue.claim("f")
    assert refused("g"), "another finisher has it"
    assert queue.line.finished("t4", "a", "f", "REJECTED")
    assert refused("f"), "it has ended"
    assert queue.standing() == ("ended", "REJECTED", [])
