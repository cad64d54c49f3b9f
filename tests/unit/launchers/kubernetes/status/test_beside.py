"""The executor's own end, beside containers that ended before and after it."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.launchers.kubernetes.status.beside import kept_by
from gpuqueue.launchers.kubernetes.status.ends import container_end, end_of
from gpuqueue.launchers.kubernetes.status.read_status import Phase, read_status
from gpuqueue.model.reasons import EndReason
from tests.support.pod_objects import DELETION, a_pod, at, disrupted, ended, running, waiting

PROXY = "istio-proxy"


def later(code: int, second: float) -> dict[str, Any]:
    """A sidecar that ended at that second; the executor ends at 20."""
    status = ended(code, name=PROXY)
    status["state"]["terminated"]["finishedAt"] = at(second)
    return status


@pytest.mark.parametrize("other", [running(PROXY), waiting("ImagePullBackOff", name=PROXY)])
def test_an_ordinary_container_keeps_the_pod(other: dict[str, Any]) -> None:
    pod = a_pod(ended(1), other, phase="Running")
    summary = read_status(pod)
    assert (summary.phase, kept_by(pod)) == (Phase.OTHERS_RUN, [PROXY])
    assert PROXY in summary.detail
    assert read_status(a_pod(ended(1), later(143, 21), phase="Running")).phase is Phase.ENDED


def test_a_native_sidecar_is_left_to_its_node() -> None:
    pod = a_pod(ended(1), phase="Running", inits=[running("proxy")])
    assert (read_status(pod).phase, kept_by(pod)) == (Phase.OTHERS_RUN, [])


def test_a_deletion_after_its_end_is_not_its_end() -> None:
    pod = a_pod(ended(4), later(143, 31), phase="Failed", deletion=DELETION)
    end = end_of(pod, deleted=True)
    assert (end.reason, end.evidence["exit_code"]) == (EndReason.ERROR, 4)
    both = {**ended(143)}
    both["state"] = later(143, 31)["state"]
    stopped = a_pod(both, later(143, 31), phase="Failed", deletion=DELETION)
    assert end_of(stopped, deleted=True).reason is EndReason.POD_DELETED


def test_an_eviction_after_its_end_is_not_its_end() -> None:
    target = {**disrupted("EvictionByEvictionAPI"), "lastTransitionTime": at(30)}
    pod = a_pod(ended(4), later(143, 31), phase="Failed", conditions=[target], deletion=DELETION)
    assert end_of(pod, deleted=True).reason is EndReason.ERROR
    before = {**target, "lastTransitionTime": at(19)}
    pod = a_pod(ended(143), later(143, 31), phase="Failed", conditions=[before], deletion=DELETION)
    assert end_of(pod, deleted=True).reason is EndReason.EVICTED


def test_a_deadline_that_only_its_sidecar_met_is_not_its_end() -> None:
    pod = a_pod(ended(0, "Completed"), later(143, 59), phase="Failed", reason="DeadlineExceeded")
    assert end_of(pod).evidence["exit_code"] == 0
    assert end_of(pod).reason is EndReason.ERROR  # no report: not the time limit
    pod = a_pod(ended(143), later(143, 21), phase="Failed", reason="DeadlineExceeded")
    assert end_of(pod).reason is EndReason.TIME_LIMIT


def test_the_message_of_a_container_job_is_that_of_its_container() -> None:
    pod = a_pod(
        ended(3, message="of the sidecar", name=PROXY), ended(0, message="its own"), phase="Failed"
    )
    end = container_end(pod, end_of(pod))
    assert (end.reason, end.evidence["message"]) == (EndReason.SUCCEEDED, "its own")
