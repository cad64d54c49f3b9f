"""Jobs of several GPUs, and jobs that move to a larger class, as pods of a cluster. Torch is made
up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import states

from gpuqueue import gpu
from gpuqueue.store.usage import Usage
from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_cli import call
from tests.support.cluster_stack import ClusterStack
from tests.support.nodes import APPS, FAKE_GPUS
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]
CLASSES = """
[classes.t4]
exclusive_slots = 2
domain = "node"
larger = "a100"

[classes.a100]
exclusive_slots = 1
memory = "80GB"
"""
RESOURCE = "nvidia.com/gpu"
ONE, TWO = gpu("t4", isolation="exclusive"), gpu("t4", isolation="exclusive", gpus=2)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[ClusterStack]:
    directory: Path = tmp_path_factory.mktemp("several")
    (directory / "classes.toml").write_text(CLASSES)
    env = {
        "GPUQUEUE_CLASSES_FILE": str(directory / "classes.toml"),
        "PYTHONPATH": os.pathsep.join(map(str, (FAKE_GPUS, APPS))),
        "GPUQUEUE_WARM_SECONDS": "0",
    }
    nodes = [Node("a", resources={RESOURCE: "2"}), Node("b", resources={RESOURCE: "1"})]
    with listed(running_stacks, ClusterStack(directory, env, nodes=nodes)) as made:
        made.dispatcher()
        until(lambda: len(made.client.hkeys("gpuqueue:1:{t4}:domains")) == 2, PATIENCE)
        yield made


def entries(stack: ClusterStack, name: str, job_id: str) -> list[Any]:
    return [each for each in Usage(stack.client).of(name, 0).entries if each.id == job_id]


def test_a_job_of_two_gpus_has_them_on_one_node(stack: ClusterStack, key: str) -> None:
    """And while it waits for them, the other node goes on."""

    def send(name: str, options: dict[str, Any]) -> Any:
        return stack.shop.say.apply_async((f"{key}-{name}",), **options)

    def started(name: str, result: Any) -> Any:
        assert stack.told(f"{key}-{name}") == "said"
        return stack.known(result.id)["node"]

    def ends(name: str, result: Any) -> None:
        stack.go(f"{key}-{name}")
        result.get(PATIENCE)

    first, second = send("1", ONE), send("2", ONE)
    assert {started("1", first), started("2", second)} == {"a", "b"}
    named = {"1": first, "2": second}
    on = {stack.known(each.id)["node"]: (name, each) for name, each in named.items()}
    both = send("both", TWO)
    stack.in_state(both.id, "waiting")
    behind = send("behind", ONE)
    stack.in_state(behind.id, "waiting")
    assert "a: exclusive 1/2, is reserved for a job of several GPUs" in call(stack, "status")[1]

    ends(*on["b"])
    assert started("behind", behind) == "b", "it is not reserved"
    later = send("later", ONE)
    assert stack.in_state(both.id, "waiting")["state"] == "waiting"

    ends(*on["a"])
    assert started("both", both) == "a"
    [container] = stack.pod_of(both.id)["spec"]["containers"]
    assert container["resources"]["limits"][RESOURCE] == "2"
    assert stack.known(later.id)["state"] == "waiting", "no GPU is free"
    out = call(stack, "status")[1]
    assert "t4  exclusive 3/3" in out and "a: exclusive 2/2" in out
    ends("both", both)
    assert started("later", later) == "a"
    ends("later", later)
    ends("behind", behind)
    stack.idle()
    assert set(stack.client.zrange("gpuqueue:1:{t4}:holders_further", 0, -1)) == {"."}
    [entry] = entries(stack, "t4", both.id)
    assert (entry.gpus, entry.reason) == (2, "SUCCEEDED")
    assert f"has said {key}-both" in (stack.log_of(stack.known(both.id)) or "")


def test_a_job_out_of_memory_runs_once_more_in_the_larger_class(
    stack: ClusterStack, key: str
) -> None:
    options = gpu("t4", isolation="exclusive", escalate=True)
    result = stack.shop.fill.apply_async((key, "a100 exclusive"), **options)
    assert stack.told(key) == "t4 exclusive"
    small = stack.pod_of(result.id)["metadata"]["name"]
    blocker = stack.shop.hold.apply_async((f"{key}-held",), **gpu("a100"))
    stack.told(f"{key}-held")
    stack.go(key)
    until(lambda: result.state == states.RETRY, PATIENCE, "the state RETRY", lambda: result.state)
    until(lambda: stack.reader.record("a100", result.id), PATIENCE, "it has moved")
    stack.idle()
    stack.go(f"{key}-held")
    assert blocker.get(PATIENCE)
    assert stack.told(key) == "a100 exclusive"
    assert (result.get(PATIENCE), result.state) == ("a100 exclusive", states.SUCCESS)
    until(lambda: entries(stack, "a100", result.id), PATIENCE, "its slot is free")
    reasons = [[each.reason for each in entries(stack, name, result.id)] for name in ("t4", "a100")]
    assert reasons == [["ESCALATED"], ["SUCCEEDED"]]
    record = stack.reader.record("a100", result.id)
    assert record and (record["attempt"], record["escalated"]) == (2, "t4 exclusive")
    assert small not in record["pod"]
    assert stack.told_so_far(key) == []
