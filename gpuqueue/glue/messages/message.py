"""A Celery task message in the form that Redis keeps, and back. Dispatchers and executors use it:
it needs celery only.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

from celery.app.task import Context
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu import Message
from kombu.utils.json import loads

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.messages.bodies import PROTOCOL, Bodies
from gpuqueue.glue.messages.request_class import class_of

#: (args, kwargs, embed) of a message.
Payload = tuple[Sequence[Any], dict[str, Any], dict[str, Any]]
#: The fields of headers and embeds that Celery reads when it writes a result, and their types.
_TYPES: dict[str, type] = {
    "callbacks": list,
    "errbacks": list,
    "chain": list,
    "chord": dict,
    "group": str,
    "group_index": int,
    "ignore_result": bool,
    "parent_id": str,
    "root_id": str,
    "reply_to": str,
    "retries": int,
    "stamped_headers": list,
    "stamps": dict,
}
#: Methods and properties of a context.
_OWN = (FunctionType, property)
#: Levels of headers. 100: Python reads about 900 in its JSON, fewer within other calls.
DEEPEST = 100
#: Characters of a whole message. Redis takes texts of up to 512 MiB.
LARGEST = 2**28
#: The property in which kombu gives each sending another text. A message that is delivered again
#: has the same one.
TAG = "delivery_tag"
#: Properties of the transport, which says with them how it has carried the message. All others are
#: of the sender: a task reads them as ``self.request.properties``.
_OF_TRANSPORT = ("delivery_info", "body_encoding")
#: Properties that a result backend may read.
_OF_CONTEXT = ("correlation_id", "reply_to", "priority", "expiration", "delivery_mode", TAG)


def pack(message: Message, payload: Any) -> dict[str, Any]:
    """Return everything that is needed to run a message, ready for JSON.

    ``payload`` is the decoded body of an old protocol 1 message, None for protocol 2. The body
    stays as it arrived, as text or base64, so that nothing is lost.
    """
    headers, body, content_type = _mapping(message.headers), message.body, message.content_type
    if payload is not None:
        headers, body, content_type = _protocol_2(message, payload)
    headers.pop("compression", None)  # kombu has unpacked the body already
    packed = {
        "headers": headers,
        "content_type": content_type,
        "content_encoding": message.content_encoding,
        "properties": {
            key: value
            for key, value in _mapping(message.properties).items()
            if value is not None and key not in _OF_TRANSPORT
        },
        "delivery_info": {
            key: _mapping(message.delivery_info).get(key) for key in ("exchange", "routing_key")
        },
    }
    if isinstance(body, memoryview):
        body = bytes(body)
    if isinstance(body, bytes):
        try:
            body = body.decode()
        except UnicodeDecodeError:
            return packed | {"body": base64.b64encode(body).decode(), "base64": True}
    return packed | {"body": body}


def _protocol_2(message: Message, payload: Any) -> tuple[dict[str, Any], Any, Any]:
    """Return headers, body and content type of a message of protocol 1. If its parts are wrong, the
    body stays as it is: it will be refused.
    """
    headers = _mapping(message.headers)
    convert = hybrid_to_proto2 if headers.get("id") else proto1_to_proto2
    try:
        parts, converted, *_ = convert(message, payload)
        body = json.dumps(parts)
    except Exception:  # Celery's InvalidTaskError, or any error of its code for such parts
        known = {name: _mapping(payload).get(name) for name in ("id", "task")}
        return known | headers, message.body, message.content_type
    kept = {
        key: value for key, value in converted.items() if key not in ("args", "kwargs", "headers")
    }
    return kept | headers, body, "application/json"


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def encode(packed: Mapping[str, Any]) -> str:
    """Return a packed message as Redis keeps it. Raises :class:`MalformedMessage` if it is no JSON,
    too large, or nested too deeply for a process that reads it.
    """
    around = {name: value for name, value in packed.items() if name != "body"}
    if not _is_flat(around, DEEPEST):
        raise MalformedMessage(
            f"headers are nested deeper than {DEEPEST} levels; send Celery's own headers"
        )
    try:
        text = json.dumps(packed)
    except (ValueError, TypeError, RecursionError) as exc:
        raise MalformedMessage(f"the message cannot be kept as JSON: {exc}; {PROTOCOL}") from None
    if len(text) > LARGEST:
        raise MalformedMessage.field(
            "body", f"{len(text)} bytes", "is too large", "pass large data in a volume or by URL"
        )
    return text


def outline(packed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message that cannot be kept, as it is refused: without its content."""
    return {
        "headers": {name: packed["headers"].get(name) for name in ("id", "ignore_result")},
        "content_type": "",
        "content_encoding": "",
        "properties": {},
        "delivery_info": {},
        "body": "",
    }


def restored(value: Any) -> Any:
    """Return the value of a header as its sender had it: a UUID or a time, which kombu writes as an
    object of JSON. A value without a form of kombu stays as it is.
    """
    if not isinstance(value, dict | list):
        return value
    try:
        return loads(json.dumps(value))
    except Exception:  # of the code of any type
        return value


def _is_flat(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list | tuple)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False


def unpack(stored: Mapping[str, Any]) -> Message:
    """Return the message as Celery's worker received it, its body undecoded (see bodies.py)."""
    return Message(
        body=stored["body"],
        delivery_tag="",
        content_type=stored["content_type"],
        content_encoding=stored["content_encoding"],
        headers={name: restored(value) for name, value in stored["headers"].items()},
        properties=dict(stored["properties"]),
        delivery_info=dict(stored["delivery_info"]),
        channel=None,
    )


def payload(stored: Mapping[str, Any], bodies: Bodies) -> Payload:
    """Return (args, kwargs, embed) of a stored message.

    Raises :class:`MalformedMessage`, or its subclass :class:`UntrustedMessage`.
    """
    found = bodies.read(stored)
    try:
        args, kwargs, embed = found
        if (
            not isinstance(args, list | tuple)
            or not isinstance(kwargs, dict)
            or not isinstance(embed, dict | None)
        ):
            raise TypeError("of other types")
    except (TypeError, ValueError) as exc:
        raise MalformedMessage.body(
            found, f"is not [args, kwargs, embed]: {exc}", PROTOCOL
        ) from exc
    return args, kwargs, embed or {}


def request(
    stored: Mapping[str, Any],
    body: Payload,
    app: Any,
    *,
    hostname: str,
    eventer: Any = None,
    task: Any = None,
    redelivered: bool = False,
) -> tuple[Request, dict[str, Any]]:
    """Return Celery's request for a stored message, and the dict for its tracer (headers, args and
    embed). ``redelivered``: an attempt came before, and the task sees what a broker says then.
    """
    message = unpack(stored)
    if redelivered:
        message.headers["redelivered"] = message.delivery_info["redelivered"] = True
    made = class_of(task)(
        message,
        app=app,
        hostname=hostname,
        eventer=eventer,
        task=task,
        body=body,
        decoded=True,
    )
    return made, {**made.request_dict, **body[2], "is_eager": False}


def context(stored: Mapping[str, Any] | None, record: Mapping[str, Any], bodies: Bodies) -> Context:
    """Return the task context for a result backend, even if the body is unreadable."""
    base: dict[str, Any] = {
        "id": record["id"],
        "task": record.get("task"),
        "delivery_info": {},
        "args": [],
        "kwargs": {},
    }
    if stored is None:
        return Context(base)
    properties = stored["properties"]
    base |= _usable(unpack(stored).headers) | {
        "delivery_info": dict(stored["delivery_info"]),
        **{name: properties[name] for name in _OF_CONTEXT if name in properties},
    }
    try:
        args, kwargs, embed = bodies.read(stored)
        return Context(base | {"args": args, "kwargs": kwargs} | _usable(embed or {}))
    except (ValueError, TypeError, AttributeError):
        return Context(base)


def _usable(found: Mapping[str, Any]) -> dict[str, Any]:
    # A refused message may hold anything: drop the values that Celery cannot use, and the names of
    # what a context itself has.
    return {
        name: value
        for name, value in found.items()
        if (value is None or isinstance(value, _TYPES.get(name, object)))
        and not name.startswith("_")
        and not isinstance(getattr(Context, name, None), _OWN)
    }
