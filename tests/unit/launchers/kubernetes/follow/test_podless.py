"""A Job without a pod: looked at seldom, waited for, given up, and its end answered as long as
somebody asks.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.base import LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.follow.podless import GONE, LOOK_EVERY, Podless
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.unit.launchers.kubernetes.follow.test_clocks import Notes


class Api:
    """One Job, and what is said of it."""

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
        self.words = ""
        self.away = False
        self.asked = 0

    def get_job(self, name: str) -> Job | None:
        self.asked += 1
        if self.away:
            raise ApiError("no answer")
        return self.job

    def list_pods(self, selector: str) -> tuple[list[Any], str]:
        return [], "1"

    def job_events(self, name: str) -> list[Event]:
        return (
            [msgspec.convert({"reason": "FailedCreate", "message": self.words}, Event)]
            if self.words
            else []
        )

    def delete_job(self, name: str) -> bool:
        self.job = None
        return True


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Bench:
    """A Podless with a hand on its time."""

    def __init__(self) -> None:
        self.api, self.notes, self.now = Api(), Notes(), 0.0
        made: Any = Podless(self.api, self.notes, ClusterSettings(), lambda: self.now)  # type: ignore[arg-type]
        self.podless: Podless = made

    def look(self) -> Any:
        self.now += LOOK_EVERY
        return self.podless.end_of("job-a")


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    assert made.look() is None and made.api.asked == 0, "not at once: the watch is sooner"
    return made


def test_it_is_looked_at_seldom(bench: Bench) -> None:
    assert bench.api.job is not None
    fresh = msgspec.structs.replace(
        bench.api.job.metadata, creation_timestamp="2999-01-01T00:00:00Z"
    )
    bench.api.job = msgspec.structs.replace(bench.api.job, metadata=fresh)
    bench.look()
    bench.podless.end_of("job-a")
    bench.podless.end_of("job-a")
    assert bench.api.asked == 1


def test_its_end_is_answered_as_long_as_somebody_asks(bench: Bench) -> None:
    bench.api.job = None
    assert [bench.look(), bench.podless.end_of("job-a"), bench.look()] == [GONE] * 3
    bench.podless.seen("job-a")
    assert bench.podless.end_of("job-a") is None


@pytest.mark.parametrize(
    ("words", "reason", "wait"),
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
def test_what_had_no_pod_for_too_long_is_given_up_with_the_reason(
    bench: Bench, words: str, reason: EndReason, wait: WaitReason
) -> None:
    bench.api.words = words
    assert bench.look() is None
    assert bench.notes.noted[0].wait == wait
    ((_, doomed, error),) = bench.notes.doomed
    assert doomed == reason and words in error
    assert bench.podless.end_of("job-a") is GONE, "and its end is looked for at once"


def test_a_finished_job_whose_pod_is_gone_ended_unseen(bench: Bench) -> None:
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
    end = bench.look()
    assert end.reason == EndReason.INFRA and "CompletionsReached: done" in end.error


def test_nothing_is_concluded_while_the_server_is_away(bench: Bench) -> None:
    bench.api.away = True
    with pytest.raises(LauncherUnavailable):
        bench.look()
