"""The clocks of pods that do not run yet, or do not end: what is noted, and what is given up when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.base import Held, Observed
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow import clocks as module
from gpuqueue.launchers.kubernetes.follow.attempts import of_pod
from gpuqueue.launchers.kubernetes.follow.clocks import Clocks
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry, PodTable
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings

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
class Notes:
    """Keeps what it is told."""

    runs: bool = False
    noted: list[Observed] = field(default_factory=list)
    doomed: list[tuple[str, EndReason, str]] = field(default_factory=list)
    fails: bool = False

    def observed(self, seen: list[Observed]) -> None:
        if self.fails:
            raise ConnectionError("Redis is away")
        self.noted += seen

    def doom(self, held: Held, reason: EndReason, error: str) -> bool:
        self.doomed.append((held.delivery, reason, error))
        return not self.runs


@dataclass
class Api:
    """Deletes, or refuses to."""

    away: bool = False
    deleted: list[str] = field(default_factory=list)

    def delete_job(self, name: str) -> bool:
        if self.away:
            raise ApiError("no answer", asked=f"delete job {name}")
        self.deleted.append(name)
        return True


@dataclass
class Bench:
    """Clocks, with a hand on the time that they read."""

    monkeypatch: pytest.MonkeyPatch
    api: Api = field(default_factory=Api)
    notes: Notes = field(default_factory=Notes)
    table: PodTable = field(default_factory=PodTable)
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(module.time, "monotonic", lambda: self.elapsed)
        made: Any = Clocks(self.api, self.notes, SETTINGS, 60, 5, lambda entry: of_pod(entry, "ns"))  # type: ignore[arg-type]
        self.clocks: Clocks = made

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
        """Look, so many seconds after the pod was created."""
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


def test_what_a_pod_waits_for_is_noted_once(bench: Bench) -> None:
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


def test_what_could_not_be_noted_is_noted_at_the_next_look(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.notes.fails = True
    with pytest.raises(ConnectionError):
        bench.check(1)
    bench.notes.fails = False
    bench.check(2)
    assert len(bench.notes.noted) == 1


def test_a_clock_counts_from_the_apis_own_time(bench: Bench) -> None:
    """So that a watcher that has just begun goes on where the one before it was."""
    bench.put(UNSCHEDULABLE)
    bench.check(99)
    assert bench.api.deleted == []
    bench.check(100)
    ((delivery, reason, error),) = bench.notes.doomed
    assert (delivery, reason, bench.api.deleted) == ("a", EndReason.UNSCHEDULABLE, ["job-a"])
    assert "within 100 s" in error and "0/1 nodes are available" in error


def test_an_image_that_fails_late_has_its_whole_grace(bench: Bench) -> None:
    bench.put(waiting("ContainerCreating"), node="n")
    bench.check(150)
    bench.put(waiting("ErrImagePull", "connection refused"), node="n")
    bench.check(151)
    bench.check(170)
    assert bench.api.deleted == []
    bench.check(171)
    assert bench.notes.doomed[0][1] == EndReason.IMAGE and bench.api.deleted == ["job-a"]


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_what_can_never_work_is_given_up_at_once(bench: Bench, reason: str) -> None:
    bench.put(waiting(reason), node="n")
    bench.check(0)
    assert bench.api.deleted == ["job-a"]


def test_an_attempt_that_runs_by_now_is_left_alone(bench: Bench) -> None:
    bench.notes.runs = True
    bench.put(UNSCHEDULABLE)
    bench.check(100)
    bench.check(101)
    assert bench.api.deleted == [] and len(bench.notes.doomed) == 1


def test_a_deletion_that_is_not_taken_is_asked_for_again(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.api.away = True
    bench.check(100)
    bench.api.away = False
    bench.check(101)
    bench.check(102)
    assert bench.api.deleted == ["job-a"]


def test_a_pod_whose_node_does_not_confirm_its_end_is_said_to_be_so_and_keeps_its_slot(
    bench: Bench,
) -> None:
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
    assert bench.api.deleted == [] and bench.notes.doomed == []


def test_a_container_that_runs_must_be_claimed_in_time(bench: Bench) -> None:
    bench.put(
        {"phase": "Running", "containerStatuses": [{"name": "executor", "state": {"running": {}}}]},
        node="n",
    )
    bench.check(1)
    assert [each.claim_within for each in bench.notes.noted] == [60]
