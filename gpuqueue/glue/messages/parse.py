"""From a packed message to a :class:`Submission`, in one pass: everything that is checked before a
job is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import msgspec
from celery.utils.time import maybe_iso8601, maybe_make_aware

from gpuqueue.errors import InvalidJob, MalformedMessage
from gpuqueue.glue.messages.bodies import PROTOCOL, ClosedBody, DispatcherBodies, is_signed
from gpuqueue.glue.messages.submission import Identity, Submission
from gpuqueue.model.container import CONTAINER_TASK, parse_container
from gpuqueue.model.names import parse_queue
from gpuqueue.model.request import HEADER, GpuRequest


class _Embed(msgspec.Struct):
    errbacks: list[msgspec.Raw] | None = None
    # Never `Raw | None`: msgspec takes only null for that.
    chord: msgspec.Raw = msgspec.Raw(b"null")
    callbacks: msgspec.Raw = msgspec.Raw(b"null")
    chain: msgspec.Raw = msgspec.Raw(b"null")


# Raw keeps arguments undecoded: a body of 1 MB is checked in a millisecond.
_BODY = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw], _Embed | None])
_CALL = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], msgspec.Raw])


#: What a dispatcher without a certificate store reads.
UNSIGNED = DispatcherBodies()


def identify(packed: Mapping[str, Any]) -> Identity:
    """Read who sent a message. Raises :class:`MalformedMessage` without a task id: the refusal of
    such a message would reach no sender.
    """
    headers = packed["headers"]
    task_id = headers.get("id")
    if (
        not isinstance(task_id, str)
        or not task_id
        or len(task_id) > 512
        or not _fits_environment(task_id)
    ):
        raise MalformedMessage.field("id", task_id, "is not a task id", "send Celery's header 'id'")
    task, shadow = headers.get("task"), headers.get("shadow")
    return Identity(
        id=task_id,
        task=task if isinstance(task, str) else "",
        name=shadow if isinstance(shadow, str) else "",
        retries=_count(headers.get("retries")),
        nesting=_count(headers.get("replaced_task_nesting")),
        ignore_result=headers.get("ignore_result") is True,
    )


def parse(
    packed: Mapping[str, Any], identity: Identity, bodies: DispatcherBodies = UNSIGNED
) -> Submission:
    """Parse and check a message. A signed body for which ``bodies`` has no certificate store is
    passed on unread.

    Raises:
        MalformedMessage: body or headers are not those of a Celery task message in JSON.
        UntrustedMessage: no certificate of the store verifies it.
        InvalidJob: a value in them is not possible.
    """
    headers = packed["headers"]
    queue = parse_queue(packed["delivery_info"].get("routing_key") or "")
    request = GpuRequest.parse(headers.get(HEADER))
    if not identity.task:
        raise MalformedMessage.field(
            "task", headers.get("task"), "is not a task name", "send Celery's header 'task'"
        )
    body = _text(packed, bodies)
    embed, signed = _embed(body), is_signed(packed)
    hard, _ = _limits(headers.get("timelimit"))
    image, container = request.image, None
    if identity.task == CONTAINER_TASK:
        image, container = _container(body)
    return Submission(
        identity=identity,
        queue=queue,
        request=request,
        stamps=stamps_of(headers),
        image=image,
        container=container,
        priority=_priority(packed["properties"].get("priority")),
        eta=_time("eta", headers.get("eta")),
        expires=_time("expires", headers.get("expires")),
        time_limit=hard,
        group=headers["group"] if isinstance(headers.get("group"), str) else None,
        needs_app=_needs_app(embed, signed),
        signed=signed,
    )


def stamps_of(headers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the stamps in a message's headers: header → values."""
    stamps = headers.get("stamps") or {}
    wanted = {name: stamps.get(name) for name in headers.get("stamped_headers") or []}
    return {
        name: [str(each) for each in (value if isinstance(value, list) else [value])]
        for name, value in wanted.items()
        if value is not None
    }


def _container(body: str | bytes | None) -> tuple[str, dict[str, Any]]:
    if body is None:
        raise InvalidJob.field(
            "task",
            CONTAINER_TASK,
            "has signed arguments, and this dispatcher has no certificate to verify them",
            "set GPUQUEUE_CERT_STORE of the dispatchers to the certificates of its senders",
        )
    args, kwargs, _ = _CALL.decode(body)
    return parse_container(args, kwargs)


def _needs_app(embed: _Embed | None, signed: bool) -> bool:
    if embed is None:  # only the application can read its callbacks
        return True
    calls = bool(embed.errbacks) or bytes(embed.chord) != b"null"
    # A dispatcher sends unsigned messages, and applications that sign accept none.
    return calls or (
        signed and not {bytes(embed.callbacks), bytes(embed.chain)} <= {b"null", b"[]"}
    )


def _text(packed: Mapping[str, Any], bodies: DispatcherBodies) -> str | bytes | None:
    try:
        return bodies.text(packed)
    except ClosedBody:
        return None


def _embed(body: str | bytes | None) -> _Embed | None:
    if body is None:
        return None
    try:
        return _BODY.decode(body)[2] or _Embed()
    except msgspec.ValidationError as exc:
        raise MalformedMessage.body(
            body, f"is not [args, kwargs, embed]: {exc}", PROTOCOL
        ) from None
    except msgspec.DecodeError as exc:
        raise MalformedMessage.body(body, f"is not JSON: {exc}", PROTOCOL) from None


def _fits_environment(text: str) -> bool:
    """Return whether an environment variable and a key can hold a text: no NUL, no half of a
    surrogate pair.
    """
    return "\0" not in text and not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _priority(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidJob.field(
            "priority", value, "is not a whole number", "use 0 (first) to 9 (last)"
        )
    return min(9, max(0, value))  # rounded as Celery's Redis transport does


def _limits(value: object) -> tuple[float | None, float | None]:
    limits = list(value) if isinstance(value, (list, tuple)) and len(value) == 2 else [None, None]
    for name, limit in zip(("time_limit", "soft_time_limit"), limits, strict=True):
        wrong = (
            not isinstance(limit, (int, float))
            or isinstance(limit, bool)
            or not math.isfinite(limit)
            or limit < 0
        )
        if limit is not None and wrong:
            raise InvalidJob.field(
                name, limit, "is not a number of seconds", "use a number above 0"
            )
    return limits[0] or None, limits[1] or None


def _time(name: str, value: object) -> float | None:
    if value is None:
        return None
    try:
        return float(maybe_make_aware(maybe_iso8601(value), UTC).timestamp())
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidJob.field(
            name, value, "is not a time", "send ISO 8601, as Celery does"
        ) from None
