"""The table of ends has what dispatchers read off a pod."""

from __future__ import annotations

import re

import pytest

from gpuqueue import errors
from gpuqueue.glue.results.completion import exception_of
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.model.reasons import NEVER_AGAIN, TRY_AGAIN, EndReason
from gpuqueue.model.record import Record
from tests.support.pages import Page
from tests.support.pod_objects import (
    DELETION,
    a_pod,
    condition,
    disrupted,
    ended,
    running,
    waiting,
)

ENDS_PAGE = Page("docs/operate/kubernetes-ends.md")

NODE = "node-a"
DRIVER = (
    "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch:"
    " unknown"
)
MISSING = 'unable to start container process: exec: "train": executable file not found in $PATH'


def failed(reason: str, message: str = "Pod was rejected: because") -> Pod:
    return a_pod(phase="Failed", reason=reason, message=message)


def by(target: str) -> Pod:
    return a_pod(ended(143), phase="Failed", conditions=[disrupted(target)])


#: Pod status in the docs → pods with that status.
ENDS: dict[str, list[Pod]] = {
    "exit code 0 without a report": [a_pod(ended(0, "Completed"), phase="Succeeded")],
    "DisruptionTarget `PreemptionByScheduler`": [by("PreemptionByScheduler")],
    "DisruptionTarget `DeletionByTaintManager`": [by("DeletionByTaintManager")],
    "DisruptionTarget `DeletionByPodGC`": [by("DeletionByPodGC")],
    "DisruptionTarget `EvictionByEvictionAPI` (a drain)": [by("EvictionByEvictionAPI")],
    "DisruptionTarget `TerminationByKubelet`": [by("TerminationByKubelet")],
    "TerminationTarget, and deleted: Kueue stops the pod": [
        a_pod(
            ended(143),
            phase="Failed",
            conditions=[condition("TerminationTarget", reason="StoppedByKueue")],
            deletion=DELETION,
        )
    ],
    "`Evicted` because a container beside the executor exceeded its disk limit": [
        failed("Evicted", 'Container proxy exceeded its local ephemeral storage limit "1Gi". ')
    ],
    "`Evicted` because the pod exceeded its disk limit": [
        failed("Evicted", 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ')
    ],
    "`Evicted` because the node is short of resources": [
        failed("Evicted", "The node was low on resource: memory.")
    ],
    "`NodeLost`": [a_pod(running(), phase="Failed", reason="NodeLost")],
    "`NodeShutdown`, `Terminated`: the node shuts down": [
        failed("NodeShutdown"),
        failed("Terminated"),
    ],
    "`Preempting`: a critical pod needs the node": [failed("Preempting")],
    "`DeadlineExceeded`": [
        failed("DeadlineExceeded"),
        a_pod(ended(0), phase="Failed", reason="DeadlineExceeded"),
    ],
    "rejected by its node: it requests more than one share": [
        failed(
            "UnexpectedAdmissionError", "maximum request size for shared resources is 1; found 2"
        )
    ],
    "rejected by its node: `UnexpectedAdmissionError`, `NodeAffinity`, `OutOf…`": [
        failed("UnexpectedAdmissionError"),
        failed("NodeAffinity"),
        failed("OutOfcpu"),
    ],
    "deleted by force while its node was [silent](node-gone.md)": [
        a_pod(
            running(),
            phase="Running",
            conditions=[condition("Ready", "False"), condition("ContainersReady")],
        )
    ],
    "`OOMKilled`": [a_pod(ended(137, "OOMKilled"))],
    "`StartError`, `ContainerCannotRun`: the image or its command": [
        a_pod(ended(128, "StartError", MISSING)),
        a_pod(ended(127, "ContainerCannotRun", MISSING)),
    ],
    "`StartError`, `ContainerCannotRun`: driver, runtime or disk of the node": [
        a_pod(ended(128, "StartError", DRIVER)),
        a_pod(ended(128, "ContainerCannotRun", "mkdir: no space left on device")),
    ],
    "`ContainerStatusUnknown`, or `Unknown` with exit code 255 (its machine restarted)": [
        a_pod(ended(137, "ContainerStatusUnknown"), phase="Failed"),
        a_pod(ended(255, "Unknown"), phase="Failed"),
    ],
    "deleted for no reason above: usually by hand": [a_pod(ended(143), deletion=DELETION)],
    "an init container failed": [
        a_pod(waiting("PodInitializing"), phase="Failed", inits=[ended(5, name="fetch")])
    ],
    "executor exit code 71: its task left no file descriptor (`RLIMIT_NOFILE`)": [a_pod(ended(71))],
    "executor exit code 75: Redis is unreachable": [a_pod(ended(75))],
    "executor exit code 76: a newer attempt has replaced it": [a_pod(ended(76))],
    "executor exit code 77: the GPU failed": [a_pod(ended(77))],
    "executor exit code 78: its settings are wrong, or Redis rejects it": [a_pod(ended(78))],
    "any other exit code": [a_pod(ended(1)), a_pod(ended(139)), a_pod(ended(137))],
}
(BY_POD,) = ENDS_PAGE.tables("## Ends of a pod")
(BEFORE_A_POD,) = ENDS_PAGE.tables("## Ends without a pod status")


def test_every_row_of_the_table_of_ends_has_pods_here() -> None:
    first, *rows = BY_POD
    assert first[1:] == ["from the task", "from the task", ""]
    assert [row[0] for row in rows] == list(ENDS)


@pytest.mark.parametrize("row", BY_POD[1:], ids=lambda row: row[0])
def test_a_pod_ends_as_in_the_docs(row: list[str]) -> None:
    said, reason, result, again = (
        row[0],
        row[1].strip("`"),
        set(re.findall(r"`(\w+)`", row[2])),
        row[3],
    )
    for pod in ENDS[said]:
        end = read_status(pod, deleted="by force" in said).end
        assert end is not None, said
        assert end.reason == reason
        assert again == (
            "no"
            if end.reason not in TRY_AGAIN
            else "yes, elsewhere"
            if end.avoid == NODE
            else "yes"
        )
        assert result <= results(end.reason)


@pytest.mark.parametrize("row", BEFORE_A_POD, ids=lambda row: row[0])
def test_an_end_without_a_pod_has_the_error_of_the_docs(row: list[str]) -> None:
    reason, result = EndReason(row[1].strip("`")), set(re.findall(r"`(\w+)`", row[2]))
    assert result <= results(reason)
    assert (
        row[3] == ("yes" if reason in TRY_AGAIN else "no") or "forbids" in row[0]
    )  # a permanent rejection ends the job
    assert (reason in NEVER_AGAIN) == (row[3] == "no" and reason != EndReason.INFRA)


def results(reason: EndReason) -> set[str]:
    """Return the error types of a job before and after its executor has claimed it."""
    record: Record = {
        "id": "x",
        "task": "shop.train",
        "attempt": 3,
        "reason": reason,
        "error": "",
        "time_limit": 1.0,
    }
    taken: Record = {**record, "started": 1.0}
    return {type(exception_of(each)).__name__ for each in (record, taken)}


def test_every_error_in_the_docs_belongs_to_gpuqueue_or_celery() -> None:
    for row in [*BY_POD[1:], *BEFORE_A_POD]:
        for name in re.findall(r"`(\w+)`", row[2]):
            assert name == "TimeLimitExceeded" or issubclass(
                getattr(errors, name), errors.GpuQueueError
            )
