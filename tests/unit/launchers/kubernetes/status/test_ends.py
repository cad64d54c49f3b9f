"""Ends without a recording: every reason that Kubernetes has, and which cause wins."""

from __future__ import annotations

from typing import cast

import pytest

from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.status.ends import container_end, end_of
from gpuqueue.launchers.kubernetes.status.last_state import MOST_TEXT
from gpuqueue.launchers.kubernetes.status.read_status import Phase, read_status
from gpuqueue.launchers.kubernetes.status.refusals import of_its_class
from gpuqueue.model.ends import EXECUTORS_OWN, REJECTION, End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from tests.support.pod_objects import (
    CREATED,
    DELETION,
    a_pod,
    at,
    condition,
    disrupted,
    ended,
    running,
    waiting,
)

R = EndReason
NODE = "node-a"

DRIVER = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc"
    " create failed: unable to start container process: error during container init: error running"
    " prestart hook #0: exit status 1, stdout: , stderr: nvidia-container-cli: initialization"
    " error: nvml error: driver/library version mismatch: unknown"
)
NO_CDI = (
    "failed to create shim task: OCI runtime create failed: could not apply required modification"
    " to OCI specification: error modifying OCI spec: failed to inject CDI devices: unresolvable"
    " CDI devices nvidia.com/gpu=0: unknown"
)
OLD_DRIVER = (
    "error running prestart hook #0: exit status 1, stderr: nvidia-container-cli: requirement"
    " error: unsatisfied condition: cuda>=13.0, please update your driver to a newer version"
)
NO_PROGRAM = (
    'runc create failed: unable to start container process: exec: "nvidia-container-cli":'
    " executable file not found in $PATH"
)
NO_RUNTIME = (
    'unable to retrieve OCI runtime error: exec: "nvidia-container-runtime": executable file not'
    " found in $PATH: unknown"
)
TWO_SHARES = (
    "Pod was rejected: Allocate failed due to rpc error: maximum request size for shared resources"
    " is 1; found 2"
)


def evicted(message: str, *conditions: object) -> Pod:
    return a_pod(
        ended(137), phase="Failed", reason="Evicted", message=message, conditions=conditions
    )


def refused(reason: str, message: str = "Pod was rejected: because") -> Pod:
    return a_pod(phase="Failed", reason=reason, message=message)


#: Sentence → pod, reason, node to avoid, parts of the message in order.
ENDS: dict[str, tuple[Pod, EndReason, str, tuple[str, ...]]] = {
    # -- end of the container
    "an exit code is reported with its node": (
        a_pod(ended(3)),
        R.ERROR,
        "",
        ("exit code 3 without", "(Error, node node-a)"),
    ),
    "a signal is reported by name": (
        a_pod(ended(139)),
        R.ERROR,
        "",
        ("SIGSEGV", "(exit code 139, Error, node node-a)"),
    ),
    "a broken GPU is the fault of the node": (
        a_pod(ended(77)),
        R.INFRA,
        NODE,
        ("the GPU failed", "(Error, node node-a)"),
    ),
    "a lost Redis is not the fault of the node": (
        a_pod(ended(75)),
        R.INFRA,
        "",
        ("could not reach Redis",),
    ),
    "host memory differs from GPU memory": (
        a_pod(ended(137, "OOMKilled")),
        R.HOST_OOM,
        "",
        ("137, OOMKilled",),
    ),
    "any exit code of an OOM-killed container is host memory": (
        a_pod(ended(1, "OOMKilled")),
        R.HOST_OOM,
        "",
        (),
    ),
    "a missing program is the fault of the job": (
        a_pod(ended(128, "StartError", NO_PROGRAM)),
        R.BAD_SPEC,
        "",
        (
            "its container cannot be started: runc create failed",
            "(exit code 128, StartError, its container never started",
        ),
    ),
    "a container that cannot run is the fault of the job": (
        a_pod(ended(127, "ContainerCannotRun", "no command specified")),
        R.BAD_SPEC,
        "",
        ("cannot be started: no command specified",),
    ),
    "a driver mismatch is the fault of the node": (
        a_pod(ended(128, "StartError", DRIVER)),
        R.INFRA,
        NODE,
        ("its node could not start its container", "version mismatch", "never started"),
    ),
    "a missing device is the fault of the node": (
        a_pod(ended(128, "StartError", NO_CDI)),
        R.INFRA,
        NODE,
        (),
    ),
    "a missing runtime is the fault of the node": (
        a_pod(ended(128, "StartError", NO_RUNTIME)),
        R.INFRA,
        NODE,
        (),
    ),
    "a full disk is the fault of the node": (
        a_pod(ended(128, "StartError", "mkdir /run/x: no space left on device")),
        R.INFRA,
        NODE,
        (),
    ),
    "an image that needs a newer driver is the fault of the job": (
        a_pod(ended(128, "StartError", OLD_DRIVER)),
        R.BAD_SPEC,
        "",
        (),
    ),
    "a lost container is the fault of the node": (
        a_pod(
            ended(137, "ContainerStatusUnknown", "The container could not be located"),
            phase="Failed",
        ),
        R.INFRA,
        NODE,
        (
            (
                "lost track of its container: The container could not be located"
                " (ContainerStatusUnknown, node node-a)"
            ),
        ),
    ),
    # -- reason of the pod
    "evicted for the resources of its node": (
        evicted(
            "The node was low on resource: memory.",
            disrupted("TerminationByKubelet", "low on memory"),
        ),
        R.EVICTED,
        NODE,
        (
            "evicted by its node: The node was low on resource: memory.",
            "(exit code 137, Error, node node-a)",
        ),
    ),
    "evicted for its own disk limit": (
        evicted('Container executor exceeded its local ephemeral storage limit "1Gi". '),
        R.ERROR,
        "",
        ("it used more disk than its limit: Container executor exceeded", '"1Gi". (exit code 137'),
    ),
    "evicted for the limit of all its containers": (
        evicted("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "),
        R.ERROR,
        "",
        (),
    ),
    "evicted for the limit of a volume": (
        evicted('Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '),
        R.ERROR,
        "",
        (),
    ),
    "NodeLost": (
        a_pod(running(), phase="Failed", reason="NodeLost"),
        R.NODE_LOST,
        NODE,
        ("its node was lost (node node-a)",),
    ),
    "NodeShutdown": (
        refused("NodeShutdown", "Pod was rejected: the node is shutting down"),
        R.EVICTED,
        NODE,
        ("its node was shutting down", "its container never started"),
    ),
    "Terminated": (
        a_pod(
            ended(143),
            phase="Failed",
            reason="Terminated",
            message="Pod was terminated in response to imminent node shutdown.",
            conditions=[disrupted("TerminationByKubelet")],
        ),
        R.EVICTED,
        NODE,
        (
            (
                "its node shut down: Pod was terminated in response to imminent node shutdown."
                " (exit code 143"
            ),
        ),
    ),
    "Preempting": (
        a_pod(
            ended(137),
            phase="Failed",
            reason="Preempting",
            message="Preempted in order to admit critical pod",
            conditions=[disrupted("TerminationByKubelet")],
        ),
        R.PREEMPTED,
        "",
        ("its node made room for a critical pod",),
    ),
    "DeadlineExceeded": (
        a_pod(
            ended(143),
            phase="Failed",
            reason="DeadlineExceeded",
            message="Pod was active for too long",
        ),
        R.TIME_LIMIT,
        "",
        ("it ran longer than its time limit: Pod was active for too long (exit code 143",),
    ),
    "a deadline counts even if the program exits with 0": (
        a_pod(ended(0, "Completed"), phase="Failed", reason="DeadlineExceeded"),
        R.TIME_LIMIT,
        "",
        (),
    ),
    "more than one share of a GPU is the fault of the job": (
        refused("UnexpectedAdmissionError", TWO_SHARES),
        R.BAD_SPEC,
        "",
        (
            "more than one share of a GPU (UnexpectedAdmissionError): ",
            "maximum request size",
            "its container never started",
        ),
    ),
    **{
        f"{reason} is the node's fault": (
            refused(reason),
            R.INFRA,
            NODE,
            (
                (
                    f"its node rejected its pod ({reason}): Pod was rejected: because (its"
                    " container never started, node node-a)"
                ),
            ),
        )
        for reason in (
            "UnexpectedAdmissionError",
            "OutOfcpu",
            "OutOfnvidia.com/gpu",
            "NodeAffinity",
            "SomethingNew",
        )
    },
    **{
        f"{reason} of a restarted kubelet, after the pod had run": (
            a_pod(ended(137), phase="Failed", reason=reason, message="no healthy devices present"),
            R.INFRA,
            NODE,
            ((f"its node rejected its pod ({reason}): no healthy devices present (exit code 137"),),
        )
        for reason in ("UnexpectedAdmissionError", "OutOfnvidia.com/gpu")
    },
    "an unknown reason of a pod that ran": (
        a_pod(running(), phase="Failed", reason="SomethingNew", message="in its own words"),
        R.INFRA,
        "",
        ("does not state why: in its own words (node node-a)",),
    ),
    "after an unknown reason, the exit code decides": (
        a_pod(ended(3), phase="Failed", reason="SomethingNew"),
        R.ERROR,
        "",
        ("exit code 3",),
    ),
    # -- disruptions
    **{
        reason: (
            a_pod(ended(143), phase="Failed", conditions=[disrupted(reason)]),
            end,
            avoid,
            (": so it is said (exit code 143",),
        )
        for reason, end, avoid in (
            ("PreemptionByScheduler", R.PREEMPTED, ""),
            ("DeletionByTaintManager", R.NODE_LOST, NODE),
            ("DeletionByPodGC", R.NODE_LOST, NODE),
            ("EvictionByEvictionAPI", R.EVICTED, ""),
            ("TerminationByKubelet", R.EVICTED, NODE),
            ("SomethingNew", R.EVICTED, ""),
        )
    },
    "a disruption before the container started": (
        a_pod(
            waiting("ContainerCreating"),
            phase="Failed",
            conditions=[disrupted("PreemptionByScheduler")],
        ),
        R.PREEMPTED,
        "",
        ("(its container never started, node node-a)",),
    ),
    "a success before the disruption counts": (
        a_pod(
            ended(0, "Completed"),
            phase="Succeeded",
            conditions=[disrupted("EvictionByEvictionAPI")],
            deletion=DELETION,
        ),
        R.ERROR,
        "",
        ("exit code 0 without a result",),
    ),
    "a cancelled disruption has no effect": (
        a_pod(ended(1), conditions=[{**disrupted("PreemptionByScheduler"), "status": "False"}]),
        R.ERROR,
        "",
        ("exit code 1",),
    ),
    # -- deletions
    "a pod deleted by hand": (
        a_pod(ended(143), deletion=DELETION),
        R.POD_DELETED,
        "",
        ("its pod was deleted (exit code 143",),
    ),
    "a broken GPU counts even if the pod was deleted later": (
        a_pod(ended(77), deletion=DELETION),
        R.INFRA,
        NODE,
        (),
    ),
    "a lost container of a deleted pod does not blame the node": (
        a_pod(ended(137, "ContainerStatusUnknown"), phase="Failed", deletion=DELETION),
        R.POD_DELETED,
        "",
        ("(ContainerStatusUnknown, its container never started, node node-a)",),
    ),
    # -- pods without an end of the executor
    "a failed init container is retried": (
        a_pod(
            waiting("PodInitializing"),
            phase="Failed",
            inits=[ended(5, message="no model", name="fetch")],
        ),
        R.INFRA,
        "",
        (
            "init container fetch failed with exit code 5",
            "(Error, its container never started",
            "end of its log:\nno model",
        ),
    ),
    "an init container can run out of memory": (
        a_pod(
            waiting("PodInitializing"),
            phase="Failed",
            inits=[ended(137, "OOMKilled", name="fetch")],
        ),
        R.HOST_OOM,
        "",
        ("its init container fetch exceeded its memory limit",),
    ),
    "a sidecar stopped after the executor has no effect": (
        a_pod(ended(1), phase="Failed", inits=[ended(137, name="sidecar")]),
        R.ERROR,
        "",
        ("exit code 1",),
    ),
    "in a pod without an executor, the failed container decides": (
        a_pod(ended(0, "Completed", name="a"), ended(4, name="b"), phase="Failed"),
        R.ERROR,
        "",
        ("exit code 4",),
    ),
    "a failed pod without any details": (
        a_pod(phase="Failed"),
        R.INFRA,
        "",
        ("its status does not state why (its container never started, node node-a)",),
    ),
    "a succeeded pod without container status": (
        a_pod(phase="Succeeded"),
        R.ERROR,
        "",
        ("exit code 0",),
    ),
}


def read(pod: Pod, *, deleted: bool = False) -> End:
    summary = read_status(pod, deleted=deleted)
    assert summary.phase is Phase.ENDED
    assert summary.end is not None
    return summary.end


@pytest.mark.parametrize(("pod", "reason", "avoid", "words"), ENDS.values(), ids=ENDS)
def test_end_of_a_pod(pod: Pod, reason: EndReason, avoid: str, words: tuple[str, ...]) -> None:
    end = read(pod)
    assert (end.reason, end.avoid) == (reason, avoid), end.error
    place = 0
    for word in words:
        assert word in end.error[place:], end.error
        place = end.error.index(word, place) + len(word)


#: Sentence → a pod after its DELETED event, reason, parts of the message.
GONE: dict[str, tuple[Pod, EndReason, str]] = {
    "before scheduling": (
        a_pod(node=None),
        R.POD_DELETED,
        "its pod was deleted (its container never started)",
    ),
    "before its container started": (
        a_pod(waiting("ContainerCreating")),
        R.POD_DELETED,
        "its container never started",
    ),
    "by force, while its container ran": (
        a_pod(running(), phase="Running"),
        R.POD_DELETED,
        "its pod was deleted, and the end of its container is unknown (node node-a)",
    ),
    "after the loss of its node": (
        a_pod(
            running(),
            phase="Running",
            conditions=[disrupted("DeletionByTaintManager")],
            deletion=DELETION,
        ),
        R.NODE_LOST,
        "its node was lost",
    ),
    "after its end": (a_pod(ended(0, "Completed"), phase="Succeeded"), R.ERROR, "exit code 0"),
}


@pytest.mark.parametrize(("pod", "reason", "words"), GONE.values(), ids=GONE)
def test_pod_deleted_by_the_api_has_ended(pod: Pod, reason: EndReason, words: str) -> None:
    end = read(pod, deleted=True)
    assert end.reason is reason
    assert words in end.error


@pytest.mark.parametrize("started", [at(10), None])
def test_lost_container_had_started(started: str | None) -> None:
    lost = ended(137, "ContainerStatusUnknown") | {
        "lastState": {"terminated": {"exitCode": 137, "startedAt": started}}
    }
    end = read(a_pod(lost, phase="Failed", deletion=DELETION))
    assert "never started" not in end.error
    assert end.evidence.get("container_started") == (CREATED + 10 if started else None)


def test_unscheduled_pod_has_no_scheduled_time() -> None:
    unscheduled = a_pod(node=None, conditions=[condition("PodScheduled", "False", "Unschedulable")])
    assert read(unscheduled, deleted=True).evidence == {"pod": "gpu-job-x"}


def test_exit_code_made_up_by_the_kubelet_is_not_evidence() -> None:
    evidence = read(a_pod(ended(137, "ContainerStatusUnknown"), phase="Failed")).evidence
    assert "exit_code" not in evidence
    assert evidence["container_reason"] == "ContainerStatusUnknown"


@pytest.mark.parametrize("code", EXECUTORS_OWN)
def test_a_program_of_a_container_job_gives_codes_another_meaning(code: int) -> None:
    pod = a_pod(ended(code))
    end = container_end(pod, end_of(pod))
    words = f"its container ended with exit code {code} (node {pod.spec.node_name})"
    assert (end.reason, end.error) == (R.ERROR, words)


@pytest.mark.parametrize(
    ("reason", "message", "blames"),
    [
        ("Evicted", "Pod was rejected: The node had condition: [DiskPressure]. ", REJECTION),
        ("NodeShutdown", "Pod was rejected as the node is shutting down.", REJECTION),
        ("Evicted", "The node was low on resource: ephemeral-storage. ", ""),
    ],
)
def test_a_node_that_takes_no_pod_is_kept_from_all_jobs(
    reason: str, message: str, blames: str
) -> None:
    end = read(a_pod(phase="Failed", reason=reason, message=message))
    assert (end.reason, end.avoid, end.blames) == (R.EVICTED, NODE, blames)


@pytest.mark.parametrize("reason", ["Error", "OOMKilled", "StartError"])
def test_a_failed_init_container_holds_the_class(reason: str) -> None:
    own = cast(Record, {"task": "gpuqueue.run", "image": "far.example/train:7"})
    end = read(a_pod(waiting(None), phase="Failed", inits=[ended(5, reason, name="fetch")]))
    assert of_its_class(end, own).blames == PlaceKind.PODS


def test_failed_init_container_gives_no_exit_code_of_the_executor() -> None:
    evidence = read(a_pod(waiting(None), phase="Failed", inits=[ended(5, name="fetch")])).evidence
    assert evidence == {"node": NODE, "pod": "gpu-job-x", "scheduled": CREATED + 1}


def test_end_of_a_long_log_is_kept() -> None:
    error = read(a_pod(ended(1, message="x" * 5000 + "the last line"))).error
    title, log = error.split(":\n")
    assert title.endswith("; the end of its log")
    assert len(log) == MOST_TEXT
    assert log.startswith("…x")
    assert log.endswith("xthe last line")


def test_start_of_a_long_message_is_kept() -> None:
    error = read(a_pod(ended(128, "StartError", "no such file:\n" + "x" * 5000))).error
    assert "cannot be started: no such file: xxx" in error
    assert "xx… (exit code 128" in error
    assert len(error) < MOST_TEXT + 200
