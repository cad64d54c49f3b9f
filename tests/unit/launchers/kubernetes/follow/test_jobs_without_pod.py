"""A Job without a pod: read seldom, waited for, given up, and its end returned on every call."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.base import LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.follow.jobs_without_pod import GONE, READ_EVERY, JobsWithoutPod
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.unit.launchers.kubernetes.follow.test_clocks import Observations

#: 2020-01-01 in Unix seconds.
CREATED = 1_577_836_800.0


class Api:
    """An API server with one Job and its events."""

    namespace = "ns"

    def __init__(self) -> None:
        record = {
            "delivery": "a",
            "id": "a",
            "gpu_class": "t4",
            "isolation": "shared",
            "attempt": 1,
            "token": "x",
        }
        meta = {
            "name": "job-a",
            "creationTimestamp": "2020-01-01T00:00:00Z",
            "annotations": {RECORD: _json(record)},
        }
        self.job: Job | None = msgspec.convert({"metadata": meta}, Job)
        self.message = ""
        self.unreachable = False
        self.requests = 0

    def get_job(self, name: str) -> Job | None:
        self.requests += 1
        if self.unreachable:
            raise ApiError("no answer")
        return self.job

    def list_pods(self, selector: str) -> tuple[list[Any], str]:
        return [], "1"

    def job_events(self, name: str) -> list[Event]:
        return (
            [msgspec.convert({"reason": "FailedCreate", "message": self.message}, Event)]
            if self.message
            else []
        )

    def delete_job(self, name: str) -> bool:
        self.job = None
        return True


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Bench:
    """JobsWithoutPod with a clock that tests set."""

    def __init__(self) -> None:
        self.api, self.notes, self.now = Api(), Observations(), 0.0
        made: Any = JobsWithoutPod(self.api, self.notes, ClusterSettings(), lambda: self.now)  # type: ignore[arg-type]
        self.jobs: JobsWithoutPod = made

    def read(self) -> Any:
        self.now += READ_EVERY
        return self.jobs.end_of("job-a")


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    assert made.read() is None and made.api.requests == 0, "the watch reports pods earlier"
    return made


def test_job_without_pod_is_read_seldom(bench: Bench) -> None:
    assert bench.api.job is not None
    fresh = msgspec.structs.replace(
        bench.api.job.metadata, creation_timestamp="2999-01-01T00:00:00Z"
    )
    bench.api.job = msgspec.structs.replace(bench.api.job, metadata=fresh)
    bench.read()
    bench.jobs.end_of("job-a")
    bench.jobs.end_of("job-a")
    assert bench.api.requests == 1


def test_end_is_returned_on_every_call(bench: Bench) -> None:
    bench.api.job = None
    assert [bench.read(), bench.jobs.end_of("job-a"), bench.read()] == [GONE] * 3
    bench.jobs.pod_appeared("job-a")
    assert bench.jobs.end_of("job-a") is None


def test_the_age_of_a_job_is_told_by_the_clock_of_redis(bench: Bench) -> None:
    bench.notes.time = CREATED + ClusterSettings().launch_timeout - 1
    assert bench.read() is None and bench.notes.given_up == []
    bench.notes.time += 2
    assert bench.read() is None and len(bench.notes.given_up) == 1


@pytest.mark.parametrize(
    ("message", "reason", "wait"),
    [
        ('pods "x" is forbidden: exceeded quota: gpus', EndReason.QUOTA, WaitReason.QUOTA),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest"',
            EndReason.BAD_SPEC,
            WaitReason.LAUNCH_REFUSED,
        ),
        ("", EndReason.INFRA, WaitReason.STARTING),
    ],
)
def test_job_without_pod_is_given_up_with_the_reason(
    bench: Bench, message: str, reason: EndReason, wait: WaitReason
) -> None:
    bench.api.message = message
    assert bench.read() is None
    assert bench.notes.noted[0].wait == wait
    ((_, given_up, error),) = bench.notes.given_up
    assert given_up == reason and message in error
    assert bench.jobs.end_of("job-a") is GONE, "its end is read at once"


def test_finished_job_without_pod_ended_for_an_unknown_reason(bench: Bench) -> None:
    assert bench.api.job is not None
    status = {
        "conditions": [
            {
                "type": "Complete",
                "status": "True",
                "reason": "CompletionsReached",
                "message": "done",
            }
        ]
    }
    bench.api.job = msgspec.convert({"metadata": {"name": "job-a"}, "status": status}, Job)
    end = bench.read()
    assert end.reason == EndReason.INFRA and "CompletionsReached: done" in end.error


def test_unreachable_server_raises_launcher_unavailable(bench: Bench) -> None:
    bench.api.unreachable = True
    with pytest.raises(LauncherUnavailable):
        bench.read()
