"""Properties of any pod, generated from the parts that Kubernetes uses, and from invalid ones."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.launchers.kubernetes.api.answers import POD_EVENTS, Watched, read_line
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.status.last_state import MOST_TEXT
from gpuqueue.launchers.kubernetes.status.read_status import (
    Phase,
    PodStatusSummary,
    overdue,
    read_status,
)
from gpuqueue.model.reasons import EndReason, WaitReason
from tests.support.pod_objects import DELETION, at

WAITING = [
    "ContainerCreating",
    "PodInitializing",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
]
TERMINATED = [
    "Completed",
    "Error",
    "OOMKilled",
    "ContainerCannotRun",
    "StartError",
    "ContainerStatusUnknown",
]
POD_REASONS = [
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "Terminated",
    "NodeAffinity",
    "Preempting",
    "DeadlineExceeded",
    "UnexpectedAdmissionError",
    "OutOfcpu",
]
DISRUPTIONS = [
    "PreemptionByScheduler",
    "DeletionByTaintManager",
    "EvictionByEvictionAPI",
    "DeletionByPodGC",
    "TerminationByKubelet",
]
CLOCKS: dict[Phase, set[str | None]] = {
    Phase.UNSCHEDULED: {"unschedulable", None},
    Phase.PREPARING: {"unanswered", "sandbox", "image_pull", "image_error", "config_error"},
    Phase.RUNNING: {None},
    Phase.OTHERS_RUN: {None},
    Phase.TERMINATING: {"terminating"},
    Phase.ENDED: {None},
}

texts = st.none() | st.sampled_from(
    ["", "nvidia-container-cli: no", "maximum request size", "exceeds the limit", "\n", "x" * 5000]
)
times = st.none() | st.sampled_from(
    ["", "nonsense", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", at(5), at(50)]
)


def words(known: list[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(["", "SomethingNew", *known])


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate objects in which any field can be absent."""
    return st.fixed_dictionaries({}, optional=fields)


ended = objects(
    exitCode=st.integers(0, 255),
    reason=words(TERMINATED),
    message=texts,
    startedAt=times,
    finishedAt=times,
)
states = st.none() | st.one_of(
    st.just({}),
    objects(waiting=objects(reason=words(WAITING), message=texts)),
    objects(running=objects(startedAt=times)),
    st.fixed_dictionaries({"terminated": ended}),
)
containers = st.none() | st.lists(
    objects(
        name=st.sampled_from(["executor", "other"]),
        state=states,
        lastState=states,
        containerID=texts,
    ),
    max_size=3,
)
conditions = st.none() | st.lists(
    st.one_of(
        objects(
            type=st.just("PodScheduled"),
            status=st.sampled_from(["True", "False"]),
            reason=texts,
            lastTransitionTime=times,
        ),
        objects(
            type=st.just("Initialized"),
            status=st.sampled_from(["True", "False"]),
            lastTransitionTime=times,
        ),
        objects(
            type=st.just("DisruptionTarget"),
            status=st.just("True"),
            reason=words(DISRUPTIONS),
            message=texts,
        ),
        objects(type=st.just("Ready"), status=st.just("Unknown"), reason=texts),
    ),
    max_size=3,
)
pods = st.builds(
    lambda sent: msgspec.convert(sent, Pod),
    objects(
        metadata=objects(
            name=st.just("gpu-job-x"),
            creationTimestamp=times,
            deletionTimestamp=times,
            deletionGracePeriodSeconds=st.none() | st.integers(0, 3600),
        ),
        spec=objects(nodeName=st.sampled_from([None, "", "node-a"])),
        status=objects(
            phase=st.sampled_from(
                [None, "", "Pending", "Running", "Succeeded", "Failed", "Unknown"]
            ),
            reason=words(POD_REASONS),
            message=texts,
            conditions=conditions,
            containerStatuses=containers,
            initContainerStatuses=containers,
        ),
    ),
)
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(summary: PodStatusSummary, pod: Pod) -> None:
    assert summary.clock in CLOCKS[summary.phase]
    assert (summary.end is not None) == (summary.phase is Phase.ENDED)
    waits = summary.phase in (Phase.UNSCHEDULED, Phase.PREPARING)
    if summary.wait is WaitReason.SUSPENDED:
        assert (summary.phase, summary.clock, summary.verdict) == (Phase.UNSCHEDULED, None, None)
        return
    assert (summary.wait is not None) == waits
    assert (summary.verdict is not None) == (waits and summary.clock != "unanswered")
    assert summary.silent is None or summary.node or summary.phase is Phase.RUNNING
    assert not summary.at_once or summary.clock == "image_error"
    assert summary.node == (pod.spec.node_name or "")


@many
@given(pod=pods, deleted=st.booleans())
def test_any_pod_can_be_read(pod: Pod, deleted: bool) -> None:
    summary = read_status(pod, deleted=deleted)
    check(summary, pod)
    if summary.verdict:
        assert overdue(summary, 60).reason is summary.verdict
    else:
        with pytest.raises(ValueError, match="no clock ends it"):
            overdue(summary, 60)


@many
@given(pod=pods, deleted=st.booleans())
def test_any_end_has_a_bounded_message(pod: Pod, deleted: bool) -> None:
    end = read_status(pod, deleted=deleted).end
    if end is None:
        return
    assert end.avoid in ("", pod.spec.node_name)
    assert 0 < len(end.error) <= 2 * MOST_TEXT + 300
    assert None not in end.evidence.values()
    assert end.reason not in (
        EndReason.SUCCEEDED,
        EndReason.GPU_OOM,
    )  # only an executor exits with these


@many
@given(pod=pods)
def test_requested_deletion_alone_ends_nothing(pod: Pod) -> None:
    before = read_status(pod)
    metadata = msgspec.structs.replace(
        pod.metadata, deletion_timestamp=DELETION["deletionTimestamp"]
    )
    pod = msgspec.structs.replace(pod, metadata=metadata)
    ended = before.phase is Phase.ENDED or never_had_a_node(pod)
    assert read_status(pod).phase is (Phase.ENDED if ended else Phase.TERMINATING)


def never_had_a_node(pod: Pod) -> bool:
    """Whether it was deleted before it was bound, as a gated pod in the recordings."""
    reported = pod.status.container_statuses or pod.status.init_container_statuses
    unbound = pod.status.phase == "Pending" and not pod.spec.node_name
    return unbound and not reported and pod.metadata.deletion_timestamp is not None


@many
@given(pod=pods)
def test_attempt_holds_its_slot_until_its_containers_have_ended(pod: Pod) -> None:
    statuses = pod.status.container_statuses or ()
    gone = bool(statuses) and all(each.state and each.state.terminated for each in statuses)
    sidecars = pod.status.init_container_statuses or ()
    gone = gone and not any(each.state and each.state.running for each in sidecars)
    given_up = pod.status.phase in ("Succeeded", "Failed") or never_had_a_node(pod)
    assert (read_status(pod).phase is Phase.ENDED) == (gone or given_up)
    assert read_status(pod, deleted=True).phase is Phase.ENDED


@many
@given(pod=pods, kind=st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]))
def test_any_pod_round_trips_through_a_watch(pod: Pod, kind: str) -> None:
    event = read_line(msgspec.json.encode({"type": kind, "object": pod}), POD_EVENTS)
    assert isinstance(event, Watched)
    assert (event.type, event.object) == (kind, pod)
