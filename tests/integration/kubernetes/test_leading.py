"""Who leads when the API server is out of a dispatcher's sight, and what a leader asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.launchers.base import BLIND_AFTER
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, WITH_LISTS_INSTEAD
from tests.doubles.kubernetes.http.front import Front
from tests.doubles.kubernetes.objects.kinds import QUOTAS
from tests.support.cluster_stack import ClusterStack
from tests.support.endpoints import Endpoint, free_port
from tests.support.nodes import WorkerNode
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
GPU = "gpu.t4.shared"
#: A leader that sees nothing is replaced within so many seconds.
REPLACED = 15.0
CUTS: dict[str, tuple[Callable[[Front], None], Callable[[Front], None]]] = {
    "refused": (Front.down, Front.up),
    "dropped": (Front.drop, Front.let_through),
}


class Seat:
    """A dispatcher with its own way to the API server, and with an endpoint."""

    def __init__(self, stack: ClusterStack, name: str, **env: str) -> None:
        self.door = stack.cluster.door()
        self.endpoint = Endpoint(free_port())
        self.name, self._stack = name, stack
        kubeconfig = stack.cluster.kubeconfig_for(stack.cluster.token, door=self.door)
        port = str(self.endpoint.port)
        # Two addresses would be two owners.
        mine = {"KUBECONFIG": str(kubeconfig), "GPUQUEUE_METRICS_PORT": port, "GPU_OWNER": "one"}
        self.node = stack.dispatcher(name, env=mine | env)

    @property
    def leads(self) -> bool:
        return self._stack.reader.leaders() == [f"{self.name}@test"]

    def told(self, metric: str) -> float:
        """A metric without labels."""
        found = self.endpoint.metrics()(metric)
        assert found is not None
        return found

    def ready(self) -> tuple[int, str]:
        return self.endpoint.ask("/readyz")


def has_begun(node: WorkerNode) -> int:
    """How often a dispatcher has begun to lead."""
    text: str = node.logs()
    return text.count("this watcher leads")


# -- out of sight ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
def test_a_leader_out_of_sight_of_the_api_is_replaced(
    stacks: Callable[..., ClusterStack], key: str, cut: str
) -> None:
    stack = stacks()
    one = Seat(stack, "one")
    until(lambda: one.leads, PATIENCE, "the first leads")
    two = Seat(stack, "two")
    result = stack.shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    until(lambda: one.ready()[0] == 200, PATIENCE, "it is ready", lambda: str(one.ready()))

    begin, end = CUTS[cut]
    begin(one.door)
    began = time.monotonic()
    stack.go(key)  # its end is still to come
    until(lambda: two.leads, REPLACED, "the second leads", one.node.logs)
    replaced = time.monotonic() - began
    assert replaced >= BLIND_AFTER - 4, "a short outage replaces no leader"
    assert result.get(PATIENCE) == key
    stack.idle()
    freed = time.monotonic() - began
    print(f"{cut}: replaced after {replaced:.1f} s, the slot is free after {freed:.1f} s")
    assert freed < REPLACED + 3
    assert stack.known(result.id)["attempt"] == 1

    status, text = one.ready()
    assert status == 503 and "the cluster has given no good answer for" in text
    assert (one.told("gpuqueue_watcher_blind"), one.told("gpuqueue_watcher_leads")) == (1, 0)
    assert (two.told("gpuqueue_watcher_blind"), two.told("gpuqueue_watcher_leads")) == (0, 1)
    assert one.endpoint.ask("/healthz")[0] == 200, "it is not sick before minutes have passed"
    assert two.ready()[0] == 200

    end(one.door)
    until(lambda: one.ready()[0] == 200, PATIENCE, "it sees again", lambda: str(one.ready()))
    assert one.told("gpuqueue_watcher_blind") == 0 and two.leads


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
def test_nothing_is_concluded_while_no_dispatcher_sees_the_api(
    stacks: Callable[..., ClusterStack], key: str, cut: str
) -> None:
    stack = stacks()
    one, two = Seat(stack, "one"), Seat(stack, "two")
    result = stack.shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    begin, end = CUTS[cut]
    for seat in (one, two):
        begin(seat.door)
    first, second = (one, two) if one.leads else (two, one)
    until(lambda: not first.leads, REPLACED, "the leader resigns", first.node.logs)
    led = set()

    def both_have_led() -> bool:
        led.update(stack.reader.leaders())
        return len(led) == 2

    until(both_have_led, 60, "they take turns", second.node.logs)
    assert stack.holders() == [result.id] and stack.known(result.id)["attempt"] == 1
    end(second.door)
    until(lambda: second.leads, 2 * REPLACED, "the one that sees leads", second.node.logs)
    stack.go(key)
    assert result.get(PATIENCE) == key
    stack.idle()
    assert second.leads and stack.known(result.id)["attempt"] == 1


# -- the lease -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_turn_that_waits_for_the_api_keeps_the_lease(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks({"GPU_API_TIMEOUT": "8"})  # the lease is of 1 s
    one = Seat(stack, "one")
    until(lambda: one.leads, PATIENCE, "the first leads")
    two = Seat(stack, "two")
    result = stack.shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    fault = stack.cluster.faults.hang(method="DELETE", path="/jobs/", times=1)
    result.revoke(terminate=True)
    until(lambda: fault.count, PATIENCE, "the leader waits for an answer")
    turned = one.told("gpuqueue_watcher_last_turn_timestamp_seconds")
    ends = time.monotonic() + 6
    while time.monotonic() < ends:
        assert one.leads
        time.sleep(0.1)
    assert one.told("gpuqueue_watcher_last_turn_timestamp_seconds") == turned, "it is one turn"
    until(lambda: result.state == "REVOKED", PATIENCE, "it is revoked")
    stack.idle()
    assert one.leads and has_begun(two.node) == 0


# -- requests --------------------------------------------------------------------------------------


def role(*, older: bool) -> list[dict[str, list[str]]]:
    """The rules of the Role, and of an earlier version."""
    return [
        {
            "apiGroups": [right.group],
            "resources": ["/".join(filter(None, (right.resource, right.subresource)))],
            "verbs": [right.verb],
        }
        for right in DISPATCHER
        if not (older and right in WITH_LISTS_INSTEAD)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True], ids=["role", "older role"])
def test_jobs_without_pods_cost_few_requests(
    stacks: Callable[..., ClusterStack], older: bool
) -> None:
    jobs, seconds = 150, 30.0
    env = {
        "T4_SHARED_SLOTS": str(jobs),
        "GPU_QUOTA_TIMEOUT": "600",
        "GPU_LAUNCH_TIMEOUT": "600",
        "GPUQUEUE_LEASE_SECONDS": "3",
        "GPUQUEUE_TICK_SECONDS": "1",
        "GPUQUEUE_RELIST_SECONDS": "2",
        "GPUQUEUE_REPAIR_SECONDS": "5",
        "GPUQUEUE_GRACE_SECONDS": "10",
        "GPU_WATCH_SILENCE_SECONDS": "90",
    }
    stack = stacks(env, pace=1.0, bookmarks=60.0)
    stack.cluster.create(QUOTAS, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    token = stack.cluster.user("dispatcher", role(older=older), [stack.cluster.namespace])
    mine = {"KUBECONFIG": str(stack.cluster.kubeconfig_for(token))}
    one = stack.dispatcher("one", env=mine)
    until(lambda: stack.reader.leader() == "one@test", PATIENCE, "it leads")
    two = stack.dispatcher("two", env=mine)
    results = [stack.shop.add.apply_async((1, 1), queue=GPU) for _ in range(jobs)]
    until(lambda: len(stack.cluster.jobs()) == jobs, 60, "all Jobs are created")

    def waits() -> set[Any]:
        return {stack.known(result.id).get("wait") for result in results}

    until(lambda: waits() == {"QUOTA"}, 60, "the reason is known", lambda: str(waits()))
    requests = stack.cluster.requests
    requests.clear()
    time.sleep(seconds)  # what is counted is what happens without a cause
    sent = {f"{verb} {resource}": each.count for (verb, resource), each in requests.items().items()}
    assert sum(sent.values()) <= 2 * seconds, sent
    print(f"{sum(sent.values()) / seconds:.2f} requests/s: {sent}")
    assert stack.reader.leader() == "one@test"
    assert (has_begun(one), has_begun(two)) == (1, 0)
