"""What is seen of warm pods: `status`, `why`, `classes`, `logs` and `/metrics`."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.integration.kubernetes.test_cli import call, start
from tests.support.cluster_stack import ClusterStack
from tests.support.endpoints import Endpoint, free_port
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
GPU = "gpu.t4.shared"
ENV = {"GPUQUEUE_WARM_SECONDS": "90"}
T4 = {"gpu_class": "t4"}


@pytest.fixture(scope="module")
def endpoint() -> Endpoint:
    return Endpoint(free_port())


@pytest.fixture(scope="module")
def warm(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], endpoint: Endpoint
) -> Iterator[ClusterStack]:
    folder = tmp_path_factory.mktemp("warm")
    env = ENV | {"GPUQUEUE_METRICS_PORT": str(endpoint.port)}
    with listed(running_stacks, ClusterStack(folder, env)) as made:
        made.dispatcher()
        yield made


@pytest.fixture
def shop(warm: ClusterStack) -> ModuleType:
    return warm.shop


def look(stack: ClusterStack, pod: str) -> str:
    """Read the log of a pod: what it prints later has a later time."""
    path = f"api/v1/namespaces/{stack.cluster.namespace}/pods/{pod}/log"
    request = urllib.request.Request(f"{stack.cluster.url}/{path}")
    request.add_header("Authorization", f"Bearer {stack.cluster.token}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


@pytest.fixture
def held(warm: ClusterStack, shop: ModuleType, key: str) -> Any:
    """A job that runs in a pod which has run another one, whose output is in the pod's log."""
    first = shop.say.apply_async((f"{key}-first",), queue=GPU)
    warm.told(f"{key}-first")
    pod = warm.pod_name(first.id)
    warm.go(f"{key}-first")
    assert first.get(PATIENCE) == f"{key}-first"
    until(lambda: warm.reader.waiting_pods("t4"), PATIENCE, "its pod waits")
    until(lambda: f"has said {key}-first" in look(warm, pod), PATIENCE, "it has printed")
    made = shop.say.apply_async((key,), queue=GPU)
    warm.told(key)
    assert warm.known(made.id)["warm_turn"] > 1
    yield first, made
    warm.go(key)
    assert made.get(PATIENCE) == key
    warm.idle()


def shown(stack: ClusterStack, *arguments: str) -> Any:
    status, out, err = call(stack, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def test_status_tells_warm_pods_and_the_jobs_in_them(warm: ClusterStack, held: Any) -> None:
    _, job = held
    [t4] = [each for each in shown(warm, "status")["classes"] if each["name"] == "t4"]
    [holder] = t4["holders"]
    assert holder["id"] == job.id
    turn = warm.known(job.id)["warm_turn"]
    assert (holder["warm_turn"], t4["idle_pods"]) == (turn, 0)
    found = shown(warm, "why", job.id)
    assert (found["warm_turn"], found["warm_of"]) == (turn, holder["warm_of"])
    _, out, _ = call(warm, "status")
    assert "TURN" in out and "idle pods" not in out
    _, out, _ = call(warm, "why", job.id)
    assert f"turn in its pod or process: {turn}\n" in out
    assert "\nwarm:" not in out, "it is no moment"


def test_pods_without_a_job_are_shown_and_measured(
    warm: ClusterStack, shop: ModuleType, endpoint: Endpoint
) -> None:
    assert shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE) == 2
    until(lambda: warm.reader.waiting_pods("t4"), PATIENCE, "its pod waits")
    before = endpoint.metrics()("gpuqueue_warm_starts_total", isolation="shared", **T4) or 0
    assert endpoint.metrics()("gpuqueue_idle_pods", **T4) == 1
    assert endpoint.metrics()("gpuqueue_running_jobs", isolation="shared", **T4) == 0
    [t4] = [each for each in shown(warm, "status")["classes"] if each["name"] == "t4"]
    assert (t4["idle_pods"], t4["holders"]) == (1, [])
    assert "idle pods 1" in call(warm, "status")[1]
    assert shop.add.apply_async((1, 2), queue=GPU).get(PATIENCE) == 3
    after = endpoint.metrics()("gpuqueue_warm_starts_total", isolation="shared", **T4)
    assert after == before + 1


def test_classes_tells_how_long_pods_wait(warm: ClusterStack) -> None:
    _, out, _ = call(warm, "classes")
    assert "WARM" in out and "1m 30s" in out
    assert [each["warm_seconds"] for each in shown(warm, "classes")] == [90]


def test_logs_of_a_job_in_a_warm_pod_are_its_own(warm: ClusterStack, held: Any, key: str) -> None:
    first, job = held
    assert call(warm, "logs", job.id) == (0, f"says {key}\n", "")
    status, out, err = call(warm, "logs", first.id, KUBECONFIG="/nowhere")
    assert (status, err) == (0, "")
    assert f"says {key}-first\n" in out and f"has said {key}-first\n" in out
    assert f"says {key}\n" not in out


@pytest.mark.slow
def test_logs_are_of_the_job_though_the_clock_of_its_node_is_off(
    warm: ClusterStack, ahead: int, held: Any, key: str
) -> None:
    _, job = held
    assert call(warm, "logs", job.id) == (0, f"says {key}\n", "")


def test_followed_logs_end_with_their_job_and_not_with_its_pod(
    warm: ClusterStack, held: Any, key: str
) -> None:
    _, job = held
    with start(warm, "logs", "-f", job.id) as command:
        assert command.stdout.readline() == f"says {key}\n"
        warm.go(key)
        assert job.get(PATIENCE) == key
        status, out, err = command.ended(PATIENCE)
    assert (status, err) == (0, "")
    assert out.startswith(f"has said {key}\n") and "first" not in out
    assert warm.reader.waiting_pods("t4")
