"""A Celery task message in the form that Redis keeps, and back. Dispatchers and executors use it:
it needs celery only.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from celery.app.task import Context
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu import Message

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.messages.bodies import Bodies

#: (args, kwargs, embed) of a message.
Payload = tuple[Sequence[Any], dict[str, Any], dict[str, Any]]
#: The fields of a message's embed that Celery reads, and their types.
_EMBEDS: dict[str, type] = {"callbacks": list, "errbacks": list, "chain": list, "chord": dict}
#: Properties that tasks, replies and priorities need. The other ones belong to the transport.
_PROPERTIES = ("correlation_id", "reply_to", "priority", "expiration", "delivery_mode")


def pack(message: Message, payload: Any) -> dict[str, Any]:
    """Return everything that is needed to run a message, ready for JSON.

    ``payload`` is the decoded body of an old protocol 1 message, None for protocol 2. The body
    stays as it arrived, as text or base64, so that nothing is lost.
    """
    headers, body, content_type = dict(message.headers or {}), message.body, message.content_type
    if payload is not None:
        convert = hybrid_to_proto2 if headers.get("id") else proto1_to_proto2
        parts, converted, *_ = convert(message, payload)
        headers = {
            key: value
            for key, value in converted.items()
            if key not in ("args", "kwargs", "headers")
        } | headers
        body, content_type = json.dumps(parts), "application/json"
    headers.pop("compression", None)  # kombu has unpacked the body already
    packed = {
        "headers": headers,
        "content_type": content_type,
        "content_encoding": message.content_encoding,
        "properties": {
            key: message.properties[key]
            for key in _PROPERTIES
            if message.properties.get(key) is not None
        },
        "delivery_info": {
            key: (message.delivery_info or {}).get(key) for key in ("exchange", "routing_key")
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


def unpack(stored: Mapping[str, Any]) -> Message:
    """Return the message as Celery's worker received it, its body undecoded (see bodies.py)."""
    return Message(
        body=stored["body"],
        delivery_tag="",
        content_type=stored["content_type"],
        content_encoding=stored["content_encoding"],
        headers=dict(stored["headers"]),
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
            found, f"is not [args, kwargs, embed]: {exc}", "send Celery's task protocol 2"
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
) -> tuple[Request, dict[str, Any]]:
    """Return Celery's request for a stored message, and the dict for its tracer (headers, args and
    embed).
    """
    made = Request(
        unpack(stored),
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
    base |= dict(stored["headers"]) | {
        "delivery_info": dict(stored["delivery_info"]),
        **stored["properties"],
    }
    try:
        args, kwargs, embed = bodies.read(stored)
        # The embed of a refused message may hold anything: drop the values that Celery cannot use.
        good = {
            name: value
            for name, value in (embed or {}).items()
            if value is None or isinstance(value, _EMBEDS.get(name, object))
        }
        return Context(base | {"args": args, "kwargs": kwargs} | good)
    except (ValueError, TypeError, AttributeError):
        return Context(base)
