"""What the events of a pod tell that its status does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.status.pod_events import (
    says_why,
    scaling_seconds,
    with_problem,
    with_pull_error,
)
from gpuqueue.launchers.kubernetes.status.read_status import PodStatusSummary, read_status
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason
from tests.support.pod_objects import a_pod, condition, waiting

#: 2026-11-29T00:00:00Z.
MIDNIGHT = 1795910400.0


def event(reason: str, message: str = "", at: int = 0) -> Event:
    stamp = f"2026-11-29T00:{at // 60:02}:{at % 60:02}Z"
    body: dict[str, Any] = {"reason": reason, "message": message}
    return msgspec.convert(body | {"firstTimestamp": stamp, "lastTimestamp": stamp}, Event)


def preparing() -> PodStatusSummary:
    ready = condition("PodReadyToStartContainers", "False")
    return read_status(a_pod(waiting("ContainerCreating"), conditions=[ready]))


SANDBOX = "Failed to create pod sandbox: rpc error: code = Unknown desc ="


@pytest.mark.parametrize(
    ("reason", "message", "end"),
    [
        (
            "FailedMount",
            'MountVolume.SetUp failed for volume "v" : configmap "absent" not found',
            1,
        ),
        ("FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "s" not found', 1),
        (
            "FailedCreatePodSandBox",
            f'{SANDBOX} failed to get sandbox runtime: no runtime for "absent" is configured',
            1,
        ),
        (
            "FailedCreatePodSandBox",
            f'{SANDBOX} failed to setup network for sandbox "1": plugin type="calico" failed',
            0,
        ),
        (
            "FailedCreatePodSandBox",
            f"{SANDBOX} failed to setup network: stat /var/lib/calico/nodename: file not found",
            0,
        ),
        ("NetworkNotReady", "network is not ready: cni plugin not initialized", 0),
        ("FailedMount", "Unable to attach or mount volumes: timed out waiting", 0),
        ("FailedAttachVolume", 'AttachVolume.Attach failed for volume "pvc-1": rpc error', 0),
        ("FailedMount", "driver name ebs.csi.aws.com not found in the list of drivers", 0),
    ],
)
def test_a_problem_is_that_of_the_class_or_of_the_node(reason: str, message: str, end: int) -> None:
    found = with_problem(preparing(), [event("Scheduled"), event(reason, message, 5)])
    assert (found.wait, found.detail) == (WaitReason.STARTING, f"{reason}: {message}")
    assert found.since == MIDNIGHT + 5
    if end:
        assert (found.clock, found.verdict) == ("config_error", EndReason.BAD_SPEC)
        assert found.holds == PlaceKind.PODS
    else:
        assert (found.clock, found.verdict) == ("sandbox_error", EndReason.INFRA)
        assert found.holds is None


def test_a_problem_that_is_over_tells_nothing() -> None:
    over = [event("FailedMount", "x not found"), event("Pulling", "Pulling image", 9)]
    assert with_problem(preparing(), over) == preparing()
    assert with_problem(preparing(), [event("Scheduled")]) == preparing()


@pytest.mark.parametrize(
    ("told", "now", "expected"),
    [
        ([], 100, (0, False)),
        ([("TriggeredScaleUp", 10)], 100, (90, True)),
        ([("Nominated", 10)], 100, (90, True)),
        ([("NotTriggerScaleUp", 10)], 100, (0, False)),
        ([("TriggeredScaleUp", 10), ("NotTriggerScaleUp", 40)], 100, (30, False)),
        ([("NotTriggerScaleUp", 10), ("TriggeredScaleUp", 40)], 100, (60, True)),
        (
            [("TriggeredScaleUp", 10), ("NotTriggerScaleUp", 40), ("TriggeredScaleUp", 70)],
            100,
            (60, True),
        ),
        ([("TriggeredScaleUp", 10), ("TriggeredScaleUp", 40)], 100, (90, True)),
        ([("FailedScheduling", 10)], 100, (0, False)),
    ],
)
def test_how_long_an_autoscaler_has_been_adding_a_node(
    told: list[tuple[str, int]], now: int, expected: tuple[float, bool]
) -> None:
    events = [event(reason, at=at) for reason, at in told]
    assert scaling_seconds(events, MIDNIGHT + now) == expected


def test_the_registry_is_quoted_where_the_status_does_not_quote_it() -> None:
    short = read_status(a_pod(waiting("ImagePullBackOff", 'Back-off pulling image "x"')))
    assert not says_why(short)
    events = [event("Failed", 'Failed to pull image "x": manifest unknown'), event("Failed", "E")]
    found = with_pull_error(short, events)
    assert found.detail.endswith('Failed to pull image "x": manifest unknown')
    assert with_pull_error(short, []) == short
    full = 'Back-off pulling image "x": ErrImagePull: manifest unknown'
    assert says_why(read_status(a_pod(waiting("ImagePullBackOff", full))))
    assert says_why(read_status(a_pod(waiting("ErrImagePull", "manifest unknown"))))
