"""Silent nodes: what pods show of them, who is told, and what the word of an operator ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow import silence as module
from gpuqueue.launchers.kubernetes.follow.attempts import of_pod
from gpuqueue.launchers.kubernetes.follow.pod_table import PodTable
from gpuqueue.launchers.kubernetes.follow.silence import Silence, SilentAttempts
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.model.attempt import RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from tests.support.pod_objects import pod_events

MIDNIGHT = 1795564800.0
T0 = "2026-11-25T00:00:00Z"


def condition(kind: str, status: str, reason: str | None = None) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": T0}


SCHEDULED = condition("PodScheduled", "True")
RUNS = [{"name": "executor", "state": {"running": {"startedAt": T0}}}]
STARTS = [{"name": "executor", "state": {"waiting": {"reason": "ContainerCreating"}}}]


def status(ready: str, reason: str | None = None, containers: Any = RUNS) -> dict[str, Any]:
    conditions = [SCHEDULED, condition("Ready", ready, reason)]
    conditions.append(condition("ContainersReady", "True" if containers is RUNS else "False"))
    return {"phase": "Running", "startTime": T0, "conditions": conditions} | {
        "containerStatuses": containers
    }


SILENT, ALIVE = status("False"), status("True")
STARTING = status("False", "ContainersNotReady", STARTS)


@dataclass
class Cluster:
    """Pods, words of operators, and what the leader does with both."""

    words: dict[tuple[str, str], float] = field(default_factory=dict)
    ended: list[tuple[str, End]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    without_slot: set[str] = field(default_factory=set)
    unreachable: bool = False
    now: float = MIDNIGHT + 60
    ahead: float = 0.0

    def __post_init__(self) -> None:
        self.table = PodTable()
        this: Any = self
        self.silent = SilentAttempts(
            this, this, self.on_end, lambda entry: of_pod(entry, "ns"), lambda uid: uid == "late"
        )

    def delete_job(self, name: str) -> bool:
        if self.unreachable:
            raise ApiError("no answer", request="delete")
        self.deleted.append(name)
        return True

    def on_end(self, running: RunningAttempt, end: End) -> bool:
        self.ended.append((running.attempt.delivery, end))
        return True

    def confirmed_gone(self) -> dict[tuple[str, str], float]:
        return self.words

    def with_slot(self, running: list[RunningAttempt]) -> list[RunningAttempt]:
        return [each for each in running if each.attempt.delivery not in self.without_slot]

    def put(self, name: str, node: str, status: dict[str, Any], gpu_class: str = "t4") -> Any:
        record = {"delivery": name, "id": name, "gpu_class": gpu_class, "isolation": "shared"}
        record |= {"attempt": 1, "token": "x"}  # type: ignore[dict-item]
        body = {
            "metadata": {
                "name": f"{name}-pod",
                "uid": name,
                "creationTimestamp": T0,
                "labels": {"batch.kubernetes.io/job-name": f"job-{name}"},
                "annotations": {RECORD: json.dumps(record)},
            },
            "spec": {"nodeName": node},
            "status": status,
        }
        return self.table.put(msgspec.json.decode(json.dumps(body), type=Pod), 0.0)

    def check(self) -> dict[tuple[str, str], int]:
        silence = Silence(self.table.silent_nodes(), 40, self.now, self.ahead)
        self.silent.check(self.table.snapshot(), silence)
        return dict(self.silent.count)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(module, "LOOKS_EVERY", 0.0)
    return Cluster()


# -- what pods show --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recording", "silent"),
    [
        ("kubelet_down_then_back", 1),
        ("node_lost_then_back", 1),
        ("node_lost_pod_failure_policy", 1),
        ("node_deleted", 1),
        ("success", 0),
        ("exit_1", 0),
        ("oom_killed", 0),
        ("cancel_ignores_sigterm", 0),
        ("evicted", 0),
        ("preempted", 0),
        ("pod_deleted", 0),
        ("image_pull_back_off", 0),
    ],
)
def test_a_recorded_pod_is_silent_only_while_its_node_is(recording: str, silent: int) -> None:
    """Between the mark of the node controller and the next report of the kubelet."""
    times = [
        read_status(event.object).silent
        for events in pod_events(recording)
        for event in events
        if event.type != "DELETED"
    ]
    assert len({since for since in times if since is not None}) == silent
    assert times[0] is None and times[-1] is None


def test_attempts_of_a_silent_node_are_counted_by_class_and_node(cluster: Cluster) -> None:
    cluster.put("a", "n1", SILENT)
    cluster.put("b", "n1", STARTING)
    cluster.put("c", "n1", SILENT, "a100")
    cluster.put("d", "n2", STARTING)
    cluster.put("e", "n2", ALIVE)
    assert cluster.check() == {("t4", "n1"): 2, ("a100", "n1"): 1}


def test_a_pod_that_waits_without_a_slot_is_not_counted(cluster: Cluster) -> None:
    cluster.without_slot.add("a")
    cluster.put("a", "n1", SILENT)
    assert cluster.check() == {}


def test_a_pod_that_does_not_end_is_counted_though_its_node_answers(cluster: Cluster) -> None:
    cluster.put("late", "n1", ALIVE)
    assert cluster.check() == {("t4", "n1"): 1}


def test_a_node_that_answers_again_is_counted_no_more(cluster: Cluster) -> None:
    cluster.put("a", "n1", SILENT)
    assert cluster.check()
    cluster.put("a", "n1", ALIVE)
    assert cluster.check() == {}


# -- the word of an operator -----------------------------------------------------------------------


def test_the_word_ends_each_attempt_that_was_on_the_node(cluster: Cluster) -> None:
    silent = cluster.put("a", "n1", SILENT)
    cluster.put("b", "n1", STARTING)
    cluster.put("c", "n2", SILENT)
    cluster.words = {("t4", "n1"): cluster.now}
    assert cluster.check() == {("t4", "n2"): 1}
    assert sorted(name for name, _ in cluster.ended) == ["a", "b"]
    assert sorted(cluster.deleted) == ["job-a", "job-b"]
    end = dict(cluster.ended)["a"]
    assert (end.reason, end.avoid, end.blames) == (EndReason.NODE_LOST, "n1", "node")
    assert cluster.silent.end_of(silent) == end
    cluster.check()
    assert len(cluster.ended) == 2, "each once"


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (SILENT, MIDNIGHT - 1),  # before the pod came to the node
        (ALIVE, MIDNIGHT + 60),  # its node answers
    ],
)
def test_the_word_ends_no_other_attempt(
    cluster: Cluster, status: dict[str, Any], word: float
) -> None:
    cluster.put("a", "n1", status)
    cluster.words = {("t4", "n1"): word}
    cluster.check()
    assert (cluster.ended, cluster.deleted) == ([], [])


@pytest.mark.parametrize("ahead", [600.0, -600.0])
@pytest.mark.parametrize(("after", "ended"), [(5.0, 1), (-5.0, 0)])
def test_the_word_counts_by_the_clock_of_redis(
    cluster: Cluster, ahead: float, after: float, ended: int
) -> None:
    """Times of pods are those of the cluster."""
    cluster.ahead = ahead
    cluster.put("a", "n1", SILENT)
    cluster.words = {("t4", "n1"): MIDNIGHT - ahead + after}
    cluster.check()
    assert len(cluster.ended) == ended


def test_without_a_word_a_silent_attempt_never_ends(cluster: Cluster) -> None:
    cluster.put("a", "n1", SILENT)
    cluster.now += 30 * 86_400
    assert cluster.check() == {("t4", "n1"): 1}
    assert cluster.ended == []


def test_a_node_that_comes_back_after_all_has_its_attempts_listed(cluster: Cluster) -> None:
    """So they are stopped, since their slots are taken by others."""
    cluster.unreachable = True
    cluster.put("a", "n1", SILENT)
    cluster.words = {("t4", "n1"): cluster.now}
    cluster.check()
    assert len(cluster.ended) == 1
    assert cluster.silent.end_of(cluster.put("a", "n1", ALIVE)) is None
