"""Finishes in a dispatcher: nothing of a job stays in its process."""

from __future__ import annotations

import base64
import gc
import json
import logging
import math
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery, Task, signals, states
from celery._state import _on_app_finalizers
from celery.app.task import Context
from kombu.exceptions import OperationalError
from kombu.utils import json as kombu_json

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.glue.results.completion import complete
from gpuqueue.glue.results.earlier import mark, state_of
from gpuqueue.glue.results.events import Event
from gpuqueue.glue.results.plain import write_plainly
from gpuqueue.glue.results.states import pass_values_on
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.record import Record

pytestmark = pytest.mark.integration
LOG = "line of a log\n" * 400
#: Two finishes for each number.
NUMBERS = 500


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    with EmbeddedRedis() as server:
        made = Celery(
            "of-a-dispatcher", broker=server.url, backend=server.url, set_as_current=False
        )
        made.finalize()
        made.conf.broker_pool_limit = 0
        yield made
        made.close()


def stored(job: str, task: str) -> dict[str, Any]:
    return {
        "headers": {"id": job, "task": task},
        "body": '[["tool:1"],{},{}]',
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "properties": {},
        "delivery_info": {"exchange": "", "routing_key": "gpu.t4"},
    }


def finish(app: Celery, job: str, task: str, reason: str, **fields: Any) -> dict[str, Any]:
    record: Any = {"id": job, "delivery": job, "task": task, "reason": reason}
    record |= {"gpu_class": "t4", **fields}
    known: Record = record
    complete(
        app,
        known,
        stored(job, task),
        UNSIGNED,
        send=lambda event: None,
        hostname="t4@here",
        own_tasks=False,
        log=f"{job}{LOG}",
    )
    found: dict[str, Any] = json.loads(app.backend.get(app.backend.get_key_for_task(job)))
    return found


@pytest.fixture
def silent() -> Iterator[None]:
    """No log: pytest keeps each record of it."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_a_thousand_finishes_leave_nothing_in_the_process(app: Celery, silent: None) -> None:
    def some(first: int, last: int) -> None:
        for number in range(first, last):
            job = f"job-{number}"
            meta = finish(app, job, CONTAINER_TASK, "SUCCEEDED", started=1.0, released=2.0)
            assert (meta["status"], meta["result"]["log"]) == (states.SUCCESS, f"{job}{LOG}")
            meta = finish(app, f"failed-{job}", f"shop.{job}", "REJECTED", error="no")
            assert meta["status"] == states.FAILURE

    def counted() -> int:
        gc.collect()
        return len(gc.get_objects())

    some(0, 50)  # what is made once
    tasks, finalizers, before = set(app.tasks), len(_on_app_finalizers), counted()
    some(50, 50 + NUMBERS)
    assert set(app.tasks) == tasks
    assert len(_on_app_finalizers) == finalizers
    assert counted() - before < NUMBERS / 2, "objects: far fewer than one for each finish"


@pytest.mark.parametrize("reason", ["EXPIRED", "CANCELLED", "REJECTED"])
def test_an_ignored_error_is_stored_where_the_application_sets_so(
    app: Celery, reason: str, silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.conf, "task_store_errors_even_if_ignored", True)
    monkeypatch.setitem(app.conf, "result_extended", True)
    meta = finish(app, f"ignored-{reason}", "shop.add", reason, ignore_result=True, error="no")
    assert meta["status"] == (states.FAILURE if reason == "REJECTED" else states.REVOKED)
    assert (meta["name"], meta["args"]) == ("shop.add", ["tool:1"])


def test_a_backend_without_a_cache_says_what_it_has() -> None:
    record: Any = {"id": "job"}
    with Celery("calls", broker="memory://", backend="rpc://", set_as_current=False) as calls:
        assert state_of(calls, record) == states.PENDING


def test_a_revoked_task_is_told_its_signal_by_number(app: Celery, silent: None) -> None:
    told: list[Any] = []

    def hear(signum: Any = None, **_: Any) -> None:
        told.append(signum)

    signals.task_revoked.connect(hear)
    try:
        finish(app, "revoked", "shop.add", "CANCELLED", cancel="KILL", started=1.0, released=2.0)
    finally:
        signals.task_revoked.disconnect(hear)
    assert told == [signal.SIGKILL]


class Dispatch(Task):  # type: ignore[misc]
    """The task of the dispatcher itself."""

    name = "gpuqueue.dispatch"
    ignore_result = True


@pytest.fixture
def dispatch(app: Celery) -> None:
    if "gpuqueue.dispatch" not in app.tasks:
        app.register_task(Dispatch())


@pytest.mark.parametrize("name", ["gpuqueue.dispatch", "celery.backend_cleanup"])
def test_a_job_with_the_name_of_a_dispatchers_task_leaves_it_alone(
    app: Celery, dispatch: None, name: str
) -> None:
    before = app.tasks[name]
    meta = finish(app, f"of-{name}", name, "REJECTED", error="not signed")
    assert meta["status"] == states.FAILURE
    assert app.tasks[name] is before


ENDED = {"exit_code": 0, "started": 1.0, "released": 2.0}


@pytest.mark.parametrize(
    "ended", [ENDED, {**ENDED, "exit_code": -9, "reuse": 2}], ids=["exit 0", "of another job"]
)
def test_a_stored_result_counts_if_redis_has_lost_the_report(
    app: Celery, ended: dict[str, Any]
) -> None:
    app.backend.store_result("a", 42, states.SUCCESS)
    found = finish(app, "a", "shop.train", "ERROR", **ended)
    assert (found["status"], found["result"]) == ("SUCCESS", 42)
    app.backend.store_result("b", ValueError("wrong size"), states.FAILURE)
    found = finish(app, "b", "shop.train", "ERROR", **ended)
    assert (found["status"], found["result"]["exc_type"]) == ("FAILURE", "ValueError")


@pytest.mark.parametrize(
    "ended", [ENDED, {**ENDED, "outcome": "SUCCEEDED"}], ids=["no report", "a report"]
)
@pytest.mark.parametrize("plainly", [False, True], ids=["with callbacks", "plainly"])
def test_a_result_of_an_earlier_run_never_counts(
    app: Celery, ended: dict[str, Any], plainly: bool
) -> None:
    app.backend.store_result("twice", 42, states.SUCCESS)
    earlier = mark(app.backend.get_task_meta("twice"))
    assert earlier
    record: Any = {"id": "twice", "delivery": "twice~0+0", "task": "t", "reason": "ERROR"}
    record |= {"gpu_class": "t4", "attempt": 1, "error": "gone", "earlier": earlier, **ended}
    options: Any = {"send": (told := list[Event]()).append, "hostname": "t4@here"}
    if plainly:
        options |= {"note": "no callback", "passes": lambda exc: False}
        reason = write_plainly(app, record, stored("twice", "t"), UNSIGNED, **options)
    else:
        options |= {"own_tasks": False}
        reason = complete(app, record, stored("twice", "t"), UNSIGNED, **options)
    assert (reason, [each.name for each in told]) == ("ERROR", ["task-failed"])


def test_a_container_is_not_finished_by_the_result_of_an_earlier_run(app: Celery) -> None:
    app.backend.store_result("again", 42, states.SUCCESS)
    made = stored("again", CONTAINER_TASK)
    callback = {"task": "told", "args": [], "kwargs": {}, "options": {"queue": "of-callbacks"}}
    made["body"] = json.dumps([["tool:1"], {}, {"callbacks": [callback]}])
    record: Any = {"id": "again", "delivery": "again~0+0", "task": CONTAINER_TASK}
    record |= {"gpu_class": "t4", "reason": "SUCCEEDED", "started": 1.0, "released": 2.0}
    options: Any = {"send": lambda event: None, "hostname": "t4@here", "own_tasks": False}
    for number, sent in ((1, 1), (2, 1)):  # the second try finds what the first has stored
        complete(app, record | {"finishes": number}, made, UNSIGNED, **options)
        assert app.backend.client.llen("of-callbacks") == sent


@pytest.mark.parametrize(
    ("reason", "fields"),
    [("ERROR", {**ENDED, "exit_code": 1, "reuse": 1}), ("TIME_LIMIT", ENDED), ("INFRA", {})],
)
def test_a_result_of_an_executor_that_did_not_report_is_replaced(
    app: Celery, reason: str, fields: dict[str, Any]
) -> None:
    app.backend.store_result("c", ValueError("of an earlier attempt"), states.FAILURE)
    found = finish(app, "c", "shop.train", reason, **fields)
    assert found["result"]["exc_type"] != "ValueError"


# -- results of containers -------------------------------------------------------------------------


def with_callback(job: str) -> dict[str, Any]:
    link = {"task": "shop.total", "args": [], "kwargs": {}, "options": {"queue": "after"}}
    body = [["tool:1"], {}, {"callbacks": [link], "errbacks": None, "chain": None, "chord": None}]
    return {**stored(job, CONTAINER_TASK), "body": json.dumps(body)}


def container(app: Celery, sent: dict[str, Any], **fields: Any) -> tuple[str, list[Event]]:
    job = sent["headers"]["id"]
    record: Any = {"id": job, "delivery": job, "task": CONTAINER_TASK, "reason": "SUCCEEDED"}
    record |= {"gpu_class": "t4", "started": 1.0, "released": 2.0, **fields}
    events: list[Event] = []
    reason = complete(
        app,
        record,
        sent,
        UNSIGNED,
        send=events.append,
        hostname="t4@here",
        own_tasks=False,
    )
    return reason, events


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
def test_a_broker_that_refuses_a_callback_fails_no_container(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = with_callback("linked")
    with monkeypatch.context() as patched:
        refuses = OperationalError("no connection")

        def publish(*args: Any, **kwargs: Any) -> None:
            raise refuses

        patched.setattr(app.amqp, "_retry_publish", publish)
        with pytest.raises(OperationalError):
            container(app, message)
        assert app.backend.get_state("linked") == states.PENDING
    reason, events = container(app, message)
    assert (reason, app.backend.get_state("linked")) == ("SUCCEEDED", states.SUCCESS)
    assert [event.name for event in events] == ["task-succeeded"]


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
def test_a_callback_that_is_none_fails_the_container_everywhere(app: Celery) -> None:
    message = with_callback("wrong")
    message["body"] = '[["tool:1"],{},{"callbacks":[{"no":"task"}]}]'
    reason, events = container(app, message)
    assert (reason, app.backend.get_state("wrong")) == ("ERROR", states.FAILURE)
    assert [event.name for event in events] == ["task-failed"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [('{"a":1}', {"a": 1}), ("done", "done"), ("[" * 2000 + "]" * 2000, "[" * 2000 + "]" * 2000)],
    ids=["json", "text", "deep"],
)
def test_the_message_of_a_container_is_json_or_text(app: Celery, text: str, shown: object) -> None:
    container(app, stored("told", CONTAINER_TASK), message=text)
    assert app.backend.get_result("told")["message"] == shown
    app.backend.forget("told")


@dataclass(frozen=True)
class Fruit:
    name: str


def test_a_chord_that_a_dispatcher_ends_gets_results_as_they_are_stored(app: Celery) -> None:
    """The dispatcher lacks the types of the application."""
    job, group = "member", "of-a-chord"
    body = app.signature("shop.total", queue="totals", chord_size=2)
    app.backend.set_chord_size(group, 2)
    kombu_json.register_type(Fruit, "fruit", lambda each: each.name, Fruit)
    try:
        request = Context(id="other", group=group, group_index=0, chord=body)
        app.backend.on_chord_part_return(request, states.SUCCESS, [Fruit("pear"), math.nan])
    finally:
        del kombu_json._encoders[Fruit], kombu_json._decoders["fruit"]
    message = stored(job, CONTAINER_TASK) | {
        "headers": {"id": job, "task": CONTAINER_TASK, "group": group, "group_index": 1},
        "body": json.dumps([["tool:1"], {}, {"chord": body}]),
    }

    events: list[Event] = []

    def ends() -> None:  # in a thread of a finisher, which has its own backend
        pass_values_on(app)
        record: Any = {"id": job, "delivery": job, "task": CONTAINER_TASK, "reason": "SUCCEEDED"}
        record["gpu_class"] = "t4"
        complete(
            app, record, message, UNSIGNED, send=events.append, hostname="t4@here", own_tasks=False
        )

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ends).result()
    with app.connection_for_read() as connection:
        sent = connection.default_channel.client.lrange("totals", 0, -1)
    [[args, *_]] = [json.loads(base64.b64decode(json.loads(each)["body"])) for each in sent]
    [[pear, _], container] = args[0]
    assert pear == {"__type__": "fruit", "__value__": "pear"}
    assert container["exit_code"] == 0
