"""Clocks of pods that do not run yet, or do not end: what is recorded, and what is given up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import redis

from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow.attempts import of_pod
from gpuqueue.launchers.kubernetes.follow.clocks import PodClocks
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry, PodTable
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.telemetry import STEP_FAILURES

#: 2026-11-25T00:00:00Z.
MIDNIGHT = 1795564800.0
SETTINGS = ClusterSettings(
    unschedulable_timeout=100,
    image_pull_timeout=200,
    image_error_grace=20,
    config_error_grace=10,
    terminating_timeout=30,
)


@dataclass
class Observations:
    """Stores what it is called with."""

    runs: bool = False
    noted: list[Observation] = field(default_factory=list)
    given_up: list[tuple[str, EndReason, str]] = field(default_factory=list)
    room_for: list[int] = field(default_factory=list)
    keeps_all: bool = False
    fails: bool = False
    time: float = 4e9
    """The time of Redis: long after all that happens here."""

    def now(self) -> float:
        return self.time

    def observed(self, observations: list[Observation]) -> None:
        if self.fails:
            raise ConnectionError("Redis is away")
        self.noted += observations

    def make_room(self, pods: int) -> None:
        self.room_for.append(pods)
        if self.keeps_all:
            raise ValueError("a class is damaged")

    def give_up(self, attempt: Attempt, reason: EndReason, error: str) -> bool:
        self.given_up.append((attempt.delivery, reason, error))
        return not self.runs


@dataclass
class Api:
    """Deletes Jobs, or fails to."""

    unreachable: bool = False
    deleted: list[str] = field(default_factory=list)

    def delete_job(self, name: str) -> bool:
        if self.unreachable:
            raise ApiError("no answer", request=f"delete job {name}")
        self.deleted.append(name)
        return True


@dataclass
class Bench:
    """PodClocks with a clock that tests set."""

    monkeypatch: pytest.MonkeyPatch
    api: Api = field(default_factory=Api)
    notes: Observations = field(default_factory=Observations)
    table: PodTable = field(default_factory=PodTable)
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(time, "monotonic", lambda: self.elapsed)
        # Doubles of what the clocks use.
        api: Any = self.api
        notes: Any = self.notes
        self.clocks = PodClocks(api, notes, SETTINGS, 60, 5, lambda entry: of_pod(entry, "ns"))

    def put(self, status: dict[str, Any], *, node: str = "", **meta: Any) -> Entry:
        record = {
            "delivery": "a",
            "id": "a",
            "gpu_class": "t4",
            "isolation": "shared",
            "attempt": 1,
            "token": "x",
        }
        body = {
            "metadata": {
                "name": "job-a-1",
                "uid": "u",
                "creationTimestamp": "2026-11-25T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": "job-a"},
                "annotations": {RECORD: msgspec.json.encode(record).decode()},
                **meta,
            },
            "spec": {"nodeName": node} if node else {},
            "status": status,
        }
        entry = self.table.put(msgspec.json.decode(msgspec.json.encode(body), type=Pod), 0.0)
        self.clocks.changed(entry)
        return entry

    def check(self, after: float) -> None:
        """Check, so many seconds after the creation of the pod."""
        self.elapsed = after
        self.clocks.check(self.table.pending(), MIDNIGHT + after)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastTransitionTime": "2026-11-25T00:00:00Z",
    }
    return {
        "phase": "Pending",
        "conditions": [scheduled],
        "containerStatuses": [{"name": "executor", "state": state}],
    }


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available",
            "lastTransitionTime": "2026-11-25T00:00:00Z",
        }
    ],
}


def test_wait_of_a_pod_is_recorded_once(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.check(1)
    bench.put(UNSCHEDULABLE)
    bench.check(2)
    (noted,) = bench.notes.noted
    assert (noted.wait, noted.detail, noted.pod) == (
        WaitReason.UNSCHEDULABLE,
        "0/1 nodes are available",
        "job-a-1",
    )


def test_room_is_made_as_long_as_a_pod_finds_none(bench: Bench) -> None:
    bench.put(waiting("ContainerCreating"), node="n")
    bench.check(1)
    assert bench.notes.room_for == []
    bench.put(UNSCHEDULABLE)
    bench.check(2)
    bench.check(3)
    assert bench.notes.room_for == [1, 1]


def test_a_clock_runs_out_though_no_room_can_be_made(bench: Bench) -> None:
    bench.notes.keeps_all = True
    bench.put(UNSCHEDULABLE)
    bench.check(101)
    assert (bench.notes.room_for, bench.api.deleted) == ([1], ["job-a"])


def test_failed_observation_is_recorded_at_the_next_check(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.notes.fails = True
    with pytest.raises(ConnectionError):
        bench.check(1)
    bench.notes.fails = False
    bench.check(2)
    assert len(bench.notes.noted) == 1


def test_clock_starts_at_the_time_of_the_api(bench: Bench) -> None:
    """So a new leader continues where the last one stopped."""
    bench.put(UNSCHEDULABLE)
    bench.check(99)
    assert bench.api.deleted == []
    bench.check(100)
    ((delivery, reason, error),) = bench.notes.given_up
    assert (delivery, reason, bench.api.deleted) == ("a", EndReason.UNSCHEDULABLE, ["job-a"])
    assert "within 100 s" in error and "0/1 nodes are available" in error


def test_late_image_error_gets_the_whole_grace(bench: Bench) -> None:
    bench.put(waiting("ContainerCreating"), node="n")
    bench.check(150)
    bench.put(waiting("ErrImagePull", "connection refused"), node="n")
    bench.check(151)
    bench.check(170)
    assert bench.api.deleted == []
    bench.check(171)
    assert bench.notes.given_up[0][1] == EndReason.IMAGE and bench.api.deleted == ["job-a"]


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_hopeless_attempt_is_given_up_at_once(bench: Bench, reason: str) -> None:
    bench.put(waiting(reason), node="n")
    bench.check(0)
    assert bench.api.deleted == ["job-a"]


def test_attempt_that_runs_by_now_is_not_given_up(bench: Bench) -> None:
    bench.notes.runs = True
    bench.put(UNSCHEDULABLE)
    bench.check(100)
    bench.check(101)
    assert bench.api.deleted == [] and len(bench.notes.given_up) == 1


def test_rejected_deletion_is_requested_again(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.api.unreachable = True
    bench.check(100)
    bench.api.unreachable = False
    bench.check(101)
    bench.check(102)
    assert bench.api.deleted == ["job-a"]


def test_pod_of_a_silent_node_is_unconfirmed_and_keeps_its_slot(bench: Bench) -> None:
    running = {
        "phase": "Running",
        "containerStatuses": [{"name": "executor", "state": {"running": {}}}],
    }
    deleted = {"deletionTimestamp": "2026-11-25T00:00:05Z", "deletionGracePeriodSeconds": 5}
    bench.put(running, node="n", **deleted)
    bench.check(34)
    bench.check(36)
    bench.check(37)
    unconfirmed = [each for each in bench.notes.noted if each.wait == WaitReason.UNCONFIRMED]
    assert len(unconfirmed) == 1 and "node n" in unconfirmed[0].detail
    assert bench.api.deleted == [] and bench.notes.given_up == []


def test_running_container_must_be_claimed_in_time(bench: Bench) -> None:
    bench.put(
        {"phase": "Running", "containerStatuses": [{"name": "executor", "state": {"running": {}}}]},
        node="n",
    )
    bench.check(1)
    assert [each.claim_within for each in bench.notes.noted] == [60]


# -- one pod fails ---------------------------------------------------------------------------------


def failing(bench: Bench, *names: str) -> None:
    """Pods of these names cannot be read."""
    read = bench.clocks._attempt_of

    def attempt_of(entry: Entry) -> Any:
        if entry.pod.metadata.name in names:
            raise ValueError("broken")
        return read(entry)

    bench.clocks._attempt_of = attempt_of


def two(bench: Bench, status: dict[str, Any]) -> None:
    for number, name in (("1", "bad"), ("2", "good")):
        labels = {"batch.kubernetes.io/job-name": f"job-{number}"}
        bench.put(status, node="n", name=name, uid=number, labels=labels)


def test_a_pod_that_cannot_be_read_keeps_no_other_from_being_recorded(bench: Bench) -> None:
    failing(bench, "bad")
    before = STEP_FAILURES.labels("pod")._value.get()
    two(bench, waiting("ContainerCreating"))
    bench.check(1)
    assert [each.pod for each in bench.notes.noted] == ["good"]
    assert STEP_FAILURES.labels("pod")._value.get() == before + 1


def test_a_pod_that_cannot_be_read_keeps_no_other_from_its_clock(bench: Bench) -> None:
    failing(bench, "bad")
    two(bench, waiting("InvalidImageName"))
    before = STEP_FAILURES.labels("clock")._value.get()
    bench.check(25)
    assert bench.api.deleted == ["job-2"]
    assert STEP_FAILURES.labels("clock")._value.get() == before + 1


def test_a_deletion_that_fails_keeps_no_other_pod_from_its_clock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.clocks._steps, "_clock", lambda: bench.elapsed)
    delete = bench.api.delete_job
    errors = ["broken"]

    def broken(name: str) -> bool:
        if name == "job-1" and errors:
            raise KeyError(errors.pop())
        return delete(name)

    monkeypatch.setattr(bench.api, "delete_job", broken)
    two(bench, waiting("InvalidImageName"))
    bench.check(25)
    assert bench.api.deleted == ["job-2"]
    bench.check(30)
    assert bench.api.deleted == ["job-2", "job-1"]


def test_no_clock_runs_out_while_redis_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(bench, waiting("InvalidImageName"))

    def away(*arguments: Any) -> bool:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(bench.notes, "give_up", away)
    with pytest.raises(redis.ConnectionError):
        bench.check(25)
    assert bench.api.deleted == []
