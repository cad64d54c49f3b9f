"""From a packed message to a :class:`Submission`, in one pass: everything that is checked before a
job is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any, NamedTuple

import msgspec
from celery.utils.time import maybe_iso8601, maybe_make_aware

from gpuqueue.errors import InvalidJob, MalformedMessage, shown
from gpuqueue.glue.messages.bodies import PROTOCOL, ClosedBody, DispatcherBodies, is_signed
from gpuqueue.glue.messages.message import TAG, payload, restored
from gpuqueue.glue.messages.submission import Identity, Submission
from gpuqueue.model.container import CONTAINER_TASK, parse_container
from gpuqueue.model.names import parse_queue
from gpuqueue.model.request import HEADER, MOST_SECONDS, GpuRequest
from gpuqueue.model.text import fits, fitting


class _Embed(msgspec.Struct):
    errbacks: list[msgspec.Raw] | None = None
    # Never `Raw | None`: msgspec takes only null for that.
    chord: msgspec.Raw = msgspec.Raw(b"null")
    callbacks: msgspec.Raw = msgspec.Raw(b"null")
    chain: msgspec.Raw = msgspec.Raw(b"null")


# Raw keeps arguments undecoded: a body of 1 MB is checked in a millisecond.
_BODY = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw], _Embed | None])
#: The largest body in characters that Python decodes here: it takes a second, and 300 MB.
MOST_DECODED = 2**24


class _Calls(NamedTuple):
    """Whether a body names tasks to call."""

    at_failure: bool
    """Errbacks or a chord."""
    at_success: bool
    """Callbacks or a chain."""


#: The most retries, or task.replace calls, that a message may count: the scripts keep it exactly.
MOST_REPEATS = 10**9
#: Stamps of one message, and characters of one: they are looked up together.
MOST_STAMPS, LONGEST_STAMP = 1000, 1024
#: What a dispatcher without a certificate store reads.
UNSIGNED = DispatcherBodies()


def identify(packed: Mapping[str, Any]) -> Identity:
    """Read who sent a message. Raises :class:`MalformedMessage` without a task id: the refusal of
    such a message would reach no sender.
    """
    headers = packed["headers"]
    task_id = headers.get("id")
    if not fits(task_id):
        raise MalformedMessage.field("id", task_id, "is not a task id", "send Celery's header 'id'")
    task, shadow = headers.get("task"), headers.get("shadow")
    tag = packed["properties"].get(TAG)
    return Identity(
        id=task_id,
        task=task if fits(task) else "",
        name=fitting(shadow) if isinstance(shadow, str) else "",
        retries=_count(headers, "retries") or 0,
        nesting=_count(headers, "replaced_task_nesting") or 0,
        ignore_result=headers.get("ignore_result") is True,
        tag=tag if fits(tag) else "",
    )


def parse(
    packed: Mapping[str, Any], identity: Identity, bodies: DispatcherBodies = UNSIGNED
) -> Submission:
    """Parse and check a message. A body that ``bodies`` cannot read is passed on unread.

    Raises:
        MalformedMessage: body or headers are not those of a Celery task message.
        UntrustedMessage: no certificate of the store verifies it.
        InvalidJob: a value in them is not possible.
    """
    headers = packed["headers"]
    # First, whether the sender is trusted: nothing else of a message counts before.
    body, tenants = _opened(packed, bodies)
    if not identity.task:
        raise MalformedMessage.field(
            "task", headers.get("task"), "is not a task name", "send Celery's header 'task'"
        )
    key = packed["delivery_info"].get("routing_key") or ""
    queue = parse_queue(key if isinstance(key, str) else shown(key))
    request = _of_tenant(GpuRequest.parse(headers.get(HEADER)), tenants)
    calls, signed = _calls(body, packed, bodies), is_signed(packed)
    _check_counts(headers)
    hard, _ = _limits(headers.get("timelimit"))
    image, container = request.image, None
    if identity.task == CONTAINER_TASK:
        image, container = _container(packed, bodies)
    return Submission(
        identity=identity,
        queue=queue,
        request=request,
        stamps=_stamps(headers),
        image=image,
        container=container,
        priority=_priority(packed["properties"].get("priority")),
        eta=_time("eta", headers.get("eta")),
        expires=_time("expires", headers.get("expires")),
        time_limit=hard,
        group=_group(headers.get("group")),
        needs_app=_needs_app(calls, signed),
        signed=signed,
    )


def stamps_of(headers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the stamps in a message's headers: header → values."""
    stamps = restored(headers.get("stamps")) or {}
    wanted = {name: stamps.get(name) for name in headers.get("stamped_headers") or []}
    return {
        name: [str(each) for each in (value if isinstance(value, list) else [value])]
        for name, value in wanted.items()
        if value is not None
    }


def _stamps(headers: Mapping[str, Any]) -> dict[str, list[str]]:
    for name, kind, words in (("stamped_headers", list, "a list"), ("stamps", dict, "an object")):
        if not isinstance(headers.get(name) or kind(), kind):
            raise InvalidJob.field(
                name, headers[name], f"is not {words}", f"send Celery's header {name!r}"
            )
    for each in headers.get("stamped_headers") or []:
        if not isinstance(each, str):
            raise InvalidJob.field("stamped_headers", each, "is no name", "name headers of stamps")
    stamps = stamps_of(headers)
    fix = f"use up to {MOST_STAMPS} stamps of {LONGEST_STAMP} characters"
    texts = [f"{header}={value}" for header, values in stamps.items() for value in values]
    if len(texts) > MOST_STAMPS:
        raise InvalidJob.field("stamps", len(texts), "are too many", fix)
    for text in texts:
        if not fits(text, LONGEST_STAMP):
            raise InvalidJob.field("stamps", text, "cannot be kept", fix)
    return stamps


def _container(packed: Mapping[str, Any], bodies: DispatcherBodies) -> tuple[str, dict[str, Any]]:
    try:
        args, kwargs, _ = payload(packed, bodies)
    except ClosedBody:
        if is_signed(packed):
            problem = "has signed arguments, and this dispatcher has no certificate to verify them"
            fix = "set GPUQUEUE_CERT_STORE of the dispatchers to the certificates of its senders"
        else:
            problem = f"has arguments in {packed['content_type']}, which no dispatcher decodes"
            fix = "send it as JSON: .apply_async(serializer='json'), or .set(serializer='json')"
        raise InvalidJob.field("task", CONTAINER_TASK, problem, fix) from None
    return parse_container(args, kwargs)


def _needs_app(calls: _Calls | None, signed: bool) -> bool:
    if calls is None:  # only the application can read its callbacks
        return True
    # A dispatcher sends unsigned messages, and applications that sign accept none.
    return calls.at_failure or (signed and calls.at_success)


def _opened(
    packed: Mapping[str, Any], bodies: DispatcherBodies
) -> tuple[str | bytes | None, list[str]]:
    try:
        return bodies.opened(packed)
    except ClosedBody:
        return None, []


def _of_tenant(request: GpuRequest, tenants: list[str]) -> GpuRequest:
    """Return a request with the tenant that the certificate of its sender names: the signature
    covers no header. Of several, the header may choose.
    """
    if not tenants or request.tenant in tenants:
        return request
    if request.tenant is not None:
        raise InvalidJob.field(
            "gpu.tenant",
            request.tenant,
            f"is none of the tenants of its certificate ({', '.join(tenants)})",
            "leave it out, or sign with a certificate of this tenant",
        )
    return replace(request, tenant=tenants[0])


def _calls(
    body: str | bytes | None, packed: Mapping[str, Any], bodies: DispatcherBodies
) -> _Calls | None:
    """Return what a body names; None for one that only the application reads."""
    if body is None:
        return None
    try:
        embed = _BODY.decode(body)[2] or _Embed()
    except msgspec.ValidationError as exc:
        raise _of_another_shape(body, exc) from None
    except RecursionError:
        raise MalformedMessage.body(body, "is nested too deeply", PROTOCOL) from None
    except UnicodeError as exc:
        raise MalformedMessage.body(body, f"is not JSON: {exc}", PROTOCOL) from None
    except msgspec.DecodeError:
        # Python's JSON has more than the standard: NaN, Infinity, and half a surrogate pair, as in
        # the name of a file.
        return _calls_decoded(packed, bodies) if len(body) <= MOST_DECODED else None
    return _Calls(
        bool(embed.errbacks) or bytes(embed.chord) != b"null",
        not {bytes(embed.callbacks), bytes(embed.chain)} <= {b"null", b"[]"},
    )


def _calls_decoded(packed: Mapping[str, Any], bodies: DispatcherBodies) -> _Calls:
    _, _, embed = payload(packed, bodies)
    errbacks, chord = embed.get("errbacks"), embed.get("chord")
    if not isinstance(errbacks, list | None):
        raise _of_another_shape(packed["body"], f"errbacks={shown(errbacks, 80)}")
    return _Calls(
        bool(errbacks) or chord is not None,
        any(embed.get(name) not in (None, []) for name in ("callbacks", "chain")),
    )


def _of_another_shape(body: str | bytes, exc: object) -> MalformedMessage:
    return MalformedMessage.body(body, f"is not [args, kwargs, embed]: {exc}", PROTOCOL)


def _count(headers: Mapping[str, Any], name: str) -> int | None:
    """Return how often a task was sent again; None if the header is wrong."""
    value = headers.get(name)
    if value is None:
        return 0
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_REPEATS
    return value if good else None


def _check_counts(headers: Mapping[str, Any]) -> None:
    for name in ("retries", "replaced_task_nesting"):
        if _count(headers, name) is None:
            raise InvalidJob.field(
                name, headers[name], "is not a count", f"use a whole number up to {MOST_REPEATS}"
            )


def _group(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    if not fits(value):
        raise InvalidJob.field("group", value, "is not a group id", "send Celery's header 'group'")
    return value


def _priority(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidJob.field(
            "priority", value, "is not a whole number", "use 0 (first) to 9 (last)"
        )
    return min(9, max(0, value))  # rounded as Celery's Redis transport does


def _limits(value: object) -> tuple[float | None, float | None]:
    limits = value if value is not None else [None, None]
    if not isinstance(limits, (list, tuple)) or len(limits) != 2:
        raise InvalidJob.field(
            "timelimit", value, "is not [hard, soft]", "send Celery's header 'timelimit'"
        )
    for name, limit in zip(("time_limit", "soft_time_limit"), limits, strict=True):
        wrong = (
            not isinstance(limit, (int, float))
            or isinstance(limit, bool)
            or not 0 <= limit <= MOST_SECONDS
        )
        if limit is not None and wrong:
            raise InvalidJob.field(
                name,
                limit,
                "is not a number of seconds",
                f"use a number above 0, and up to {MOST_SECONDS}",
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
