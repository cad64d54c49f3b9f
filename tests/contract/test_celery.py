"""What we use of Celery that its documentation does not promise. A release that changes any of it
fails here, by name.
"""

from __future__ import annotations

import inspect
import json
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery, Task, chord, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, build_tracer, trace_ok_t
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import Ignore, Reject, Retry
from celery.result import AsyncResult
from celery.worker.consumer import Consumer
from celery.worker.consumer.control import Control
from celery.worker.control import Panel
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu import Connection, Message, Queue
from kombu import Consumer as QueueConsumer
from kombu.transport.redis import Channel, QoS

from gpuqueue.glue.worker.consumer import Consumer as OurConsumer
from gpuqueue.glue.worker.queues import DispatcherAMQP
from gpuqueue.store.intake import BrokerKeys


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("contract", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.accept_content = ["json"]

    @made.task(name="contract.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    made.finalize()
    made.backend.client.cache.clear()  # one for all apps
    yield made
    made.close()


@pytest.fixture
def add(app: Celery) -> Task:
    return app.tasks["contract.add"]


def message(**headers: Any) -> Message:
    said = {
        "id": "j1",
        "task": "contract.add",
        "root_id": "j1",
        "timelimit": [9, 5],
        "ignore_result": False,
    } | headers
    return Message(
        body=json.dumps(
            [[1, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        ),
        content_type="application/json",
        content_encoding="utf-8",
        headers=said,
        properties={"correlation_id": "j1", "reply_to": "r1", "priority": 3},
        delivery_info={"exchange": "", "routing_key": "gpu.t4.shared"},
        accept={"application/json"},
        channel=None,
    )


def request_dict(app: Celery, **headers: Any) -> tuple[Request, dict[str, Any]]:
    made = Request(message(**headers), app=app, hostname="w@h")
    return made, {
        **made.request_dict,
        "callbacks": None,
        "errbacks": None,
        "chain": None,
        "chord": None,
        "is_eager": False,
    }


# -- the tracer ------------------------------------------------------------------------------------


def test_build_tracer_takes_name_task_loader_hostname_and_app(app: Celery, add: Task) -> None:
    taken = inspect.signature(build_tracer).parameters
    assert list(taken)[:4] == ["name", "task", "loader", "hostname"]
    assert "app" in taken and taken["Info"].default is TraceInfo


def test_the_tracer_returns_four_values_and_stores_the_result(app: Celery, add: Task) -> None:
    _, request = request_dict(app)
    answer = build_tracer(add.name, add, app.loader, "w@h", app=app)("j1", [1, 2], {}, request)
    assert trace_ok_t._fields == ("retval", "info", "runtime", "retstr")
    assert (answer.retval, answer.info, answer.retstr) == (3, None, "3")
    assert answer.runtime > 0
    assert app.AsyncResult("j1").result == 3


@pytest.mark.parametrize(
    ("raised", "state", "stored"),
    [
        (ValueError("no"), states.FAILURE, states.FAILURE),
        (Retry("again", ValueError("no"), 0), states.RETRY, states.RETRY),
        (Ignore(), states.IGNORED, states.PENDING),
        (Reject("no"), states.REJECTED, states.PENDING),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_tracers_info_has_the_state_of_what_was_raised(
    app: Celery, add: Task, raised: Any, state: Any, stored: Any
) -> None:
    def run(*args: Any) -> AsyncResult:
        raise raised

    add.run = run
    _, request = request_dict(app)
    answer = build_tracer(add.name, add, app.loader, "w@h", app=app)("j1", [1, 2], {}, request)
    assert (answer.info.state, answer.info.retval) == (state, raised)
    assert app.AsyncResult("j1").state == stored


def test_the_tracer_keeps_run_and_before_start_from_when_it_was_built(
    app: Celery, add: Task
) -> None:
    called = []
    add.run = lambda *args: called.append("run")
    type(add).before_start = lambda *args: called.append("the class's")
    add.before_start = lambda *args: called.append("before_start")
    _, request = request_dict(app)
    build_tracer(add.name, add, app.loader, "w@h", app=app)("j1", [1, 2], {}, request)
    assert called == ["before_start", "run"]


def test_an_error_state_is_handled_outside_of_a_worker(app: Celery, add: Task) -> None:
    heard = []
    add.on_failure = lambda exc, task_id, args, kwargs, einfo: heard.append(
        (type(exc), task_id, list(args))
    )
    context = Context(
        {"id": "j1", "args": [1, 2], "kwargs": {}, "task": add.name, "delivery_info": {}}
    )
    try:
        raise ValueError("no")
    except ValueError as exc:
        einfo = TraceInfo(states.FAILURE, exc).handle_error_state(add, context)
    assert "ValueError: no" in einfo.traceback
    assert heard == [(ValueError, "j1", [1, 2])]
    assert app.AsyncResult("j1").state == states.FAILURE


def test_the_header_of_a_task_checks_its_arguments(add: Task) -> None:
    assert add.typing
    add.__header__(1, 2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        add.__header__(1)


# -- requests --------------------------------------------------------------------------------------


def test_a_request_is_made_from_a_message_alone(app: Celery) -> None:
    made, request = request_dict(app, shadow="shown")
    assert (made.id, made.args, made.kwargs, list(made.time_limits), made.ignore_result) == (
        "j1",
        [1, 2],
        {},
        [9, 5],
        False,
    )
    wanted = {"exchange": "", "routing_key": "gpu.t4.shared", "priority": 3, "redelivered": False}
    assert (request["delivery_info"], request["hostname"], request["reply_to"]) == (
        wanted,
        "w@h",
        "r1",
    )


def test_a_context_has_every_header_and_defaults_for_missing_ones() -> None:
    context = Context({"id": "j1", "chord": {"task": "body"}, "gpu": {"memory": 1}})
    assert (context.id, context.gpu, context.chord, context.errbacks) == (
        "j1",
        {"memory": 1},
        {"task": "body"},
        None,
    )
    assert (context.retries, context.group, context.ignore_result) == (0, None, False)


@pytest.mark.parametrize("convert", [proto1_to_proto2, hybrid_to_proto2])
def test_messages_of_protocol_1_are_converted_to_parts_and_headers(convert: Any) -> None:
    body = {
        "id": "j1",
        "task": "contract.add",
        "args": [1, 2],
        "kwargs": {},
        "retries": 1,
        "callbacks": [{"task": "next"}],
    }
    parts, headers, *_ = convert(Message(headers={}), body)
    assert (parts[0], parts[1], parts[2]["callbacks"]) == ([1, 2], {}, [{"task": "next"}])
    assert (headers["id"], headers["task"], headers["retries"]) == ("j1", "contract.add", 1)


# -- the worker ------------------------------------------------------------------------------------


def test_a_worker_makes_its_consumer_of_the_class_that_a_setting_names() -> None:
    from celery.worker import WorkController

    assert "worker_consumer" in inspect.getsource(WorkController.setup_defaults)
    assert issubclass(OurConsumer, Consumer)


def test_a_queue_is_consumed_by_one_method_and_its_tags_tell_of_it(app: Celery) -> None:
    assert "self._basic_consume(" in inspect.getsource(QueueConsumer)
    app.amqp = DispatcherAMQP(app)
    with app.connection_for_read() as connection:
        consumer = app.amqp.TaskConsumer(connection.channel(), queues=[Queue("gpu.t4")])
        consumer.consume()
        consumer.add_queue(Queue("gpu.a100"))
        assert [each.name for each in consumer.queues] == ["gpu.t4", "gpu.a100"]
        assert [consumer.consuming_from(each.name) for each in consumer.queues] == [True, False]
        consumer.consume()
        consumer.cancel_by_queue("gpu.t4")
        assert [each.name for each in consumer.queues] == ["gpu.a100"]
        assert consumer.consuming_from("gpu.a100")
        assert not consumer.channel._consumers, "kombu takes no message"
        consumer.cancel()


def test_the_channel_of_redis_names_its_lists_as_the_intake_does() -> None:
    assert Channel.sep == BrokerKeys().separator
    assert tuple(Channel.priority_steps) == BrokerKeys().steps
    keys = BrokerKeys()
    channel = SimpleNamespace(sep=keys.separator, priority=lambda step: step)
    for step in keys.steps:
        assert Channel._q_for_pri(channel, "gpu.t4", step) == keys.list_of("gpu.t4", step)
    names = [Channel.unacked_key, Channel.unacked_index_key, Channel.global_keyprefix]
    assert names == ["unacked", "unacked_index", ""]
    assert list(inspect.signature(QoS.restore_visible).parameters)[3] == "interval"


def test_the_consumer_recovers_from_its_connection_errors() -> None:
    assert "self.connection_errors" in inspect.getsource(Consumer.start)
    assert list(inspect.signature(Consumer.on_connection_error_after_connected).parameters) == [
        "self",
        "exc",
    ]


def test_a_mailbox_takes_a_node_with_our_handlers(app: Celery) -> None:
    heard = []
    node = app.control.mailbox.Node(
        "n1", handlers={"revoke": lambda state, **said: heard.append(said)}, state={}, channel=None
    )
    node.handle_message(
        {"method": "revoke", "arguments": {"task_id": "j1"}, "destination": None, "matcher": None}
    )
    assert heard == [{"task_id": "j1"}]
    with pytest.raises(KeyError):
        node.handle("no such command")


def test_each_worker_has_a_mailbox_whose_handlers_can_be_replaced(app: Celery) -> None:
    consumer = SimpleNamespace(
        app=app, pool=None, hostname="n1", controller=SimpleNamespace(use_eventloop=True)
    )
    node = Control(consumer).box.node
    assert node.handlers is Panel.data
    assert node.state.consumer is consumer
    ours = {"revoke": lambda state, **said: said}
    node.handlers = ChainMap(ours, Panel.data)
    assert node.handle("revoke", {"task_id": "j1"}) == {"task_id": "j1"}
    assert node.handle("ping") == {"ok": "pong"}
    assert "blueprint.apply" in inspect.getsource(Consumer.__init__)
    assert "celery.worker.consumer.control:Control" in Consumer.Blueprint.default_steps


def test_the_commands_that_revoke_have_these_arguments() -> None:
    arguments = {
        "revoke": ["state", "task_id", "terminate", "signal", "kwargs"],
        "terminate": ["state", "signal", "task_id", "kwargs"],
        "revoke_by_stamped_headers": ["state", "headers", "terminate", "signal", "kwargs"],
    }
    for command, names in arguments.items():
        assert list(inspect.signature(Panel.data[command]).parameters) == names


# -- the backend -----------------------------------------------------------------------------------


def test_a_state_is_written_in_one_round_trip(app: Celery) -> None:
    backend = app.backend
    assert isinstance(backend, KeyValueStoreBackend)
    context = Context({"id": "j1", "args": [], "kwargs": {}, "delivery_info": {}})
    meta = backend._get_result_meta(
        result={"gpu_class": "t4"}, state="QUEUED", traceback=None, request=context
    )
    backend.set(backend.get_key_for_task("j1"), backend.encode(meta | {"task_id": "j1"}))
    assert (app.AsyncResult("j1").state, app.AsyncResult("j1").info) == (
        "QUEUED",
        {"gpu_class": "t4"},
    )


def test_a_revoked_member_is_reported_to_its_chord(app: Celery) -> None:
    app.backend.on_chord_part_return = Mock()
    context = Context({"id": "j1", "chord": {"task": "body"}, "group": "g1", "delivery_info": {}})
    app.backend.mark_as_revoked("j1", "revoked", request=context, store_result=True)
    assert app.backend.on_chord_part_return.call_args.args[:2] == (context, states.REVOKED)
    assert app.AsyncResult("j1").state == states.REVOKED


def test_only_success_is_never_overwritten(app: Celery) -> None:
    context = Context({"id": "j1", "delivery_info": {}})
    app.backend.store_result("j1", 1, states.SUCCESS, request=context)
    app.backend.store_result("j1", ValueError("late"), states.FAILURE, request=context)
    assert app.AsyncResult("j1").result == 1


def test_chord_unlock_goes_to_the_queue_of_the_chord_s_body(app: Celery, tmp_path: Path) -> None:
    """Of a result backend without native chords: it takes a slot there at each try."""
    app.conf.result_backend = f"file://{tmp_path}"
    app._local.backend = app._get_backend()
    add = app.tasks["contract.add"]
    body = add.s(1).set(queue="gpu.t4.shared")
    with app.connection_for_write() as connection:
        chord([add.s(1, 2).set(queue="cpu")], body, app=app).apply_async(connection=connection)
        channel = connection.default_channel
        found = channel.basic_get("gpu.t4.shared")
        assert found and found.headers["task"] == "celery.chord_unlock"
        channel.basic_ack(found.delivery_tag)


def test_a_broker_takes_no_options_of_an_address_but_those_of_tls() -> None:
    assert Connection("rediss://redis/0?ssl_cert_reqs=none")
    for option in ("db=1", "socket_timeout=5", "virtual_host=1", "password=secret"):
        with pytest.raises(TypeError, match=option.partition("=")[0]):
            Connection(f"redis://redis/0?{option}")
