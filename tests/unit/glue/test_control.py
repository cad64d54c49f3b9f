"""What a dispatcher answers to the commands of Celery that revoke tasks, and which it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control as CeleryControl
from celery.worker.control import Panel

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.glue.worker.control import Control

COMMANDS = ("revoke", "terminate", "revoke_by_stamped_headers")
CLASSES = {"t4": GpuClass("t4", shared_slots=2, exclusive_slots=1), "a100": GpuClass("a100")}


class RecordingCanceller:
    """Records what is cancelled. Each job has one outcome."""

    def __init__(self, outcome: str = "cancelled") -> None:
        self.outcome = outcome
        self.calls: list[tuple[Any, bool, str]] = []

    def cancel_all(self, job_ids: Sequence[str], *, terminate: bool, signal: str) -> dict[str, str]:
        """Record the ids."""
        self.calls.append((list(job_ids), terminate, signal))
        return dict.fromkeys(job_ids, self.outcome)

    def cancel_by_stamps(
        self, stamps: dict[str, list[str]], *, terminate: bool, signal: str
    ) -> bool:
        """Record the stamps."""
        self.calls.append((stamps, terminate, signal))
        return self.outcome != "failed"


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery(
        "control", broker="memory://", backend="cache+memory://", set_as_current=False
    ) as made:
        yield made


@pytest.fixture
def canceller() -> RecordingCanceller:
    return RecordingCanceller()


@pytest.fixture(autouse=True)
def flagged() -> Iterator[Any]:
    """The ids that ``inspect revoked`` lists."""
    worker_state.revoked.clear()
    yield worker_state.revoked
    worker_state.revoked.clear()


def mailbox(app: Celery, canceller: RecordingCanceller) -> Any:
    """Return the mailbox of a worker with our step."""
    consumer = SimpleNamespace(
        app=app,
        pool=None,
        hostname="one",
        controller=SimpleNamespace(use_eventloop=True, gpuqueue=None),
    )
    celery_control = CeleryControl(consumer)
    consumer.blueprint = SimpleNamespace(steps={CeleryControl.name: celery_control})
    Control(consumer).create(consumer)
    consumer.controller.gpuqueue = SimpleNamespace(
        canceller=canceller,
        workers=SimpleNamespace(classes=CLASSES, speaks={"t4"}),
        inspection=None,
    )
    return celery_control.box.node


@pytest.fixture
def ask(app: Celery, canceller: RecordingCanceller) -> Callable[..., dict[str, Any]]:
    node = mailbox(app, canceller)

    def handle(command: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = node.handle(command, arguments)
        return answer

    return handle


def test_the_handlers_are_those_of_one_worker_alone(
    app: Celery, canceller: RecordingCanceller
) -> None:
    before = dict(Panel.data)
    node = mailbox(app, canceller)
    assert before == Panel.data
    assert set(node.handlers) == set(Panel.data)
    replaced = {name for name, handler in node.handlers.items() if handler is not Panel.data[name]}
    asks = {"active", "reserved", "scheduled", "query_task", "revoked", "registered", "stats"}
    aliases = {f"dump_{each}" for each in ("active", "reserved", "schedule", "revoked", "tasks")}
    refuses = {"pool_grow", "pool_shrink", "pool_restart", "autoscale", "rate_limit", "time_limit"}
    follows = {"add_consumer", "cancel_consumer", "shutdown", "heartbeat", "active_queues"}
    events = {"enable_events", "disable_events"}
    assert replaced == {*COMMANDS, *asks, *aliases, *refuses, *follows, *events}


@pytest.mark.parametrize("ids", ["a", ["a"], ["a", "b"], ["a", "a"], []])
def test_a_revoke_answers_as_celery_does_and_flags_the_ids(
    app: Celery,
    ask: Callable[..., dict[str, Any]],
    canceller: RecordingCanceller,
    flagged: Any,
    ids: Any,
) -> None:
    state = SimpleNamespace(app=app, consumer=None)
    wanted = Panel.data["revoke"](state, ids)
    listed = list(flagged)
    flagged.clear()
    assert ask("revoke", task_id=ids, terminate=False, signal="SIGTERM") == wanted
    assert set(flagged) == set(listed)
    assert canceller.calls == [(list(dict.fromkeys(ids)), False, "TERM")]


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        ("cancelled", "terminate: a, b"),
        ("stopping", "terminate: a, b"),
        ("finishing", "terminate: a, b"),
        ("queued", "terminate: a, b"),
        ("ended", "terminate: tasks unknown"),
        ("unknown", "terminate: tasks unknown"),
    ],
)
@pytest.mark.parametrize("command", ["revoke", "terminate"])
def test_a_revoke_with_terminate_names_the_jobs_that_it_ends(
    ask: Callable[..., dict[str, Any]],
    canceller: RecordingCanceller,
    command: str,
    outcome: str,
    answer: str,
) -> None:
    canceller.outcome = outcome
    more = {"terminate": True} if command == "revoke" else {}
    assert ask(command, task_id=["a", "b"], signal="KILL", **more) == {"ok": answer}
    assert canceller.calls == [(["a", "b"], True, "KILL")]


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("headers", [{"order": ["7"]}, {"order": "7"}, ["order=7"], "order=7"])
def test_a_revoke_by_stamps_answers_and_takes_each_form(
    ask: Callable[..., dict[str, Any]],
    canceller: RecordingCanceller,
    headers: Any,
    terminate: bool,
) -> None:
    answer = ask("revoke_by_stamped_headers", headers=headers, terminate=terminate)
    assert answer["ok"].startswith("headers {'order': ['7']} flagged as revoked, ")
    assert answer["ok"].endswith(", but not terminated") is not terminate
    assert canceller.calls == [({"order": ["7"]}, terminate, "TERM")]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"task_id": None}, "task_id=None is no task id; use one id, or a list of ids"),
        ({"task_id": 7}, "task_id=7 is no task id; use one id, or a list of ids"),
        ({"task_id": {"a": 1}}, "task_id={'a': 1} is no task id; use one id, or a list of ids"),
        ({"task_id": ""}, "task_id='' is no task id; use a text of up to 512 characters"),
        ({"task_id": ["good", 7]}, "task_id=7 is no task id; use a text"),
        ({"task_id": ["good", ["nested"]]}, r"task_id=['nested'] is no task id; use a text"),
        ({"task_id": ["good", None]}, "task_id=None is no task id; use a text"),
        ({"task_id": "a\0b"}, r"task_id='a\x00b' is no task id; use a text"),
        ({"task_id": "\ud800"}, r"task_id='\ud800' is no task id; use a text"),
        ({"task_id": "a" * 513}, "…"),
        ({"task_id": "a", "signal": "NOSUCH"}, "signal='NOSUCH' is no signal of this system"),
        ({"task_id": "a", "signal": 1000}, "signal=1000 is no signal of this system"),
        ({"task_id": "a", "signal": True}, "signal=True is no signal of this system"),
        ({"task_id": "a", "signal": ["KILL"]}, "signal=['KILL'] is no signal of this system"),
    ],
)
@pytest.mark.parametrize("command", ["revoke", "terminate"])
def test_a_wrong_revoke_is_refused_and_changes_nothing(
    ask: Callable[..., dict[str, Any]],
    canceller: RecordingCanceller,
    flagged: Any,
    command: str,
    arguments: dict[str, Any],
    problem: str,
) -> None:
    answer = ask(command, **{"signal": None} | arguments)
    assert list(answer) == ["error"] and problem in answer["error"]
    assert (canceller.calls, list(flagged)) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"headers": None}, "headers=None are no stamps; use header=value"),
        ({"headers": 7}, "headers=7 are no stamps; use header=value"),
        ({"headers": "order"}, "headers='order' are no stamps; use header=value"),
        ({"headers": ["order=7", "x"]}, "headers=['order=7', 'x'] are no stamps"),
        ({"headers": {"order": "x" * 2000}}, "are no stamps"),
        ({"headers": {"order": ["\ud800"]}}, "are no stamps"),
        ({"headers": {"order": "7"}, "signal": "X"}, "signal='X' is no signal of this system"),
    ],
)
def test_a_wrong_revoke_by_stamps_is_refused_and_changes_nothing(
    ask: Callable[..., dict[str, Any]],
    canceller: RecordingCanceller,
    arguments: dict[str, Any],
    problem: str,
) -> None:
    answer = ask("revoke_by_stamped_headers", **arguments)
    assert list(answer) == ["error"] and problem in answer["error"]
    assert canceller.calls == []


def test_a_revoke_that_failed_says_so(
    ask: Callable[..., dict[str, Any]], canceller: RecordingCanceller
) -> None:
    canceller.outcome = "failed"
    assert ask("revoke", task_id="a") == {"error": "tasks ['a'] are not revoked; see the log"}
    assert "send it again later" in ask("revoke_by_stamped_headers", headers="order=7")["error"]
