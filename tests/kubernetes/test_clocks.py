"""Which clock runs, from when, and what it says when it runs out: pods made by hand where nothing is recorded."""

from __future__ import annotations

import pytest

from gpuqueue.kube_objects import Pod
from gpuqueue.observe import Phase, observe, overdue
from gpuqueue.reasons import EndReason, WaitReason
from tests.kubernetes.pods import CREATED, DELETION, a_pod, condition, disrupted, ended, running, waiting
from tests.kubernetes.test_observe import BAD_CONFIG, BAD_IMAGE, NEW, NO_NODE, PULLS, RUNS, STOPS, Row, row

NODES_FAULT = (Phase.PREPARING, "config_error", EndReason.INFRA, WaitReason.STARTING)
INIT_RUNS = (Phase.PREPARING, "image_pull", EndReason.INFRA, WaitReason.STARTING)
SCHEDULER_SAYS = condition("PodScheduled", "False", "Unschedulable", "0/3 nodes are available", since=2)
GATED = condition("PodScheduled", "False", "SchedulingGated", "Scheduling is blocked by gates", since=2)

#: Sentence → pod, row, seconds after its creation from which the clock counts (None: from when it is seen), detail.
CLOCKS: dict[str, tuple[Pod, Row, float | None, str]] = {
    "a pod that no scheduler has looked at waits from its creation": (a_pod(node=None), NEW, 0, ""),
    "an empty status is that of a new pod": (Pod(), NEW, None, ""),
    "a pod that no node takes waits from when that was found": (
        a_pod(node=None, conditions=[SCHEDULER_SAYS]),
        NO_NODE,
        2,
        "0/3 nodes are available",
    ),
    "a gated pod is not scheduled": (a_pod(node=None, conditions=[GATED]), NO_NODE, 2, "Scheduling is blocked by gates"),
    "a pod whose kubelet has said nothing yet is being prepared": (a_pod(), PULLS, 1, ""),
    "a container being made is an image being pulled": (a_pod(waiting("ContainerCreating")), PULLS, 1, ""),
    "a waiting state without a reason is the same": (a_pod(waiting(None)), PULLS, 1, ""),
    "a container without a state waits": (a_pod({"name": "executor", "state": {}}), PULLS, 1, ""),
    "without init containers the image has its time from the scheduling on": (
        a_pod(waiting("ContainerCreating"), conditions=[condition("Initialized", since=50)]),
        PULLS,
        1,
        "",
    ),
    "an init container that runs is no image being pulled": (
        a_pod(
            waiting("PodInitializing"),
            inits=[ended(0, "Completed", name="first"), running("fetch", since=40)],
            conditions=[condition("Initialized", "False", since=1)],
        ),
        INIT_RUNS,
        40,
        "its init container fetch runs",
    ),
    "once the init containers are done, the image has its whole time": (
        a_pod(
            waiting("PodInitializing"),
            inits=[running("sidecar", since=5), ended(0, "Completed", name="fetch")],
            conditions=[condition("Initialized", since=50)],
        ),
        PULLS,
        50,
        "",
    ),
    "an init container without its image": (
        a_pod(waiting("PodInitializing"), inits=[waiting("ErrImagePull", "no such host", name="fetch")]),
        BAD_IMAGE,
        None,
        "fetch: ErrImagePull: no such host",
    ),
    "an init container that crashes again and again": (
        a_pod(waiting("PodInitializing"), inits=[waiting("CrashLoopBackOff", "back-off 10s", name="sidecar")]),
        BAD_CONFIG,
        None,
        "sidecar: CrashLoopBackOff: back-off 10s",
    ),
    "another container's image does not keep the executor": (
        a_pod(waiting("ImagePullBackOff", name="extra"), waiting("ContainerCreating")),
        PULLS,
        1,
        "",
    ),
    "a device that the runtime cannot find is the node's fault": (
        a_pod(waiting("CreateContainerError", "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0")),
        NODES_FAULT,
        None,
        "CreateContainerError: CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0",
    ),
    "a container that runs has no clock": (a_pod(running(), phase="Running"), RUNS, None, ""),
    "a pod that runs, without a word of its containers, runs": (a_pod(phase="Running"), RUNS, None, ""),
    "beside a container that has ended, it runs": (
        a_pod(ended(1, name="extra"), running(), phase="Running"),
        RUNS,
        None,
        "",
    ),
    "beside a container that waits, it runs": (
        a_pod(waiting("ImagePullBackOff", name="extra"), running(), phase="Running"),
        RUNS,
        None,
        "",
    ),
    "while others run, it is still being prepared": (
        a_pod(running("extra"), waiting("ContainerCreating"), phase="Running"),
        PULLS,
        1,
        "",
    ),
    "in a pod without an executor, any container that runs will do": (
        a_pod(ended(0, "Completed", name="a"), running("b"), phase="Running"),
        RUNS,
        None,
        "",
    ),
    "a pod whose node fell silent runs on": (
        a_pod(running(), phase="Running", conditions=[condition("Ready", "False", "NodeNotReady", since=50)]),
        RUNS,
        None,
        "",
    ),
    "a disruption that was announced has not ended it": (
        a_pod(running(), phase="Running", conditions=[disrupted("EvictionByEvictionAPI")]),
        RUNS,
        None,
        "",
    ),
    "a deletion counts from when it was asked for": (a_pod(running(), phase="Running", deletion=DELETION), STOPS, 30, ""),
    "a lost node's pod is ending, and says why": (
        a_pod(
            running(),
            phase="Running",
            deletion=DELETION,
            conditions=[disrupted("DeletionByTaintManager", "node is unreachable")],
        ),
        STOPS,
        30,
        "node is unreachable",
    ),
    "a disruption that was called off is not why it is ending": (
        a_pod(running(), deletion=DELETION, conditions=[{**disrupted("PreemptionByScheduler"), "status": "False"}]),
        STOPS,
        30,
        "",
    ),
    "a pod deleted before its node was chosen is gone only when the API says so": (
        a_pod(node=None, deletion={"deletionTimestamp": "2027-01-15T08:00:30Z", "deletionGracePeriodSeconds": 0}),
        STOPS,
        30,
        "",
    ),
    "a pod deleted while its image is pulled is ending": (
        a_pod(waiting("ImagePullBackOff"), deletion=DELETION),
        STOPS,
        30,
        "",
    ),
}


@pytest.mark.parametrize(("pod", "expected", "since", "detail"), CLOCKS.values(), ids=CLOCKS)
def test_a_clock_runs(pod: Pod, expected: Row, since: float | None, detail: str) -> None:
    seen = observe(pod)
    assert row(seen) == expected
    assert seen.since == (None if since is None else CREATED + since)
    assert seen.detail == detail
    assert not seen.at_once


#: Waiting reason → row, whether no grace is given.
WAITING: dict[str, tuple[Row, bool]] = {
    "ErrImagePull": (BAD_IMAGE, False),
    "ImagePullBackOff": (BAD_IMAGE, False),
    "InvalidImageName": (BAD_IMAGE, True),
    "ErrImageNeverPull": (BAD_IMAGE, True),
    "ImageInspectError": (BAD_IMAGE, False),
    "RegistryUnavailable": (BAD_IMAGE, False),
    "SignatureValidationFailed": (BAD_IMAGE, False),
    "CreateContainerConfigError": (BAD_CONFIG, False),
    "CreateContainerError": (BAD_CONFIG, False),
    "RunContainerError": (BAD_CONFIG, False),
    "CrashLoopBackOff": (BAD_CONFIG, False),
    "SomethingNewOfANewerKubelet": (BAD_CONFIG, False),
}


@pytest.mark.parametrize("reason", WAITING)
def test_a_container_that_cannot_start_has_its_clock(reason: str) -> None:
    seen = observe(a_pod(waiting(reason, "why it is so")))
    assert (row(seen), seen.at_once) == WAITING[reason]
    assert (seen.detail, seen.node) == (f"{reason}: why it is so", "node-a")


# -- what a clock that ran out says --------------------------------------------------------------------------------------------

OVERDUE: dict[str, tuple[Pod, EndReason, str, str]] = {
    "no node": (
        a_pod(node=None, conditions=[SCHEDULER_SAYS]),
        EndReason.UNSCHEDULABLE,
        "no node took its pod within 60 s: 0/3 nodes are available",
        "",
    ),
    "a slow image": (a_pod(), EndReason.IMAGE, "its container was not ready to start within 60 s", ""),
    "no image": (
        a_pod(waiting("ErrImagePull", "no such host")),
        EndReason.IMAGE,
        "its image cannot be had: ErrImagePull: no such host (node node-a)",
        "",
    ),
    "no secret": (
        a_pod(waiting("CreateContainerConfigError", 'secret "absent" not found')),
        EndReason.BAD_SPEC,
        'its container cannot be made: CreateContainerConfigError: secret "absent" not found (node node-a)',
        "",
    ),
    "a broken driver": (
        a_pod(waiting("CreateContainerError", "nvml error: driver/library version mismatch")),
        EndReason.INFRA,
        "its container cannot be made: CreateContainerError: nvml error",
        "node-a",
    ),
}


@pytest.mark.parametrize(("pod", "reason", "text", "avoid"), OVERDUE.values(), ids=OVERDUE)
def test_a_clock_that_ran_out_ends_the_attempt_in_the_servers_words(pod: Pod, reason: EndReason, text: str, avoid: str) -> None:
    end = overdue(observe(pod), 60)
    assert (end.reason, end.avoid) == (reason, avoid)
    assert end.error.startswith(text)
    assert end.evidence == ({"node": pod.spec.node_name} if pod.spec.node_name else {})


@pytest.mark.parametrize("pod", [a_pod(running()), a_pod(running(), deletion=DELETION), a_pod(ended(1))])
def test_no_clock_ends_what_runs_or_is_ending(pod: Pod) -> None:
    with pytest.raises(ValueError, match="no clock ends it"):
        overdue(observe(pod), 60)
