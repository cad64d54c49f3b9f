"""The table of timeouts has the clocks that run, with their defaults and ends."""

from __future__ import annotations

import re
from typing import Any, cast
from unittest.mock import create_autospec

import pytest

from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.clocks import PodClocks
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.launchers.kubernetes.status.refusals import without_own_fault
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import SILENT, EndReason
from gpuqueue.model.record import Record
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.docs.test_kubernetes_job import job
from tests.support.pages import Page, defaults
from tests.support.pod_objects import DELETION, a_pod, condition, running, waiting

TIMEOUTS = Page("docs/operate/kubernetes-timeouts.md")


CLOCKS = {row[0]: row for row in TIMEOUTS.tables("# Timeouts on Kubernetes")[0]}
#: Timeout → a pod in that state, and the reason with which it ends (None: it does not end).
PODS: dict[str, tuple[Pod, EndReason | None]] = {
    "no node accepts the pod, and no autoscaler adds one": (
        a_pod(node=None, conditions=[condition("PodScheduled", "False", "Unschedulable")]),
        EndReason.UNSCHEDULABLE,
    ),
    "its node prepares network and volumes": (
        a_pod(
            waiting("ContainerCreating"),
            conditions=[condition("PodReadyToStartContainers", "False")],
        ),
        EndReason.INFRA,
    ),
    "pulling the image": (
        a_pod(waiting("ContainerCreating")),
        EndReason.IMAGE,
    ),
    "an init container runs": (a_pod(inits=[running("fetch")]), EndReason.INFRA),
    "pulling the image keeps failing": (a_pod(waiting("ImagePullBackOff")), EndReason.IMAGE),
    "the container cannot be created, e.g. a Secret is missing": (
        a_pod(waiting("CreateContainerConfigError", 'secret "x" not found')),
        EndReason.BAD_SPEC,
    ),
    "a deleted pod has not ended": (a_pod(running(), phase="Running", deletion=DELETION), None),
}


def test_the_timeouts_of_the_docs_have_their_defaults() -> None:
    known = defaults(ClusterSettings.model_fields) | defaults(Settings.model_fields)
    named = {}
    for row in CLOCKS.values():
        for name in re.findall(r"`(GPU\w+)`", row[3]):
            named[name] = row[2]
            assert re.findall(r"\d+|none|never", row[2])[0] == known[name], row
    clocks = {
        name for name in defaults(ClusterSettings.model_fields) if re.search("TIMEOUT|GRACE", name)
    }
    others = {"GPUQUEUE_START_TIMEOUT", "GPU_NODE_SILENT_SECONDS"}
    assert named.keys() == clocks - {"GPU_API_TIMEOUT"} | others


def test_the_reasons_of_the_timeouts_exist() -> None:
    for row in CLOCKS.values():
        for word in re.findall(r"`([A-Z_]+)`", row[4]):
            assert word in SILENT or word in EndReason.__members__, row


@pytest.mark.parametrize(
    ("what", "pod", "verdict"), [(what, *each) for what, each in PODS.items()], ids=PODS
)
def test_a_pod_has_the_timeout_of_the_docs(what: str, pod: Pod, verdict: EndReason | None) -> None:
    seen, row = read_status(pod), CLOCKS[what]
    assert seen.verdict == verdict
    assert (verdict or "UNCONFIRMED") in row[4]
    # With a different value for each limit, the limit that applies belongs to the named setting.
    names = [
        name for name in defaults(ClusterSettings.model_fields) if re.search("TIMEOUT|GRACE", name)
    ]
    limits: dict[str, Any] = {name: float(100 + place) for place, name in enumerate(names)}
    distinct = ClusterSettings(**limits)
    clocks = PodClocks(
        create_autospec(Requests), create_autospec(object), distinct, 7, 1000, lambda entry: None
    )
    grace = 1000 if verdict is None else 0
    (name,) = re.findall(r"`(\w+)`", row[3])
    assert clocks.limit(seen) == 100 + names.index(name) + grace
    assert ("*" in row[1]) == (seen.since is None)


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_an_impossible_image_fails_immediately(reason: str) -> None:
    seen, row = (
        read_status(a_pod(waiting(reason))),
        CLOCKS["the image name is invalid, or the image is absent and must not be pulled"],
    )
    assert (seen.at_once, seen.verdict, row[2]) == (True, EndReason.IMAGE, "immediate")
    for record, held in (({"image": "x"}, reason == "ErrImageNeverPull"), ({}, True)):
        found = without_own_fault(seen, cast(Record, record))
        assert (found.holds == PlaceKind.IMAGE) is held


def test_the_deadline_of_the_docs_is_the_sum_of_its_limits() -> None:
    row = CLOCKS["the task runs, and no dispatcher is up"]
    assert row[2] == "its time limit, and the limits of pull, start and grace"
    cluster, settings = ClusterSettings(), Settings()
    allowed = 3600 + cluster.image_pull_timeout + settings.start_timeout + settings.grace_seconds
    assert job()["spec"]["template"]["spec"]["activeDeadlineSeconds"] == allowed
