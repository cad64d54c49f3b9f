"""What the doctor concludes about a cluster, without a dispatcher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.checks.cluster import cluster as look
from gpuqueue.cli.checks.nodes import overlaps, slots
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, WITH_LISTS_INSTEAD
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.settings.dispatcher import load
from tests.doubles.kubernetes import Cluster, Image
from tests.doubles.kubernetes.objects.kinds import LIMIT_RANGES, QUOTAS
from tests.unit.settings.test_kubernetes import TABLE

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


@pytest.mark.parametrize(
    ("gpus", "nodes", "level", "said"),
    [
        (2, ["4", "4"], Level.OK, "4 slots, 8 of nvidia.com/gpu on n0 (4), n1 (4)"),
        (2, ["3", "5"], Level.WARN, "room for 3 jobs of 2 GPUs; lower the class to 3 slots"),
        (4, ["3", "3"], Level.FAIL, "or add nodes with 4 GPUs"),
        (0, [], Level.OK, "its pods claim their GPUs"),
    ],
)
def test_a_job_of_several_gpus_needs_them_on_one_node(
    gpus: int, nodes: list[str], level: Level, said: str
) -> None:
    known = [node(f"n{number}", each) for number, each in enumerate(nodes)]
    found = slots(GpuClass("a100", exclusive_slots=4, gpus=gpus), known, {})
    assert (found.level, said in f"{found.saw}; {found.fix}") == (level, True)


BIG = GpuClass("big", exclusive_slots=2)


@pytest.mark.parametrize(
    ("other", "pods", "nodes"),
    [
        (BIG, {}, "a, b"),
        (replace(BIG, nodes=["b"]), {}, "b"),
        (replace(BIG, shared_slots=2, exclusive_slots=0), {}, "a, b"),
        (BIG, {"t4": {"nodeSelector": ZONE}}, "a"),
        (BIG, {"t4": {"nodeSelector": ZONE}, "big": {"nodeSelector": {"zone": "y"}}}, ""),
        (BIG, {"t4": {"affinity": {"nodeAffinity": {"of": "a template"}}}}, ""),
        (replace(BIG, resource="nvidia.com/mig-1g.5gb"), {}, ""),
    ],
    ids=["all", "a list", "shared", "a label", "apart", "a template", "other GPUs"],
)
def test_two_classes_whose_jobs_may_meet_on_a_gpu_are_told(
    other: GpuClass, pods: dict[str, Any], nodes: str
) -> None:
    known = [
        node("a", "8", labels=ZONE),
        node("b", "8", unschedulable=True),
        node("c", "8", taints=[TAINT]),
        node("cpu", "0"),
    ]
    of_both = {"t4": {}, "big": tolerating(key="pool", operator="Exists")} | pods
    found = list(overlaps({"t4": T4, "big": other}, known, of_both))
    assert [each.level for each in found] == [Level.WARN] * bool(nodes)
    assert not nodes or f"t4 and big: both run on {nodes} with nvidia.com/gpu" in found[0].saw


@pytest.mark.parametrize(
    "one",
    [GpuClass("t4", exclusive_slots=4), GpuClass("t4", shared_slots=8)],
    ids=["whole GPUs", "shared alone"],
)
def test_classes_of_one_isolation_may_run_on_the_same_nodes(one: GpuClass) -> None:
    classes = {"t4": one, "big": replace(one, name="big")}
    assert not list(overlaps(classes, [node("a", "8")], {"t4": {}, "big": {}}))


def test_nodes_that_may_come_are_no_fault() -> None:
    scaled = GpuClass("t4", shared_slots=4, domain="node", scale_to=3)
    found = slots(scaled, [node("cpu", "0")], {})
    expected = "t4: no node; 3 may come, if an autoscaler adds them"
    assert (found.level, found.saw) == (Level.OK, expected)
    found = slots(scaled, [node("a", "8"), node("b", "8")], {})
    assert (found.level, found.saw) == (
        Level.OK,
        "t4: a (4 slots), b (4 slots); 1 more may come",
    )


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
    for each in look(load(), {"t4": T4}, None):
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


def test_a_server_accepts_the_pods_of_a_class_with_every_field(double: Cluster) -> None:
    a100 = from_toml(TABLE, "classes.toml")["a100"]
    double.add_namespace("ml-a100")
    (found,) = [each for each in look(load(), {"a100": a100}, None) if each.name == "jobs"]
    assert (found.level, found.saw) == (
        Level.OK,
        "a100: the server accepts its Jobs (image registry.example/a100:1)",
    )


def test_a_wrong_template_of_a_class_is_named(double: Cluster) -> None:
    wrong = replace(T4, pod_template={"spec": {"hostNetwork": True}})
    (found,) = [each for each in look(load(), {"t4": wrong}, None) if each.name == "jobs"]
    assert found.level is Level.FAIL
    assert "class 't4': pod_template: spec.hostNetwork=True" in found.saw


def test_the_secret_of_each_class_is_checked(double: Cluster) -> None:
    classes = {"t4": T4, "a100": replace(T4, name="a100", secret_name="gpuqueue-a100")}
    saw = [each.saw for each in look(load(), classes, None) if each.name == "secret"]
    assert [each.split()[0] for each in saw] == ["gpuqueue", "gpuqueue-a100"]


def saw(name: str, *classes: GpuClass) -> dict[str, Check]:
    """What a check tells of these classes."""
    found = look(load(), {each.name: each for each in classes}, None)
    return {each.saw: each for each in found if each.name == name}


TEAM = replace(T4, name="team", namespace="team-a")


def test_every_namespace_in_use_is_checked_with_its_rights_and_secrets(
    double: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = [each for each in saw("namespace", T4, TEAM).values() if each.level is Level.FAIL]
    assert missing.saw == "team-a does not exist"
    assert missing.fix == "kubectl create namespace team-a, or set namespace of its classes"
    assert saw("jobs", T4, TEAM).popitem()[1].level is Level.FAIL

    double.add_namespace("team-a")
    double.secret("gpuqueue", {"CELERY_BROKER_URL": "redis://x"}, "team-a")
    assert list(saw("namespace", T4, TEAM)) == ["gpus", "team-a"]
    secrets = saw("secret", T4, TEAM)
    assert list(secrets) == [
        "gpuqueue does not exist",
        "gpuqueue in namespace team-a has CELERY_BROKER_URL",
    ]
    assert {each.level for each in saw("jobs", T4, TEAM).values()} == {Level.OK}
    rights = saw("rights", T4, TEAM)
    assert {each.level for each in rights.values()} == {Level.OK} and len(rights) == 20

    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    kubeconfig = double.kubeconfig_for(double.user("dispatcher", rules, ["gpus"]))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    wrong = [each for each in saw("rights", T4, TEAM).values() if each.level is Level.FAIL]
    assert {each.saw.split("(")[0].strip() for each in wrong} == {
        f"may not {right} in namespace team-a"
        for right in DISPATCHER
        if right not in WITH_LISTS_INSTEAD
    }
    assert {each.fix for each in wrong} == {"allow it by a Role in namespace team-a"}


def test_a_quota_that_demands_what_pods_do_not_set_is_told_with_the_fix(
    double: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.add_namespace("team-a")
    hard = {"requests.cpu": "8", "limits.cpu": "8", "limits.memory": "64Gi", "pods": "9"}
    double.create(QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}}, "team-a")
    scoped = {"hard": hard, "scopes": ["BestEffort"]}
    double.create(QUOTAS, {"metadata": {"name": "scoped"}, "spec": scoped}, "team-a")
    words = "team: quota q refuses its pods: must specify"
    found = saw("quota", T4, TEAM)
    assert {text: each.fix for text, each in found.items()} == {
        f"{words} limits.cpu for: executor": (
            "set limits.cpu in pod_template.spec.containers of the class, or in"
            " GPUQUEUE_POD_TEMPLATE"
        ),
        f"{words} limits.memory for: executor": (
            "set host_memory of the class, or GPU_MEMORY_LIMIT"
        ),
    }
    assert {each.level for each in found.values()} == {Level.FAIL}
    limits = {"containers": [{"name": "executor", "resources": {"limits": {"cpu": "2"}}}]}
    limited = replace(TEAM, host_memory="2Gi", pod_template={"spec": limits})
    assert saw("quota", limited) == {}
    item = {"type": "Container", "default": {"cpu": "1", "memory": "2Gi"}}
    double.create(LIMIT_RANGES, {"metadata": {"name": "r"}, "spec": {"limits": [item]}}, "team-a")
    assert saw("quota", TEAM) == {}
    double.faults.fail(403, path="/resourcequotas", times=1)
    (unknown,) = saw("quota", TEAM).values()
    assert (unknown.level, unknown.saw) == (Level.WARN, "namespace team-a: not checked")


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
