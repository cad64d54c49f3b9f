"""Attempts in namespaces that are not in use any more: suspended ones are read as all others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod
from gpuqueue.launchers.kubernetes.follow.jobs_elsewhere import JobsElsewhere
from gpuqueue.launchers.kubernetes.manifest.names import RECORD, Instance
from gpuqueue.model.attempt import Attempt, Observation, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.reasons import EndReason, WaitReason
from tests.support.pod_objects import lines
from tests.unit.launchers.kubernetes.follow.test_jobs_without_pod import job as unended
from tests.unit.launchers.kubernetes.follow.test_jobs_without_pod import recorded_pod

SUSPENDED = "suspended_while_running"
THERE = Instance("before", "gpu-job")


def recorded_jobs() -> list[Job]:
    """The states of the Job, with an attempt."""
    record = unended("gpu-job").metadata.annotations
    found = []
    for line in lines(SUSPENDED, "jobs"):
        body = json.loads(line)["object"]
        body["metadata"]["annotations"] = {RECORD: (record or {})[RECORD]}
        found.append(msgspec.convert(body, Job))
    return found


def recorded_pods() -> list[Pod]:
    """The first pod, up to its deletion."""
    found = [msgspec.convert(json.loads(line)["object"], Pod) for line in lines(SUSPENDED)]
    return [each for each in found if each.metadata.name == found[0].metadata.name]


def suspended() -> Job:
    """The Job, suspended, and its pod is gone."""
    jobs = [each for each in recorded_jobs() if each.spec.suspend]
    return next(each for each in jobs if each.status.condition("Suspended"))


@dataclass
class Cluster:
    """The API of another namespace, and what Redis knows of its attempt."""

    job: Job | None
    pods: list[Pod] = field(default_factory=list)
    begun: bool = False
    cordoned: bool = False
    namespace: str = "before"
    deleted: list[str] = field(default_factory=list)
    noted: list[Observation] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    def get_node(self, name: str) -> Node:
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        return msgspec.convert({"spec": {"unschedulable": self.cordoned}, "status": status}, Node)

    def within(self, namespace: str) -> Cluster:
        assert namespace == self.namespace
        return self

    def get_job(self, name: str) -> Job | None:
        return self.job

    def list_pods(self, selector: str) -> tuple[list[Pod], str]:
        return self.pods, "1"

    def pod_log(self, pod: str, tail_lines: int, limit_bytes: int) -> str:
        return f"the log of {pod}"

    def latest(self, running: RunningAttempt) -> Attempt:
        return running.attempt

    def wants_log(self, attempt: Attempt) -> bool:
        return True

    def keep_log(self, attempt: Attempt, text: str) -> None:
        self.logs.append(text)

    def delete_job(self, name: str, uid: str = "") -> bool:
        self.deleted.append(name)
        return True

    def has_begun(self, attempt: Attempt) -> bool:
        return self.begun

    def observed(self, observations: list[Observation]) -> None:
        self.noted += observations

    def end(self) -> Any:
        me: Any = self
        return JobsElsewhere(me, me, 60.0, 1000, lambda: 100.0).end_of(THERE)


def test_a_suspended_job_waits_for_its_pod() -> None:
    cluster = Cluster(suspended())
    assert cluster.end() is None and cluster.deleted == []
    assert [each.wait for each in cluster.noted] == [WaitReason.SUSPENDED]


@pytest.mark.parametrize("pods", [[], recorded_pods()[-1:]], ids=["its pod is gone", "it ended"])
def test_a_job_suspended_while_it_ran_is_preempted(pods: list[Pod]) -> None:
    cluster = Cluster(suspended(), pods, begun=True)
    assert cluster.end().reason is EndReason.PREEMPTED
    assert cluster.deleted == ["gpu-job"], "no other pod may come when it is resumed"


def test_a_pod_that_a_user_has_deleted_is_no_preemption() -> None:
    running = next(each for each in recorded_jobs() if not each.spec.suspend)
    cluster = Cluster(running, recorded_pods()[-1:], begun=True)
    assert cluster.end().reason is EndReason.POD_DELETED and cluster.deleted == []


def test_a_pod_that_a_drain_has_deleted_is_evicted() -> None:
    running = next(each for each in recorded_jobs() if not each.spec.suspend)
    cluster = Cluster(running, recorded_pods()[-1:], begun=True, cordoned=True)
    assert cluster.end().reason is EndReason.EVICTED and cluster.deleted == []


@pytest.mark.parametrize(
    ("task", "reason"), [(CONTAINER_TASK, EndReason.SUCCEEDED), ("shop.add", EndReason.ERROR)]
)
def test_an_attempt_elsewhere_ends_as_any_other_with_its_log(task: str, reason: EndReason) -> None:
    pod = recorded_pod("success", task=task)
    cluster = Cluster(unended("gpu-job"), [pod])
    assert cluster.end().reason is reason
    assert cluster.logs == [f"the log of {pod.metadata.name}"]
