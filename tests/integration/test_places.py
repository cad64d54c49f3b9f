"""A broken GPU, host or application on one machine, with real processes: no job fails for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue import cli
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.place import Place
from gpuqueue.store import places as stored
from tests.support import failing_start
from tests.support.nodes import APPS, FAKE_GPUS
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.local_only("the places of one machine"),
]
GPU = "gpu.t4.shared"
GPUS = ["GPU-0000aaaa-0000", "GPU-1111bbbb-1111", "GPU-2222cccc-2222", "GPU-3333dddd-3333"]
#: Longer than the pauses that a fault of some seconds leads to.
LONG = 2 * PATIENCE


def set_aside(stack: Stack) -> list[Place]:
    return stored.set_aside(stored.of(stack.client, "t4"))


def counted(stack: Stack, result: AsyncResult) -> int:
    """Attempts that count, of those that the job has had."""
    record = stack.in_state(result.id, "ended")
    return record["attempt"] - record.get("spared", 0)


def why(stack: Stack, result: AsyncResult) -> str:
    found = stack.reader.why(GpuClass("t4", shared_slots=4), result.id)
    return found.reason if found else ""


def test_one_broken_gpu_of_four_fails_none_of_twenty_jobs(
    stack_factory: Callable[..., Stack],
) -> None:
    env = {
        "PYTHONPATH": os.pathsep.join(map(str, (FAKE_GPUS, APPS))),
        "FAKE_GPUS": "4",
        "GPUQUEUE_DEVICES": "",
    }
    stack = stack_factory(env)
    node = stack.dispatcher()
    send = stack.shop.on_gpu.apply_async
    results = [send((GPUS[1],), queue=GPU) for _ in range(20)]
    gpus = [result.get(LONG) for result in results]
    assert GPUS[1] not in gpus
    attempts = [stack.in_state(result.id, "ended")["attempt"] for result in results]
    assert max(attempts) <= 3 and max(counted(stack, each) for each in results) <= 2
    assert sum(attempts) - len(results) < 8, "the broken GPU got two jobs, then probes"
    [place] = set_aside(stack)
    assert (place.kind, place.name.rpartition("/")[2]) == ("device", GPUS[1])
    assert "set aside" in node.logs()


def test_jobs_wait_for_their_application_and_then_run_in_order(
    stack_factory: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    stack = stack_factory({"T4_SHARED_SLOTS": "1"}, app="troubled")
    stack.client.set("troubled:import", "raise")
    stack.dispatcher()
    results = [stack.app.send_task("troubled.add", [n, 1], queue=GPU) for n in range(6)]
    until(lambda: set_aside(stack), PATIENCE, "it is held")
    until(lambda: why(stack, results[5]) == "APPLICATION_HELD", PATIENCE, "why says so")
    monkeypatch.setenv("CELERY_BROKER_URL", stack.url)
    assert cli.main(["places", "--json"]) == 0
    [shown] = json.loads(capfd.readouterr().out)
    assert shown["kind"] == "application" and "a broken import" in shown["error"]

    def tells_why(*command: str) -> bool:
        """Not while the job that tries the place again holds the slot."""
        assert cli.main([*command]) == 0
        return "a broken import" in capfd.readouterr().out

    until(lambda: tells_why("status"), PATIENCE, "status tells why")
    until(lambda: tells_why("why", results[5].id), PATIENCE, "why tells it")
    stack.client.delete("troubled:import")
    assert cli.main(["places", "--clear", shown["place"]]) == 0
    assert cli.main(["places", "--clear", "device:none"]) == 1
    assert [result.get(LONG) for result in results] == [1, 2, 3, 4, 5, 6]
    assert [counted(stack, result) for result in results] == [1] * 6
    started = [stack.known(result.id)["started"] for result in results]
    assert started == sorted(started)
    assert set_aside(stack) == []


def test_an_application_that_is_repaired_goes_on_by_itself(
    stack_factory: Callable[..., Stack],
) -> None:
    stack = stack_factory(app="troubled")
    stack.client.set("troubled:import", "raise")
    stack.dispatcher()
    results = [stack.app.send_task("troubled.add", [n, 1], queue=GPU) for n in range(8)]
    until(lambda: any(place.failures > 4 for place in set_aside(stack)), PATIENCE, "a probe")
    stack.client.delete("troubled:import")
    assert [result.get(LONG) for result in results] == list(range(1, 9))
    assert {counted(stack, result) for result in results} == {1}


def test_imports_that_kill_the_process_hold_the_application(
    stack_factory: Callable[..., Stack],
) -> None:
    stack = stack_factory(app="troubled")
    stack.client.set("troubled:import", "die")
    stack.dispatcher()
    results = [stack.app.send_task("troubled.add", [n, 1], queue=GPU) for n in range(6)]
    until(lambda: set_aside(stack), PATIENCE, "it is held")
    stack.client.delete("troubled:import")
    assert [result.get(LONG) for result in results] == list(range(1, 7))


@pytest.mark.slow
def test_a_host_where_no_executor_starts_costs_no_job(
    stack_factory: Callable[..., Stack], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    path = os.pathsep.join([*failing_start.__path__, str(APPS)])
    stack = stack_factory({"PYTHONPATH": path, "FAILING_START": str(broken)})
    stack.dispatcher()
    results = [stack.shop.add.apply_async((n, 1), queue=GPU) for n in range(10)]
    [place] = until(lambda: set_aside(stack), PATIENCE, "it is set aside")
    assert place.kind == "host"
    until(lambda: why(stack, results[9]) == "HOST_SET_ASIDE", PATIENCE, "why says so")
    broken.unlink()
    assert [result.get(LONG) for result in results] == list(range(1, 11))
    assert max(counted(stack, result) for result in results) <= 2
