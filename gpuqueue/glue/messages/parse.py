"""From a packed message to a :class:`Job`: everything that is checked before a job is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import msgspec
from celery.utils.time import maybe_iso8601, maybe_make_aware

from gpuqueue.errors import InvalidJob, MalformedMessage
from gpuqueue.glue.messages.bodies import PROTOCOL, ClosedBody, DispatcherBodies, is_signed
from gpuqueue.model.container import CONTAINER_TASK, parse_container
from gpuqueue.model.job import Job
from gpuqueue.model.names import QueueName, check_class_name, parse_queue
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


#: What a dispatcher reads without a store of certificates.
UNSIGNED = DispatcherBodies()


def job_id(packed: Mapping[str, Any]) -> str:
    """Return the task id. Raises :class:`MalformedMessage` for a message without one: nobody can be
    told of it.
    """
    value = packed["headers"].get("id")
    if not isinstance(value, str) or not value or len(value) > 512 or not _can_travel(value):
        raise MalformedMessage.field("id", value, "is not a task id", "send Celery's header 'id'")
    return value


def _can_travel(text: str) -> bool:
    """Whether it fits into an environment variable and a key: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def request_of(packed: Mapping[str, Any]) -> tuple[QueueName, GpuRequest]:
    """Return which queue the message came on and what its ``gpu`` header asks for."""
    queue = packed["delivery_info"].get("routing_key") or ""
    return parse_queue(queue), GpuRequest.parse(packed["headers"].get(HEADER))


def bare_job(
    packed: Mapping[str, Any], gpu_class: str, isolation: str, now: float, *, trusted: bool = True
) -> Job:
    """Return a job of what can be trusted in any message: for one that is refused. Nobody is called
    back if it is not ``trusted``."""
    headers = packed["headers"]
    task = headers.get("task")
    return Job(
        id=job_id(packed),
        task=task if isinstance(task, str) else "unknown",
        name=headers.get("shadow") if isinstance(headers.get("shadow"), str) else "",
        gpu_class=gpu_class,
        isolation=isolation,
        retries=_count(headers.get("retries")),
        nesting=_count(headers.get("replaced_task_nesting")),
        created=now,
        needs_app=trusted,
        ignore_result=headers.get("ignore_result") is True,
    )


def parse(
    packed: Mapping[str, Any],
    gpu_class: str,
    isolation: str,
    now: float,
    bodies: DispatcherBodies = UNSIGNED,
) -> Job:
    """Check a message and make the job of it. A signed body that ``bodies`` has no store for is
    passed on unread.

    Raises:
        MalformedMessage: body or headers are not those of a Celery task message in JSON.
        UntrustedMessage: it is not signed by one of the store's certificates.
        InvalidJob: a value in them cannot be.
    """
    headers = packed["headers"]
    if not isinstance(headers.get("task"), str) or not headers["task"]:
        raise MalformedMessage.field(
            "task", headers.get("task"), "is not a task name", "send Celery's header 'task'"
        )
    body = _text(packed, bodies)
    embed, signed = _embed(body), is_signed(packed)
    hard, _ = _limits(headers.get("timelimit"))
    said = headers.get(HEADER) or {}
    image, container = said.get("image"), None
    if headers["task"] == CONTAINER_TASK:
        if body is None:
            fix = (
                "set GPUQUEUE_CERT_STORE of the dispatchers to the certificates of those who may"
                " send it"
            )
            raise InvalidJob.field(
                "task", CONTAINER_TASK, "has signed arguments, which nobody here can verify", fix
            )
        args, kwargs, _ = _CALL.decode(body)
        image, container = parse_container(args, kwargs)
    return Job(
        id=job_id(packed),
        task=headers["task"],
        name=headers.get("shadow") or "",
        gpu_class=check_class_name(gpu_class),
        isolation=isolation,
        retries=_count(headers.get("retries")),
        nesting=_count(headers.get("replaced_task_nesting")),
        priority=_priority(packed["properties"].get("priority")),
        created=now,
        eta=_time("eta", headers.get("eta")),
        expires=_time("expires", headers.get("expires")),
        time_limit=hard,
        tenant=said.get("tenant"),
        image=image,
        container=container,
        group=headers["group"] if isinstance(headers.get("group"), str) else None,
        needs_app=_needs_app(embed, signed),
        signed=signed,
        ignore_result=headers.get("ignore_result") is True,
    )


def _needs_app(embed: _Embed | None, signed: bool) -> bool:
    if embed is None:  # whoever it calls back, only the application can read
        return True
    calls = bool(embed.errbacks) or bytes(embed.chord) != b"null"
    # What a dispatcher sends is not signed, and nobody would take it.
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


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _priority(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidJob.field(
            "priority", value, "is not a whole number", "use 0 (first) to 9 (last)"
        )
    return min(9, max(0, value))  # as Celery's Redis transport rounds it


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
