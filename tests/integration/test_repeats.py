"""Every repeat ends: a finish that fails, in the application or in the dispatcher, is tried a few
times; then the job ends as FAILURE with a text that says so.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue.errors import ExecutorDied
from gpuqueue.store.counts import parse
from gpuqueue.store.keys import class_key
from tests.support.stack import Stack, importing_by_itself, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"
TRIES = 2
ENV = {
    "GPUQUEUE_FINISH_TRIES": str(TRIES),
    "GPUQUEUE_FINISH_TIMEOUT": "8",
    "GPUQUEUE_TICK_SECONDS": "0.2",
}
#: Errbacks that no code can call, as a client in another language may send them.
SHAPES: dict[str, Any] = {
    "texts": ["errback"],
    "numbers": [1, 2],
    "no task": [{"args": []}],
    "arguments of a wrong type": [
        {"task": "troubled.errback", "args": 5, "kwargs": [], "options": 3}
    ],
    "nothing in a list": [None],
}


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("repeats"), ENV, "troubled", kind)
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


@pytest.fixture(autouse=True)
def healthy(request: pytest.FixtureRequest, stack: Stack) -> Iterator[None]:
    yield
    used = {id(stack): stack}
    if "importing" in request.fixturenames:
        importing = request.getfixturevalue("importing")
        used[id(importing)] = importing
    for each in used.values():
        each.client.delete("troubled:import")
        each.go("troubled", 20)
        each.idle()
        each.client.delete("go:troubled", "troubled:imports", "troubled:hooks", "troubled:errbacks")


def send(stack: Stack, task: str, embed: dict[str, Any] | None = None) -> AsyncResult:
    """Send a message whose body has any callbacks."""
    known = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    name = uuid.uuid4().hex
    with stack.app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            ([], {}, known | (embed or {})),
            routing_key=GPU,
            serializer="json",
            headers={"id": name, "task": f"troubled.{task}", "lang": "py", "root_id": name},
            correlation_id=name,
        )
    return stack.app.AsyncResult(name)


def failure(stack: Stack, sent: AsyncResult) -> Exception:
    """How a job ended: as FAILURE, in the state too, and for good."""
    sent.get(PATIENCE + 20, propagate=False)
    until(lambda: stack.known(sent.id)["state"] == "ended", PATIENCE + 20, "it has ended")
    last = stack.app.AsyncResult(sent.id)  # a later try may have written a better text
    assert last.state == "FAILURE"
    error = last.result
    assert isinstance(error, Exception)
    assert stack.client.zcard(class_key("t4", "finishing")) == 0
    return error


def given_up(stack: Stack) -> float:
    counts: Any = stack.client.hgetall(class_key("t4", "counts"))
    return sum(parse(counts).given_up.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_errbacks_of_a_wrong_shape_end_the_job_after_its_tries(stack: Stack, shape: str) -> None:
    error = failure(stack, send(stack, "die", {"errbacks": SHAPES[shape]}))
    assert isinstance(error, ExecutorDied)
    # One executor for the job, and one for each try.
    assert stack.client.llen("troubled:imports") <= 1 + TRIES


def test_the_error_and_the_record_say_that_no_callback_was_sent(stack: Stack) -> None:
    before = given_up(stack)
    sent = send(stack, "die", {"errbacks": SHAPES["no task"]})
    error = failure(stack, sent)
    text = f"no callback was sent: it could not be finished (tries: {TRIES + 1}; the last error: "
    assert text in str(error)
    assert text in stack.known(sent.id)["error"]
    assert given_up(stack) == before + 1
    line = f"{sent.id} finished: ERROR: no callback was sent"
    until(lambda: line in stack.workers[0].logs(), PATIENCE, "the log says so")


def test_errbacks_that_the_application_does_not_have_are_sent_by_name(importing: Stack) -> None:
    errback = {"task": "unknown.errback", "args": [], "kwargs": {}, "options": {"queue": "other"}}
    error = failure(importing, send(importing, "die", {"errbacks": [errback]}))
    assert "callback" not in str(error)
    [sent] = importing.client.lrange("other", 0, -1)
    assert json.loads(sent)["headers"]["task"] == "unknown.errback"
    assert importing.client.llen("troubled:imports") == 2


def test_an_errback_that_raises_ends_the_job(stack: Stack) -> None:
    errbacks = [
        {"task": f"troubled.{name}", "args": [], "kwargs": {}, "options": {}}
        for name in ("errback_raises", "errback")
    ]
    sent = send(stack, "die", {"errbacks": errbacks})
    assert isinstance(failure(stack, sent), ExecutorDied)
    assert stack.client.llen("troubled:errbacks") <= TRIES


def test_a_hook_that_raises_is_called_once_as_in_a_worker(stack: Stack) -> None:
    error = failure(stack, send(stack, "hook_raises"))
    assert "signal 9" in str(error) and "finished" not in str(error)
    assert stack.client.llen("troubled:hooks") == 1


@pytest.mark.parametrize("hook", [pytest.param("hook_hangs", marks=pytest.mark.slow), "hook_dies"])
def test_a_hook_that_never_ends_well_is_tried_a_few_times(stack: Stack, hook: str) -> None:
    error = failure(stack, send(stack, hook))
    assert "signal 9" in str(error)
    assert f"it could not be finished (tries: {TRIES}; " in str(error)
    assert stack.client.llen("troubled:hooks") == TRIES


@pytest.mark.parametrize("trouble", ["raise", pytest.param("hang", marks=pytest.mark.slow), "die"])
def test_an_application_that_cannot_be_imported_finishes_nothing(
    importing: Stack, trouble: str
) -> None:
    errback = {
        "task": "troubled.errback",
        "args": [],
        "kwargs": {},
        "options": {"queue": "by-name"},
    }
    sent = importing.app.send_task(
        "troubled.hold", queue=GPU, link_error=importing.app.signature(errback)
    )
    record = importing.in_state(sent.id, "running")
    until(lambda: importing.client.llen("troubled:holding"), PATIENCE, "it runs")
    importing.client.set("troubled:import", trouble)
    importing.process_of(record).kill()
    error = failure(importing, sent)
    assert "signal 9" in str(error)
    assert f"it could not be finished (tries: {TRIES}; " in str(error)
    assert ("a broken import" in str(error)) == (trouble == "raise")
    assert importing.client.llen("by-name") == 1, "callbacks that have a name are sent"
    importing.client.delete("by-name", "troubled:holding")


@pytest.mark.parametrize(
    "chord", [5, "total", {"task": 7}, {"task": "troubled.total", "options": 3}]
)
def test_a_chord_body_that_cannot_be_read_ends_the_part(stack: Stack, chord: Any) -> None:
    sent = send(stack, "die", {"chord": chord})
    assert isinstance(failure(stack, sent), ExecutorDied)


def test_a_revoked_job_with_a_broken_chord_is_revoked(stack: Stack) -> None:
    sent = send(stack, "hold", {"chord": {"task": 7}})
    until(lambda: stack.client.llen("troubled:holding"), PATIENCE, "it runs")
    stack.app.control.revoke(sent.id, terminate=True)
    record = stack.in_state(sent.id, "ended")
    assert (sent.state, record["reason"]) == ("REVOKED", "CANCELLED")
