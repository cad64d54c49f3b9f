"""Who holds a Job back, by what the recordings say of Jobs and pods."""

from __future__ import annotations

import json

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.status.suspended import gates, held_by, was_suspended
from tests.support.pod_objects import a_pod, lines, pod_events


def jobs(recording: str) -> list[Job]:
    return [msgspec.convert(json.loads(line)["object"], Job) for line in lines(recording, "jobs")]


def a_job(**spec: object) -> Job:
    labels = {"kueue.x-k8s.io/queue-name": "team-a"} if spec.pop("queued", False) else {}
    return msgspec.convert({"metadata": {"labels": labels}, "spec": spec}, Job)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (a_job(), ""),
        (a_job(suspend=False, managedBy="kubernetes.io/job-controller", queued=True), ""),
        (a_job(suspend=True), "suspended by another controller"),
        (a_job(suspend=True, queued=True), "suspended by Kueue (queue team-a)"),
        (a_job(suspend=True, managedBy="kueue.x-k8s.io/multikueue"), "kueue.x-k8s.io"),
        (a_job(managedBy="kueue.x-k8s.io/multikueue"), "managed by kueue.x-k8s.io/multikueue"),
    ],
)
def test_a_job_says_who_holds_it_back(job: Job, words: str) -> None:
    assert (words in held_by(job)) if words else held_by(job) == ""


def test_recorded_suspension_is_read_until_after_the_resume() -> None:
    first, second = pod_events("suspended_while_running")
    states = jobs("suspended_while_running")
    at_first = [was_suspended(job, first[-1].object) for job in states]
    suspended = at_first.index(True)
    assert suspended and all(at_first[suspended:]), "also once it is resumed"
    assert not was_suspended(states[-1], second[-1].object)


def test_a_pod_deleted_by_hand_or_with_its_job_was_not_suspended() -> None:
    for recording in ("pod_deleted", "cancel_background", "cancel_foreground"):
        (events,) = pod_events(recording)
        assert not any(was_suspended(job, events[-1].object) for job in jobs(recording))


def test_recorded_gates_are_named() -> None:
    (events,) = pod_events("scheduling_gate")
    assert "example.com/quota" in gates(events[0].object)
    assert gates(a_pod()) == gates(a_pod(node=None)) == ""
