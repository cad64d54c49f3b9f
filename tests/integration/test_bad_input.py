"""The caller of a wrong job gets a typed error that names field, value and fix; the dispatcher goes
on.
"""

from __future__ import annotations

import base64
import functools
import json
import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from gpuqueue import InvalidJob, TaskNotFound, gpu
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import MalformedMessage
from gpuqueue.store import places as stored
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU = "gpu.t4.shared"
GOOD = json.dumps([[1, 2], {}, {}])
DEEP = f"[[{'[' * 100_000}{']' * 100_000}], {{}}, {{}}]"
#: A message for kombu, with headers that no message has.
ODD = {
    "body": 7,
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": ["x"],
    "properties": {
        "delivery_tag": "odd",
        "delivery_info": {"exchange": "", "routing_key": GPU},
    },
}


def nested(depth: int) -> Any:
    """Return lists within lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture
def dispatcher_goes_on(stack: Stack, shop: ModuleType) -> Iterator[None]:
    """After the test a good job succeeds, in the dispatcher that was there before."""
    before = [worker.pid for worker in stack.workers]
    yield
    assert shop.add.apply_async((2, 2), queue=GPU).get(PATIENCE) == 4
    assert [
        worker.pid for worker in stack.workers if worker.container.status == "running"
    ] == before


@pytest.fixture
def push(stack: Stack, key: str) -> Callable[..., Any]:
    """Put a message on the queue as the transport would, without Celery's client in between."""

    def send(
        body: Any = GOOD,
        content_type: str = "application/json",
        routing_key: str = GPU,
        priority: Any = 0,
        **headers: Any,
    ) -> Any:
        said = {"id": key, "task": "shop.add", "lang": "py"} | headers
        raw = body if isinstance(body, bytes) else body.encode()
        info = {"exchange": "", "routing_key": routing_key}
        properties = {
            "body_encoding": "base64",
            "delivery_tag": key,
            "delivery_info": info,
            "priority": priority,
        }
        message = {
            "body": base64.b64encode(raw).decode(),
            "content-type": content_type,
            "content-encoding": "utf-8",
            "headers": {name: value for name, value in said.items() if value is not ...},
            "properties": properties,
        }
        stack.client.lpush(GPU, json.dumps(message))
        return stack.app.AsyncResult(key)

    return send


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("t4", "gpu='t4' is not an object; send e.g."),
        ({"izolation": "shared"}, "gpu.izolation='shared' is unknown; known fields: isolation"),
        ({"isolation": "alone"}, "gpu.isolation='alone' is unknown; use shared or exclusive"),
        (
            {"isolation": "exclusive"},
            "gpu.isolation='exclusive' contradicts the queue gpu.t4.shared; set only one of them",
        ),
        ({"memory": "lots"}, "gpu.memory='lots' is not an amount of memory; write bytes"),
        (
            {"memory": "40GiB"},
            "gpu.memory='40.0GiB' exceeds the usable memory of class 't4' (14.5GiB); ask for less",
        ),
        ({"slices": 9}, "gpu.slices=9 is not a number of MIG slices; use 1 to 7"),
        ({"slices": 3}, "gpu.slices=3 exceeds the slices of class 't4' (1); ask for fewer"),
        ({"tenant": "a b"}, "gpu.tenant='a b' cannot name a tenant; use"),
        ({"image": ""}, "gpu.image='' is not an image reference; use e.g."),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_a_gpu_header_that_cannot_be_is_refused(shop: ModuleType, header: Any, words: str) -> None:
    result = shop.add.apply_async((1, 2), queue=GPU, headers={"gpu": header})
    with pytest.raises(InvalidJob) as caught:
        result.get(PATIENCE)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("message", "error", "words"),
    [
        (
            {"routing_key": "gpu.h100.shared"},
            InvalidJob,
            "queue='gpu.h100.shared' names the unknown class 'h100'; this disp",
        ),
        (
            {"routing_key": "gpu.t4.alone"},
            InvalidJob,
            "queue='gpu.t4.alone' has the unknown isolation 'alone'; GPU queues",
        ),
        (
            {"routing_key": "celery"},
            InvalidJob,
            "queue='celery' is not the name of a GPU queue; GPU queues are named",
        ),
        ({"body": "add 1 and 2"}, MalformedMessage, "body='add 1 and 2...' is not JSON"),
        (
            {"body": b"\xff\xfe\x00"},
            MalformedMessage,
            "is not JSON: it is not UTF-8; send Celery's",
        ),
        ({"body": '{"x": 1}'}, MalformedMessage, "is not [args, kwargs, embed]: Expected `array`"),
        ({"body": "[[1, 2]]"}, MalformedMessage, "is not [args, kwargs, embed]"),
        ({"body": "[[1, 2], [], {}]"}, MalformedMessage, "is not [args, kwargs, embed]"),
        (
            {"body": '[[1, 2], {}, {"errbacks": 1}]'},
            MalformedMessage,
            "is not [args, kwargs, embed]",
        ),
        (
            {"body": pickle.dumps([1]), "content_type": "application/x-python-serialize"},
            MalformedMessage,
            "content_type='application/x-python-serialize' is not in accept_content=['json'] of the"
            " application; add 'pickle' to it, or send it as JSON",
        ),
        (
            {"body": "<a/>", "content_type": "text/xml"},
            MalformedMessage,
            "content_type='text/xml' is not in accept_content=['json'] of the application; register"
            " its serializer in the application and add it, or send it as JSON",
        ),
        (
            {"content_type": "text/xml", "task": "gpuqueue.run"},
            InvalidJob,
            "task='gpuqueue.run' has arguments in text/xml, which no dispatcher decodes; send it as"
            " JSON: ",
        ),
        (
            {"body": '[[{"__type__": "fruit", "__value__": 1}, 2], {}, {}]'},
            MalformedMessage,
            "Unsupported type",
        ),
        ({"task": 5}, MalformedMessage, "task=5 is not a task name; send Celery's header 'task'"),
        ({"task": ["shop.add"]}, MalformedMessage, "task=['shop.add'] is not a task name"),
        ({"task": ...}, MalformedMessage, "task=None is not a task name"),
        ({"task": ..., "body": "add 1 and 2"}, MalformedMessage, "task=None is not a task name"),
        (
            {"stamped_headers": ["a"], "stamps": "a"},
            InvalidJob,
            "stamps='a' is not an object; send Celery's header 'stamps'",
        ),
        ({"gpu": {"memory": "9" * 400}}, InvalidJob, "gpu.memory='9999"),
        ({"gpu": {"memory": 10**400}}, InvalidJob, "is above 1 PiB; write bytes, or a number"),
        ({"body": DEEP}, MalformedMessage, "is nested too deeply; send Celery's"),
        ({"task": "shop.\ud800"}, MalformedMessage, "task='shop.\\ud800' is not a task name"),
        ({"retries": 10**400}, InvalidJob, "is not a count; use a whole number up to"),
        ({"argsrepr": nested(200)}, MalformedMessage, "headers are nested deeper than 100 levels"),
        ({"eta": "soon"}, InvalidJob, "eta='soon' is not a time; send ISO 8601"),
        ({"expires": {}}, InvalidJob, "expires={} is not a time; send ISO 8601"),
        (
            {"priority": "high"},
            InvalidJob,
            "priority='high' is not a whole number; use 0 (first) to 9 (last)",
        ),
        (
            {"timelimit": ["long", None]},
            InvalidJob,
            "time_limit='long' is not a number of seconds; use a number above 0",
        ),
        (
            {"task": "shop.no_such"},
            TaskNotFound,
            "task 'shop.no_such' is not in GPUQUEUE_APP='shop', which has: shop.add,",
        ),
        (
            {"body": "[[1], {}, {}]"},
            TypeError,
            "missing 1 required positional argument: 'y'",
        ),
        ({"body": '[[1], {"z": 2}, {}]'}, TypeError, "unexpected keyword argument 'z'"),
        (
            {"body": '[[1, 2], {}, {"callbacks": 7}]'},
            TypeError,
            "object of type 'int' has no len()",
        ),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else None,
)
def test_a_message_that_cannot_run_is_refused_where_its_caller_looks(
    push: Callable[..., Any], message: Any, error: Any, words: str
) -> None:
    result = push(**message)
    with pytest.raises(error) as caught:
        result.get(PATIENCE)
    assert words in str(caught.value)


def test_a_refusal_calls_the_errbacks_that_can_be_read(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    options = {"queue": GPU, "headers": {"gpu": "all of it"}, "link_error": shop.new_errback.s(key)}
    result = shop.add.apply_async((1, 2), **options)
    assert stack.told(key)[:3] == ["new", result.id, "InvalidJob"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu_class": "T4!"}, "gpu_class='T4!' cannot name a class; use e.g. 't4'"),
        ({"isolation": "alone"}, "gpu.isolation='alone' is unknown; use shared or exclusive"),
        ({"memory": "9 gigs"}, "gpu.memory='9 gigs' is not an amount of memory"),
        ({"queue": "gpu.t4"}, "queue='gpu.t4' contradicts gpu(...)"),
        ({"time_limit": -1}, "time_limit=-1 is not a number of seconds"),
    ],
)
def test_gpu_refuses_at_once_what_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        gpu(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize("headers", [{"id": ...}, {"id": 7}, {"id": ""}], ids=str)
def test_a_message_without_a_caller_is_set_aside_and_logged(
    stack: Stack, push: Callable[..., Any], headers: dict[str, Any], dispatcher_goes_on: None
) -> None:
    node = stack.workers[0]
    before = len(node.logs())
    push(**headers)
    until(
        lambda: "message set aside as dead letter gpu.t4.shared:" in node.logs()[before:],
        PATIENCE,
        "the log says so",
        lambda: node.logs()[before:],
    )


@pytest.mark.parametrize(
    "garbage",
    ["garbage", b"\xff\xfe", "null", "[]", '{"a": 1}', "7", "[" * 100_000, json.dumps(ODD)],
    ids=lambda value: str(value)[:10],
)
def test_garbage_on_the_queue_stops_no_dispatcher(
    stack: Stack, garbage: Any, dispatcher_goes_on: None
) -> None:
    stack.client.lpush(GPU, garbage)
    until(lambda: not stack.client.llen(GPU), PATIENCE, "the garbage was taken")


def test_jobs_of_an_application_that_cannot_be_imported_wait_and_say_so(
    stack_factory: Callable[..., Stack],
) -> None:
    stack = stack_factory(app="no_such_shop.celery:app")
    stack.dispatcher()
    results = [stack.shop.add.apply_async((1, n), queue=GPU) for n in range(2)]
    [place] = until(lambda: stored.set_aside(stored.of(stack.client, "t4")), PATIENCE, "it is held")
    assert place.kind == "application"
    assert "GPUQUEUE_APP='no_such_shop.celery:app' cannot be imported" in place.error
    assert "set GPUQUEUE_APP of the dispatcher" in place.error
    reason = functools.partial(stack.reader.why, GpuClass("t4", shared_slots=4))
    until(
        lambda: (
            {(why := reason(each.id)) and why.reason for each in results} == {"APPLICATION_HELD"}
        ),
        PATIENCE,
        "both wait",
    )
    assert not any(result.ready() for result in results)
