"""``/metrics``, ``/healthz`` and ``/readyz`` of real dispatchers: what they say is what has
happened.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.errors import InvalidJob
from tests.support.endpoints import Endpoint, free_port
from tests.support.nodes import WorkerNode
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
GPU = "gpu.t4.shared"
SHARED = {"gpu_class": "t4", "isolation": "shared"}
EXCLUSIVE = {"gpu_class": "t4", "isolation": "exclusive"}


@pytest.fixture
def stack(stack_factory: Callable[..., Stack]) -> Stack:
    return stack_factory({"GPUQUEUE_WARM_SECONDS": "0"})  # each job is a launch


def serving(stack: Stack, name: str = "dispatcher", **env: str) -> tuple[WorkerNode, Endpoint]:
    """Start a dispatcher that serves."""
    endpoint = Endpoint(free_port())
    node = stack.dispatcher(name, env={"GPUQUEUE_METRICS_PORT": str(endpoint.port), **env})
    until(endpoint.ready, PATIENCE, f"{name} is ready", node.logs)
    return node, endpoint


def test_the_state_of_the_queue_is_what_jobs_have_made_of_it(stack: Stack) -> None:
    node, endpoint = serving(stack)
    assert endpoint.metrics()("gpuqueue_jobs_accepted_total", **SHARED) is None
    assert endpoint.ask("/") == (404, "paths: /metrics, /healthz, /readyz\n")
    held = [stack.shop.hold.apply_async((f"hold{number}",), queue=GPU) for number in range(5)]
    until(lambda: stack.record(held[-1].id), PATIENCE, "all shared jobs are accepted")
    alone = stack.shop.echo.apply_async(("alone",), queue="gpu.t4.exclusive")
    until(
        lambda: endpoint.metrics()("gpuqueue_waiting_jobs", **EXCLUSIVE),
        PATIENCE,
        "an exclusive job waits",
        node.logs,
    )
    until(
        lambda: endpoint.metrics()("gpuqueue_oldest_wait_seconds", **SHARED),
        PATIENCE,
        "time passes",
        node.logs,
    )
    found = endpoint.metrics()
    assert found("gpuqueue_running_jobs", **SHARED) == 4
    assert found("gpuqueue_running_jobs", **EXCLUSIVE) == 0
    assert found("gpuqueue_waiting_jobs", **SHARED) == 1
    assert 0 < (found("gpuqueue_oldest_wait_seconds", **EXCLUSIVE) or 0) < PATIENCE
    assert (found("gpuqueue_slots", **SHARED), found("gpuqueue_slots", **EXCLUSIVE)) == (4, 1)
    for number in range(5):
        stack.go(f"hold{number}")
    assert [each.get(timeout=PATIENCE * 2) for each in [*held, alone]]
    with pytest.raises(ValueError, match="no ValueError"):
        stack.shop.fail.apply_async(queue=GPU).get(timeout=PATIENCE)
    refused = stack.app.send_task(
        "shop.echo", (1,), queue="gpu.t4.shared", headers={"gpu": {"colour": "red"}}
    )
    with pytest.raises(InvalidJob, match="colour"):
        refused.get(timeout=PATIENCE)
    stack.idle()
    until(
        lambda: len(endpoint.metrics().of("gpuqueue_jobs_ended_total")) == 4,
        PATIENCE,
        "the refusal is written",
        node.logs,
    )
    found = endpoint.metrics()
    assert found("gpuqueue_jobs_accepted_total", **SHARED) == 6
    assert found.of("gpuqueue_jobs_ended_total") == {
        ("t4", "shared", "SUCCEEDED"): 5,
        ("t4", "shared", "ERROR"): 1,
        ("t4", "exclusive", "SUCCEEDED"): 1,
        ("refused", "exclusive", "REJECTED"): 1,
    }
    assert (
        found("gpuqueue_wait_seconds_count", **SHARED)
        == found("gpuqueue_slot_held_seconds_count", **SHARED)
        == 6
    )
    assert (
        (found("gpuqueue_slot_held_seconds_sum", **SHARED) or 0)
        > (found("gpuqueue_wait_seconds_sum", **SHARED) or 0)
        > 0
    )
    assert found("gpuqueue_launches_total", gpu_class="t4", outcome="launched") == 7
    assert found("gpuqueue_waiting_jobs", **SHARED) == found("gpuqueue_running_jobs", **SHARED) == 0
    assert (found("gpuqueue_watcher_leads"), found("gpuqueue_watcher_blind")) == (1, 0)


@pytest.mark.slow
def test_every_dispatcher_serves_the_same_queue_metrics_and_one_leads(stack: Stack) -> None:
    _, one = serving(stack, "one")
    assert stack.shop.gpu_double.delay(2).get(timeout=PATIENCE) == 4
    _, other = serving(stack, "other")
    stack.idle()
    both = [one.metrics(), other.metrics()]
    for name in (
        "gpuqueue_jobs_ended_total",
        "gpuqueue_slots",
        "gpuqueue_wait_seconds_bucket",
        "gpuqueue_untaken_messages",
    ):
        assert both[0].of(name) == both[1].of(name) != {}
    assert [found("gpuqueue_watcher_leads") for found in both] == [1, 0]
    assert both[1].of("gpuqueue_launches_total") == {}, "those are of one dispatcher alone"


@pytest.mark.slow
def test_what_was_counted_outlives_the_dispatchers(stack: Stack) -> None:
    node, _ = serving(stack)
    assert stack.shop.gpu_double.delay(2).get(timeout=PATIENCE) == 4
    stack.idle()
    node.container.kill()
    _, endpoint = serving(stack, "next")
    assert endpoint.metrics()("gpuqueue_jobs_ended_total", **SHARED, reason="SUCCEEDED") == 1


@pytest.mark.slow
def test_untaken_messages_are_counted(stack: Stack) -> None:
    node, endpoint = serving(stack)
    stack.app.control.cancel_consumer(
        "gpu.t4.exclusive", destination=[node.hostname()], reply=True, timeout=PATIENCE
    )
    results = [
        stack.shop.echo.apply_async((1,), queue="gpu.t4.exclusive", priority=priority)
        for priority in (0, 3, 9)
    ]
    assert endpoint.metrics()("gpuqueue_untaken_messages", queue="gpu.t4.exclusive") == 3
    stack.app.control.add_consumer("gpu.t4.exclusive", destination=[node.hostname()])
    assert [each.get(timeout=PATIENCE) for each in results] == [1, 1, 1]
    assert endpoint.metrics()("gpuqueue_untaken_messages", queue="gpu.t4.exclusive") == 0


@pytest.mark.slow
def test_a_dispatcher_without_redis_is_unready_and_stays_alive(stack: Stack) -> None:
    node, endpoint = serving(stack)
    stack.redis.container.kill()
    status, why = until(
        lambda: (found := endpoint.ask("/readyz"))[0] == 503 and found,
        PATIENCE,
        "it is unready",
        node.logs,
    )
    assert "broker" in why or "Redis" in why
    assert endpoint.ask("/healthz") == (200, "ok\n")
    found = endpoint.metrics()
    assert found("gpuqueue_state_up") == 0
    assert found.of("gpuqueue_waiting_jobs") == found.of("gpuqueue_untaken_messages") == {}
    assert found("gpuqueue_watcher_leads") is not None
    stack.redis.container.restart()
    until(endpoint.ready, PATIENCE * 2, "it is ready again", node.logs)
    assert endpoint.metrics()("gpuqueue_state_up") == 1


@pytest.mark.slow
def test_a_scrape_ends_while_redis_hangs(stack: Stack) -> None:
    _, endpoint = serving(stack)
    os.kill(stack.redis.container.server.pid, signal.SIGSTOP)
    try:
        assert endpoint.metrics()("gpuqueue_state_up") == 0
        assert endpoint.ask("/healthz") == (200, "ok\n")
    finally:
        os.kill(stack.redis.container.server.pid, signal.SIGCONT)
    until(endpoint.ready, PATIENCE * 2, "it is ready again")


@pytest.mark.slow
def test_a_dispatcher_is_unready_from_sigterm_until_it_has_ended(stack: Stack) -> None:
    node, endpoint = serving(stack)
    stack.shop.hold.apply_async(("running",), queue=GPU)
    until(stack.holders, PATIENCE, "it runs")
    said: list[tuple[int, str]] = []
    os.kill(node.pid, signal.SIGTERM)

    def has_ended() -> bool:
        if node.container.status == "exited":
            return True
        said.append(answer(endpoint))
        return False

    until(has_ended, PATIENCE, "it has ended", node.logs)
    assert node.container.exit_code == 0
    after = said[next((index for index, each in enumerate(said) if each[0] != 200), len(said)) :]
    assert all(status != 200 for status, _ in after), "once unready it stays so"
    stack.go("running")


def answer(endpoint: Endpoint) -> tuple[int, str]:
    try:
        return endpoint.ask("/readyz")
    except OSError:
        return 0, "no answer"


@pytest.mark.local_only("a port of this machine")
def test_a_port_in_use_is_an_error_if_it_was_chosen(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        node = stack.dispatcher("unlucky", env={"GPUQUEUE_METRICS_PORT": port}, ready=False)
        until(lambda: node.container.status == "exited", PATIENCE, "it ends", node.logs)
    assert node.container.exit_code == 78
    assert f"GPUQUEUE_METRICS_PORT={port}" in node.logs() and "in use" in node.logs()


@pytest.mark.local_only("a port of this machine")
def test_an_address_that_is_not_ours_is_an_error(stack: Stack) -> None:
    node = stack.dispatcher(
        "lost",
        env={"GPUQUEUE_METRICS_PORT": str(free_port()), "GPUQUEUE_METRICS_HOST": "192.0.2.1"},
        ready=False,
    )
    until(lambda: node.container.status == "exited", PATIENCE, "it ends", node.logs)
    assert node.container.exit_code == 78
    assert "GPUQUEUE_METRICS_HOST='192.0.2.1'" in node.logs()


@pytest.mark.local_only("of the cluster's API")
def test_requests_to_the_api_server_are_counted_by_kind_and_code(
    stack_factory: Callable[..., Stack], tmp_path: Path
) -> None:
    stack: Any = Stack(tmp_path / "cluster", None, "shop", "kubernetes")
    try:
        _, endpoint = serving(stack)
        assert stack.shop.gpu_double.delay(2).get(timeout=PATIENCE) == 4
        until(lambda: not stack.holders(), PATIENCE, "its slot is free")
        found = endpoint.metrics().of("gpuqueue_kubernetes_requests_total")
        assert found["201", "create job"] >= 1
        assert found["200", "list pods"] >= 1 and found["200", "watch pods"] >= 1
        assert {request for _, request in found} <= {
            "create job",
            "list pods",
            "watch pods",
            "get log",
            "list jobs",
            "get job",
            "get namespace",
        }
        seconds = endpoint.metrics().of("gpuqueue_kubernetes_request_seconds_count")
        assert seconds["create job",] == sum(
            number for (_, request), number in found.items() if request == "create job"
        )
    finally:
        stack.close()
