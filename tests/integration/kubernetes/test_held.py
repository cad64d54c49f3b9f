"""What would meet every job of a class holds the class: no job fails, and the order is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue import gpu
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import ImageUnusable, Unschedulable
from gpuqueue.model.place import Place
from gpuqueue.store import places as stored
from tests.doubles.kubernetes import Node
from tests.doubles.kubernetes.objects.kinds import EVENTS, PODS, QUOTAS, Resource
from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"
#: The registry's image: nodes have it only after a pull.
TRAIN = "registry.example/team/train:7"
#: The rights of a dispatcher.
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": ["*"]},
]


@pytest.fixture
def stack_of(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[Callable[..., ClusterStack]]:
    with ExitStack() as made:

        def make(env: dict[str, str] | None = None, **cluster: Any) -> ClusterStack:
            cold = {"GPUQUEUE_WARM_SECONDS": "0"} | (env or {})
            stack = ClusterStack(tmp_path_factory.mktemp("held"), cold, **cluster)
            made.enter_context(listed(running_stacks, stack))
            return stack

        yield make


def held(stack: ClusterStack, gpu_class: str = "t4") -> dict[str, Place]:
    places = stored.set_aside(stored.of(stack.client, gpu_class))
    return {place.kind: place for place in places}


def why(stack: ClusterStack, result: AsyncResult) -> str:
    found = stack.reader.why(GpuClass("t4", shared_slots=4), result.id)
    return found.reason if found else ""


def send(stack: ClusterStack, jobs: int, **options: Any) -> list[AsyncResult]:
    options = {"queue": GPU} | options
    return [stack.shop.add.apply_async((n, 1), **options) for n in range(jobs)]


def all_run(stack: ClusterStack, results: list[AsyncResult], *, in_order: bool = True) -> None:
    """All jobs succeed, in the order of the line, and no attempt counts but one of each. A job that
    was tried while the class was held may be passed by the next one, which is tried after it.
    """
    answers = [result.get(2 * PATIENCE) for result in results]
    assert answers == list(range(1, len(results) + 1))
    records = [stack.in_state(result.id, "ended") for result in results]
    assert {each["attempt"] - each.get("spared", 0) for each in records} == {1}
    if in_order:
        admitted = [each["admitted"] for each in records if not each.get("spared")]
        assert admitted == sorted(admitted)


@pytest.mark.slow
def test_jobs_wait_in_order_while_the_rights_are_gone(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack, rules = stack_of(), list(RULES)
    token = stack.cluster.user("system:serviceaccount:default:dispatcher", rules)
    node = stack.dispatcher(env={"KUBECONFIG": str(stack.cluster.kubeconfig_for(token))})
    rules.clear()
    results = send(stack, 60)
    until(lambda: "launch" in held(stack), PATIENCE, "the class is held", node.logs)
    until(lambda: why(stack, results[59]) == "LAUNCH_REFUSED", PATIENCE, "why says so")
    assert "cannot create resource" in held(stack)["launch"].error
    rules.extend(RULES)
    all_run(stack, results)
    assert held(stack) == {}


@pytest.mark.slow
def test_jobs_wait_while_the_token_is_not_known(stack_of: Callable[..., ClusterStack]) -> None:
    stack = stack_of()
    stack.dispatcher()
    stack.cluster.faults.fail(401, method="POST", path="/jobs", times=None, body=UNAUTHORIZED)
    results = send(stack, 10)
    until(lambda: "launch" in held(stack), PATIENCE, "the class is held")
    stack.cluster.faults.clear()
    all_run(stack, results)


UNAUTHORIZED = (
    '{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message":'
    ' "Unauthorized", "reason": "Unauthorized", "code": 401}'
)


def test_jobs_wait_while_a_policy_refuses_jobs(stack_of: Callable[..., ClusterStack]) -> None:
    stack = stack_of()
    stack.dispatcher()
    stack.cluster.faults.policy("jobs", "cost-center label is required")
    results = send(stack, 8)
    until(lambda: "launch" in held(stack), PATIENCE, "the class is held")
    assert "cost-center label is required" in held(stack)["launch"].error
    until(lambda: why(stack, results[7]) == "LAUNCH_REFUSED", PATIENCE, "why says so")
    stack.cluster.faults.policy("jobs", None)
    all_run(stack, results)


@pytest.mark.slow
def test_jobs_wait_while_a_policy_refuses_pods(stack_of: Callable[..., ClusterStack]) -> None:
    stack = stack_of({"GPU_QUOTA_TIMEOUT": "1"})
    stack.dispatcher()
    stack.cluster.faults.policy("pods", "cost-center label is required")
    results = send(stack, 8)
    until(lambda: "launch" in held(stack), PATIENCE, "the class is held")
    assert "cost-center label is required" in held(stack)["launch"].error
    stack.cluster.faults.policy("pods", None)
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_jobs_wait_while_an_injected_container_fails(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack = stack_of()
    stack.dispatcher()

    def add(resource: Resource, body: dict[str, Any]) -> None:
        if resource is PODS:
            image = body["spec"]["containers"][0]["image"]
            agent = {"name": "vault-agent", "image": image, "resources": {}}
            agent["command"] = ["sh", "-c", "echo vault is sealed; exit 2"]
            body["spec"].setdefault("initContainers", []).append(agent)

    stack.cluster.registry.webhooks.append(add)
    results = send(stack, 8)
    until(lambda: "pods" in held(stack), PATIENCE, "the class is held")
    assert "vault-agent failed with exit code 2" in held(stack)["pods"].error
    until(lambda: why(stack, results[7]) == "LAUNCH_REFUSED", PATIENCE, "why says so")
    stack.cluster.registry.webhooks.remove(add)
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_a_quota_is_tried_again_when_a_job_ends(stack_of: Callable[..., ClusterStack]) -> None:
    stack = stack_of({"GPU_QUOTA_TIMEOUT": "1"})
    stack.dispatcher()
    spec = {"hard": {"requests.nvidia.com/gpu": "2"}}
    stack.cluster.create(QUOTAS, {"metadata": {"name": "q"}, "spec": spec})
    results = [stack.shop.hold.apply_async((f"k{n}",), queue=GPU) for n in range(2)]
    for n in range(2):
        stack.told(f"k{n}")
    later = send(stack, 3)
    until(lambda: "quota" in held(stack), PATIENCE, "the class is held")
    until(lambda: why(stack, later[2]) == "QUOTA", PATIENCE, "why says so")
    until(lambda: held(stack)["quota"].pause >= 16, 2 * PATIENCE, "the pause grows")
    until(lambda: not held(stack)["quota"].probe, PATIENCE, "no job tries it")
    before = time.monotonic()
    stack.go("k0")
    all_run(stack, later[:1])
    assert time.monotonic() - before < 8, "it is tried at once, not after the pause"
    stack.go("k1")
    all_run(stack, later, in_order=False)
    assert [result.get(PATIENCE) for result in results] == ["k0", "k1"]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [401, 429, 503])
def test_jobs_wait_while_a_registry_is_away(
    stack_of: Callable[..., ClusterStack], answer: int
) -> None:
    stack = stack_of()
    stack.cluster.images[TRAIN] = replace(stack.cluster.images["shop:1"], pull_seconds=0.01)
    stack.dispatcher()
    stack.cluster.faults.registries_answer(answer)
    results = [stack.shop.add.apply_async((n, 1), **gpu("t4", image=TRAIN)) for n in range(6)]
    until(lambda: "image" in held(stack), PATIENCE, "the image is held")
    assert str(answer) in held(stack)["image"].error
    until(lambda: why(stack, results[0]) in ("IMAGE", "PULLING_IMAGE"), PATIENCE, "why says so")
    others = send(stack, 3)
    assert [result.get(PATIENCE) for result in others] == [1, 2, 3]
    stack.cluster.faults.registries_answer(200)
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_an_image_that_does_not_exist_ends_the_job_that_names_it(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack = stack_of()
    stack.dispatcher()
    stack.cluster.faults.registries_answer(404)
    result = stack.shop.add.apply_async((1, 1), **gpu("t4", image=TRAIN))
    with pytest.raises(ImageUnusable, match="not found"):
        result.get(PATIENCE)
    assert stack.in_state(result.id, "ended")["attempt"] == 1
    assert held(stack) == {}


@pytest.mark.slow
def test_the_image_of_a_class_that_does_not_exist_holds_its_jobs(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack = stack_of({"GPU_EXECUTOR_IMAGE": TRAIN})
    image = replace(stack.cluster.images["shop:1"], pull_seconds=0.01)
    stack.dispatcher()
    stack.cluster.faults.registries_answer(404)
    results = send(stack, 5)
    until(lambda: "image" in held(stack), PATIENCE, "the image is held")
    stack.cluster.images[TRAIN] = image
    stack.cluster.faults.registries_answer(200)
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_jobs_wait_until_a_node_comes(stack_of: Callable[..., ClusterStack]) -> None:
    stack = stack_of(nodes=[])
    stack.dispatcher()
    results = send(stack, 6)
    until(lambda: "scheduling" in held(stack), PATIENCE, "the class is held")
    until(lambda: why(stack, results[5]) == "UNSCHEDULABLE", PATIENCE, "why says so")
    stack.cluster.add_node(Node())
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_the_clock_for_a_node_stands_still_while_one_is_added(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack = stack_of(nodes=[])
    stack.dispatcher()
    [result] = send(stack, 1)
    stack.in_state(result.id, "launching")
    pod = until(lambda: stack.cluster.pods(), PATIENCE, "its pod is there")[0]
    event(stack, pod, "TriggeredScaleUp", "pod triggered scale-up: [{gpu 0->1 (max: 4)}]")
    until(
        lambda: "an autoscaler adds a node" in (stack.record(result.id) or {}).get("detail", ""),
        PATIENCE,
        "why says so",
        lambda: str(stack.record(result.id)),
    )
    assert stack.known(result.id)["attempt"] == 1 and held(stack) == {}
    event(stack, pod, "NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size")
    until(lambda: "scheduling" in held(stack), PATIENCE, "its clock goes on")


def event(stack: ClusterStack, pod: dict[str, Any], reason: str, message: str) -> None:
    from tests.doubles.kubernetes.objects.wire import stamp

    meta = pod["metadata"]
    about = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"]}
    body = {
        "metadata": {"name": f"{meta['name']}.{reason.lower()}"},
        "involvedObject": about | {"uid": meta["uid"]},
        "reason": reason,
        "message": message,
        "type": "Normal",
        "firstTimestamp": stamp(),
        "lastTimestamp": stamp(),
        "count": 1,
    }
    stack.cluster.create(EVENTS, body)


@pytest.mark.slow
def test_what_every_pod_names_and_is_missing_holds_the_class(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack = stack_of()
    stack.dispatcher()
    words = 'failed to get sandbox runtime: no runtime for "absent" is configured'
    stack.cluster.faults.no_sandboxes(words)
    results = send(stack, 5)
    until(lambda: "pods" in held(stack), PATIENCE, "the class is held")
    assert words in held(stack)["pods"].error
    stack.cluster.faults.no_sandboxes("")
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_a_volume_that_is_missing_holds_the_class(
    stack_of: Callable[..., ClusterStack], tmp_path: Any
) -> None:
    template = tmp_path / "template.json"
    volume = {"name": "v", "configMap": {"name": "absent"}}
    template.write_text(json.dumps({"spec": {"volumes": [volume]}}))
    stack = stack_of({"GPUQUEUE_POD_TEMPLATE": str(template)})
    stack.dispatcher()
    results = send(stack, 4)
    results.append(stack.shop.add.apply_async((4, 1), **gpu("t4", image="shop:1")))
    until(lambda: "pods" in held(stack), PATIENCE, "the class is held")
    assert 'configmap "absent" not found' in held(stack)["pods"].error
    stack.cluster.config_map("absent", {"a": "b"})
    all_run(stack, results, in_order=False)


@pytest.mark.slow
def test_a_quota_that_demands_limits_holds_the_class_and_says_what_to_set(
    stack_of: Callable[..., ClusterStack], tmp_path: Any
) -> None:
    file = tmp_path / "classes.toml"
    file.write_text("[classes.t4]\nshared_slots = 4\n")
    stack = stack_of({"GPU_QUOTA_TIMEOUT": "1", "GPUQUEUE_CLASSES_FILE": str(file)})
    spec = {"hard": {"limits.cpu": "4", "limits.memory": "64Gi"}}
    stack.cluster.create(QUOTAS, {"metadata": {"name": "cpu"}, "spec": spec})
    first = stack.dispatcher()
    results = send(stack, 5)
    until(lambda: "quota" in held(stack), PATIENCE, "the class is held")
    error = held(stack)["quota"].error
    demanded = "failed quota: cpu: must specify limits.cpu for: executor; limits.memory for:"
    assert demanded in error
    assert "set limits.cpu in pod_template.spec.containers of the class" in error
    assert "set host_memory of the class, or GPU_MEMORY_LIMIT" in error
    until(lambda: why(stack, results[4]) == "QUOTA", PATIENCE, "why says so")
    first.stop()
    file.write_text(
        '[classes.t4]\nshared_slots = 4\nhost_memory = "1Gi"\n[classes.t4.pod_template.spec]\n'
        'containers = [{ name = "executor", resources = { limits = { cpu = "1" } } }]\n'
    )
    stack.dispatcher("second")
    all_run(stack, results, in_order=False)
    assert held(stack) == {}


@pytest.mark.slow
def test_a_node_without_network_is_avoided(stack_of: Callable[..., ClusterStack]) -> None:
    stack = stack_of(nodes=[Node("bad"), Node("good")])
    stack.dispatcher()
    words = 'plugin type="calico" failed (add): error getting ClusterInformation: not found'
    stack.cluster.faults.no_sandboxes(words, "bad")
    results = send(stack, 6)
    assert [result.get(2 * PATIENCE) for result in results] == [1, 2, 3, 4, 5, 6]
    assert {stack.known(result.id)["node"] for result in results} == {"good"}


@pytest.mark.slow
def test_only_the_class_that_is_refused_is_held(
    stack_of: Callable[..., ClusterStack], tmp_path: Any
) -> None:
    file = tmp_path / "classes.toml"
    file.write_text('[classes.other]\nshared_slots = 2\nnode_selector = { zone = "none" }\n')
    stack = stack_of({"GPUQUEUE_CLASSES_FILE": str(file)})
    stack.dispatcher(arguments=("-Q", "gpu.t4.shared,gpu.other.shared"))
    waits = send(stack, 3, queue="gpu.other.shared")
    until(lambda: "scheduling" in held(stack, "other"), PATIENCE, "it is held")
    all_run(stack, send(stack, 3))
    assert held(stack) == {} and not any(result.ready() for result in waits)


@pytest.mark.slow
def test_jobs_of_a_class_with_a_limit_end_with_the_reason(
    stack_of: Callable[..., ClusterStack],
) -> None:
    nowhere = {"GPU_NODE_SELECTOR_KEY": "zone", "GPU_NODE_SELECTOR_VALUE": "nowhere"}
    stack = stack_of({"GPU_HELD_TIMEOUT": "3"} | nowhere)
    stack.dispatcher()
    results = send(stack, 6)
    for result in results:
        with pytest.raises(Unschedulable, match=r"held for 3 s: .*0/1 nodes are available"):
            result.get(2 * PATIENCE)
    assert stack.in_state(results[5].id, "ended")["reason"] == "UNSCHEDULABLE"


@pytest.mark.slow
def test_a_restart_of_the_dispatcher_keeps_the_hold(
    stack_of: Callable[..., ClusterStack],
) -> None:
    stack = stack_of()
    first = stack.dispatcher()
    stack.cluster.faults.policy("jobs", "no")
    results = send(stack, 6)
    until(lambda: "launch" in held(stack), PATIENCE, "the class is held")
    first.stop()
    assert "launch" in held(stack)
    stack.dispatcher("second")
    until(lambda: held(stack)["launch"].pause >= 4, PATIENCE, "the second one tries it")
    stack.cluster.faults.policy("jobs", None)
    all_run(stack, results)
