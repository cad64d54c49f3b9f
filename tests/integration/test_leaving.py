"""An executor ends in time: what its task left behind holds the slot for the grace and no longer,
and an import that hangs does not hold it for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from gpuqueue.errors import StartTimeout
from gpuqueue.store import places
from gpuqueue.store.attempts import EXIT_MARGIN
from tests.support.stack import Stack, importing_by_itself, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"
GRACE, LOAD = 2.0, 2.0
ENV = {
    "GPUQUEUE_WARM_SECONDS": "0",  # each attempt imports the application
    "GPUQUEUE_GRACE_SECONDS": str(GRACE),
    "GPUQUEUE_LOAD_TIMEOUT": str(LOAD),
    "GPUQUEUE_MAX_ATTEMPTS": "2",
    "GPUQUEUE_TICK_SECONDS": "0.2",
    "GPUQUEUE_RELIST_SECONDS": "0.5",
}


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("leaving"), ENV, "troubled", kind)
    with listed(running_stacks, made):
        made.dispatcher()
        yield made


@pytest.fixture(scope="module")
def importing(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("spawned")
    with importing_by_itself(stack, running_stacks, folder, ENV, "troubled") as made:
        yield made


@pytest.fixture
def any_stack(request: pytest.FixtureRequest, stack: Stack) -> Stack:
    """The stack of a test."""
    wanted = "importing" in request.fixturenames
    found: Stack = request.getfixturevalue("importing") if wanted else stack
    return found


@pytest.fixture(autouse=True)
def healthy(any_stack: Stack) -> Iterator[None]:
    yield
    any_stack.client.delete("troubled:import")
    any_stack.go("troubled", 9)
    # An import that goes well: those that hung in two tests would hold the application.
    any_stack.app.send_task("troubled.add", [1, 2], queue=GPU).get(PATIENCE)
    any_stack.idle()
    any_stack.client.delete("go:troubled", "troubled:imports")


@pytest.mark.parametrize("what", ["thread", "atexit", "child", "fork"])
def test_what_a_task_leaves_behind_holds_its_slot_for_the_grace(stack: Stack, what: str) -> None:
    sent = stack.app.send_task("troubled.leave", [what], queue=GPU)
    assert sent.get(PATIENCE) == what
    ended = stack.in_state(sent.id, "ended")["ended"]
    stack.idle()
    record = stack.known(sent.id)
    assert record["released"] - ended < GRACE + 3, "not the five minutes of a report"
    # Where no process 1 reaps the child, nothing tells how the executor has ended.
    assert (record["reason"], record.get("exit_code", 0)) == ("SUCCEEDED", 0)
    assert (sent.state, sent.get(PATIENCE)) == ("SUCCESS", what)


def test_a_process_that_cannot_end_itself_is_killed(stack: Stack) -> None:
    sent = stack.app.send_task("troubled.leave", ["stopped"], queue=GPU)
    assert sent.get(PATIENCE) == "stopped"
    ended = stack.in_state(sent.id, "ended")["ended"]
    stack.idle()
    record = stack.known(sent.id)
    assert record["released"] - ended < GRACE + EXIT_MARGIN + 4
    assert (record["reason"], sent.state) == ("SUCCEEDED", "SUCCESS")


def test_a_thread_that_is_left_behind_is_named_in_the_log(stack: Stack) -> None:
    if stack.launching.kind != "local":
        pytest.skip("the log of a pod is elsewhere")
    stack.app.send_task("troubled.leave", ["thread"], queue=GPU).get(PATIENCE)
    stack.idle()
    assert "threads that still run: left-behind" in stack.workers[0].logs()


def test_an_import_that_hangs_is_stopped_and_tried_again(importing: Stack) -> None:
    importing.client.set("troubled:import", "hang")
    sent = importing.app.send_task("troubled.add", [1, 2], queue=GPU)
    first = importing.in_state(sent.id, "running")["attempt"]
    until(lambda: importing.client.llen("troubled:imports"), PATIENCE, "its import hangs")
    importing.client.delete("troubled:import")
    assert sent.get(PATIENCE + LOAD) == 3
    assert (first, importing.known(sent.id)["attempt"]) == (1, 2)


@pytest.mark.parametrize("limit", [None, pytest.param(3600, marks=pytest.mark.slow)])
def test_imports_that_hang_end_the_job_after_its_attempts(
    importing: Stack, limit: int | None
) -> None:
    importing.client.set("troubled:import", "hang")
    began = time.monotonic()
    sent = importing.app.send_task("troubled.add", [1, 2], queue=GPU, time_limit=limit)
    # A finisher of the application hangs as well, until the import is repaired.
    importing.in_state(sent.id, "finishing")
    assert time.monotonic() - began < 2 * LOAD + PATIENCE
    importing.client.delete("troubled:import")
    importing.go("troubled", 9)
    with pytest.raises(StartTimeout, match=r"not loaded in time \(GPUQUEUE_LOAD_TIMEOUT\) in 2"):
        sent.get(PATIENCE)
    until(lambda: importing.known(sent.id)["state"] == "ended", PATIENCE, "it has ended")
    assert importing.known(sent.id)["reason"] == "INFRA"


def test_a_task_may_take_longer_than_its_import(importing: Stack) -> None:
    importing.client.set("troubled:import", "hang")
    sent = importing.app.send_task("troubled.leave", ["thread"], queue=GPU)
    importing.in_state(sent.id, "running")
    until(lambda: importing.client.llen("troubled:imports"), PATIENCE, "its import hangs")
    importing.client.delete("troubled:import")
    importing.go("troubled")  # the import goes on in time
    assert sent.get(PATIENCE) == "thread"
    assert importing.known(sent.id)["attempt"] == 1


@pytest.mark.local_only("runners")
def test_jobs_wait_while_the_import_of_their_runner_hangs(
    stack_factory: Callable[..., Stack],
) -> None:
    stack = stack_factory(ENV, app="troubled")
    stack.client.set("troubled:import", "hang")
    stack.dispatcher()
    sent = [stack.app.send_task("troubled.add", [n, 2], queue=GPU) for n in range(3)]
    [place] = until(lambda: places.set_aside(places.of(stack.client, "t4")), PATIENCE, "it is held")
    assert place.kind == "application" and "when it was imported" in place.error
    stack.client.delete("troubled:import")
    assert [each.get(PATIENCE + LOAD) for each in sent] == [2, 3, 4]
