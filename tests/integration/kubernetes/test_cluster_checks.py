"""What the doctor concludes about a cluster, without a dispatcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.checks.cluster import cluster as look
from gpuqueue.cli.checks.nodes import slots
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.settings.dispatcher import load
from tests.doubles.kubernetes import Cluster, Image

T4 = GpuClass("t4", shared_slots=8, exclusive_slots=1)
TAINT = {"key": "pool", "value": "gpu", "effect": "NoSchedule"}


def node(
    name: str,
    gpus: str | None = "4",
    ready: str = "True",
    labels: dict[str, str] | None = None,
    resource: str = "nvidia.com/gpu",
    **spec: Any,
) -> Node:
    body = {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
        "status": {
            "allocatable": {} if gpus is None else {resource: gpus},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }
    return msgspec.convert(body, Node)


TAINTED, ZONE = [node("a", "8", taints=[TAINT])], {"zone": "x"}


def shared(replicas: int) -> dict[str, str]:
    """Labels of a node whose two GPUs are shared by time-slicing."""
    return {"nvidia.com/gpu.count": "2", "nvidia.com/gpu.replicas": str(replicas)}


def tolerating(**toleration: str) -> dict[str, Any]:
    """The pod fields of one toleration."""
    return {"tolerations": [toleration]}


@pytest.mark.parametrize(
    ("nodes", "pod", "level", "said"),
    [
        ([node("a"), node("b")], {}, Level.OK, "8 slots, 8 of nvidia.com/gpu on a (4), b (4)"),
        ([node("a", "9")], {}, Level.OK, "8 slots, 9 of"),
        ([node("a")], {}, Level.WARN, "lower the class to 4 slots"),
        ([node("a", "0"), node("b", None)], {}, Level.FAIL, "on no node"),
        ([node("a", "8", ready="False")], {}, Level.FAIL, "not counted: a (not ready)"),
        ([node("a"), node("b", unschedulable=True)], {}, Level.WARN, "not counted: b (cordoned)"),
        (TAINTED, {}, Level.FAIL, "not counted: a (taint pool=gpu:NoSchedule)"),
        ([node("a", "8", taints=[{**TAINT, "effect": "PreferNoSchedule"}])], {}, Level.OK, "on a"),
        (TAINTED, tolerating(**TAINT, operator="Equal"), Level.OK, "on a"),
        (TAINTED, tolerating(key="pool", value="other"), Level.FAIL, "on no node"),
        (TAINTED, tolerating(key="pool", operator="Exists"), Level.OK, "on a"),
        (TAINTED, tolerating(operator="Exists"), Level.OK, "on a"),
        (
            TAINTED,
            tolerating(key="pool", operator="Exists", effect="NoExecute"),
            Level.FAIL,
            "on no node",
        ),
        ([node("a", "8", ready="False")], {}, Level.FAIL, "; repair or uncordon a node"),
        ([node("a", "8", labels=shared(4))], {}, Level.OK, "on a (2 × 4)"),
        ([node("a", "8", labels=shared(9))], {}, Level.OK, "on a (8)"),
        ([node(f"n{number}", "1") for number in range(14)], {}, Level.OK, "n11 (1) and 2 more"),
        ([node("a", "8", labels=ZONE), node("b")], {"nodeSelector": ZONE}, Level.OK, "on a"),
        ([node("a", "8")], {"nodeSelector": ZONE}, Level.FAIL, "on nodes with zone=x"),
    ],
)
def test_slots_are_compared_with_the_nodes_that_pods_may_go_to(
    nodes: list[Node], pod: dict[str, Any], level: Level, said: str
) -> None:
    found = slots(T4, nodes, pod)
    assert found.level is level
    assert said in f"{found.saw}; {found.fix}"


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Cluster(tmp_path, pace=0.01, images={"shop:1": Image()}, namespace="gpus") as made:
        env = {
            "KUBECONFIG": str(made.kubeconfig),
            "GPU_EXECUTOR_IMAGE": "shop:1",
            "GPU_EXECUTION_MODE": "k8s_job",
        }
        env["CELERY_BROKER_URL"] = "redis://nowhere.example:6379/0"
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        yield made


def test_a_resource_that_is_not_counted_in_whole_numbers_has_whole_shares() -> None:
    """On a cluster for development a core takes the place of a GPU (``GPU_RESOURCE_NAME=cpu``)."""
    nodes = [
        node("a", "3920m", resource="cpu"),
        node("b", "2", resource="cpu"),
        node("c", "940m", resource="cpu"),
    ]
    found = slots(GpuClass("t4", resource="cpu", shared_slots=5), nodes, {})
    assert (found.level, found.saw) == (Level.OK, "t4: 5 slots, 5 of cpu on a (3), b (2)")
    assert "5 of cpu" in slots(GpuClass("t4", resource="cpu", shared_slots=6), nodes, {}).saw


def checks() -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for each in look(load(), {"t4": T4}):
        found.setdefault(each.name, []).append(each)
    return found


def test_a_missing_image_is_named_with_its_setting(
    double: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPU_EXECUTOR_IMAGE")
    (found,) = checks()["jobs"]
    assert found.level is Level.FAIL
    assert "GPU_EXECUTOR_IMAGE" in found.saw + found.fix


def test_the_pod_template_counts_for_nodes_and_a_wrong_one_is_named(
    double: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template.yaml"
    monkeypatch.setenv("GPUQUEUE_POD_TEMPLATE", str(template))
    template.write_text("spec: {nodeSelector: {zone: x}}\n")
    found = checks()
    assert found["pod template"] == [Check("pod template", Level.OK, str(template))]
    assert found["nodes"][0].level is Level.FAIL
    assert "zone=x" in found["nodes"][0].fix
    template.write_text("spec: {restartPolicy: Always}\n")
    found = checks()
    assert found["pod template"][0].level is Level.FAIL
    assert "restartPolicy" in found["pod template"][0].saw
    assert found["jobs"][0].level is Level.OK


def test_a_refused_job_is_an_error_and_a_transient_failure_a_warning(double: Cluster) -> None:
    double.faults.fail(422, method="POST", path="/jobs", times=1)
    assert checks()["jobs"][0].level is Level.FAIL
    double.faults.fail(503, method="POST", path="/jobs", times=1)
    (found,) = checks()["jobs"]
    assert found.level is Level.WARN
    assert "not checked" in found.saw
    assert checks()["jobs"][0].level is Level.OK


def test_a_cluster_that_is_away_or_not_configured_is_one_failure(
    double: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.faults.front_down()
    found = checks()
    assert list(found) == ["cluster"]
    assert found["cluster"][0].level is Level.FAIL
    assert double.url in found["cluster"][0].saw
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    (missing,) = checks()["cluster"]
    assert "KUBECONFIG='/nowhere'" in missing.saw
