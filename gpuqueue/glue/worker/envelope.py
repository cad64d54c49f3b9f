"""Messages as they lie in a list of the broker: kombu's envelope, read by kombu's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kombu import Message
from kombu.utils.encoding import bytes_to_str

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.messages.bodies import decoded
from gpuqueue.glue.messages.message import TAG, pack
from gpuqueue.glue.messages.signed import JSON
from gpuqueue.glue.worker.compression import unpacked


def open_envelope(channel: Any, text: bytes) -> tuple[dict[str, Any], MalformedMessage | None]:
    """Return a packed message, and why its content cannot be read, if so.

    Args:
        channel: a channel of kombu, which knows the encodings of bodies.
        text: the envelope.

    Raises:
        MalformedMessage: it is no envelope.
    """
    try:
        # As JSON has it: what kombu writes for a UUID or a time in a header stays as it is sent.
        envelope = json.loads(bytes_to_str(text))
    except (ValueError, TypeError, LookupError, RecursionError) as exc:
        raise MalformedMessage(f"not JSON: {exc}; send kombu's envelope") from None
    if not isinstance(envelope, Mapping):
        raise MalformedMessage("not an object; send kombu's envelope")
    try:
        return _read(channel, envelope), None
    except MalformedMessage as exc:
        return _outline(envelope), exc
    except Exception as exc:  # of any codec
        problem = f"the envelope cannot be decoded: {type(exc).__name__}: {exc}; send kombu's own"
        return _outline(envelope), MalformedMessage(problem)


def _read(channel: Any, envelope: Mapping[str, Any]) -> dict[str, Any]:
    properties = envelope.get("properties") or {}
    body = envelope.get("body")
    if body:
        body = channel.decode_body(body, properties.get("body_encoding"))
    headers = envelope.get("headers")
    if isinstance(headers, Mapping) and (compression := headers.get("compression")):
        body = unpacked(body, compression)
        headers = {name: value for name, value in headers.items() if name != "compression"}
    message = Message(
        body=body,
        content_type=envelope.get("content-type"),
        content_encoding=envelope.get("content-encoding"),
        headers=headers,
        properties=properties,
        delivery_info=properties.get("delivery_info"),
        postencode="utf-8",
    )
    if message.errors:
        raise message.errors[0][1]
    return pack(message, _payload(message))


def _payload(message: Message) -> Any:
    """Return the decoded body of a message of protocol 1, which has no header `task`; else None.
    Only JSON is decoded. What kombu writes for a type stays as it is sent.
    """
    if not isinstance(message.headers, Mapping) or "task" in message.headers:
        return None
    if message.content_type != JSON:
        return None
    try:
        return decoded(message.body)
    except (MalformedMessage, AttributeError):  # it is refused at its id, if it has one
        return None


def _outline(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with its headers and its tag alone."""
    headers, properties = envelope.get("headers"), envelope.get("properties")
    tag = properties.get(TAG) if isinstance(properties, Mapping) else None
    kept = Message(
        body="",
        headers=dict(headers) if isinstance(headers, Mapping) else {},
        properties={TAG: tag},
    )
    return pack(kept, None)
