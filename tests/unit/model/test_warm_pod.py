"""What a pod is told that may run other jobs after its own."""

from __future__ import annotations

import json

import pytest

from gpuqueue.model.warm_pod import WarmPod

POD = WarmPod("gpu-1", "shop", "v1", 100, 3600, 16_384, 60)


@pytest.mark.parametrize("pod", [POD, WarmPod("s", "", "", 1, 1, 0)])
def test_a_pod_reads_what_its_launcher_wrote(pod: WarmPod) -> None:
    assert WarmPod.parse(pod.text()) == pod


def test_a_newer_dispatcher_may_say_more() -> None:
    assert WarmPod.parse(json.dumps(json.loads(POD.text()) | {"more": 1})) == POD


@pytest.mark.parametrize("text", ["", "{", "[]", "5", json.dumps({"site": "gpu-1"})])
def test_a_pod_that_cannot_read_it_runs_one_job(text: str) -> None:
    assert WarmPod.parse(text) is None
