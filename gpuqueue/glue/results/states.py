"""Write a state that is no result (QUEUED, DISPATCHED, STARTED, RETRY) into the result backend.

Such a state only informs people, so it never replaces one that says more: STARTED, RETRY, a state
that the task chose, a result. Where the backend is a Redis, one script compares and writes. Where a
value there cannot be read, it stays.

Other backends have no such script: the state is read, then written. A result that is stored between
the two is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from typing import Any

from celery import Celery, states
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from kombu.serialization import registry
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from gpuqueue.model.record import Record
from gpuqueue.model.states import DISPATCHED, QUEUED

#: Records refreshed in one round trip.
REFRESHED_AT_ONCE = 500
#: The longest value that the script reads, and the longest that is written, in bytes: a script with
#: a hundred keys takes a few milliseconds.
LONGEST = 4096
#: The states that a state may replace.
_BEFORE_START = (states.PENDING, states.RECEIVED, QUEUED, DISPATCHED)
REPLACES: dict[str, tuple[str, ...]] = {
    QUEUED: _BEFORE_START,
    DISPATCHED: _BEFORE_START,
    states.STARTED: (*_BEFORE_START, states.STARTED),
    states.RETRY: (*_BEFORE_START, states.STARTED, states.RETRY),
}
#: The name of results in JSON that are read without the types of kombu.
AS_STORED = "application/x-gpuqueue-as-stored"
_STORED, _KEPT, _UNREADABLE = 1, 0, 2
#: The headers of a message that a state repeats.
_SHOWN = ("group", "parent_id", "retries", "stamps", "stamped_headers")


@dataclass(frozen=True, slots=True)
class Informing:
    """A state to store, with what it says. It keeps no message."""

    record: Record
    state: str
    headers: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record, state: str, headers: Mapping[str, Any]) -> Informing:
        """Return the state of a record, with the headers of its message that a state repeats."""
        known = {name: headers[name] for name in _SHOWN if headers.get(name) is not None}
        if len(json.dumps(known)) > LONGEST:
            known = {}
        return cls(record, state, known)


class ResultStates:
    """Stores the states of jobs for ``AsyncResult``. Celery has one backend for each thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def answer_soon(self) -> None:
        """Make the backend of this thread give up within seconds."""
        answer_soon(self._app)

    def store(self, some: Sequence[Informing]) -> list[bool]:
        """Store states; return for each whether it was stored. Raises the errors of the backend."""
        backend = self._app.backend
        if not isinstance(backend, RedisBackend):
            return [self._read_then_store(backend, each) for each in some]
        asked = [
            Ask(backend, each.record["id"], self._meta(backend, each), named(each.state))
            for each in some
        ]
        answers = ask(backend, asked)
        unread = [index for index, answer in enumerate(answers) if answer == _UNREADABLE]
        # The script reads JSON only. Celery reads what it has written in any other way.
        for index in unread:
            asked[index].expect(self._replaceable(backend, some[index]))
        again = [index for index in unread if asked[index].expected]
        for index, answer in zip(again, ask(backend, [asked[i] for i in again]), strict=True):
            answers[index] = answer
        return [answer == _STORED for answer in answers]

    def _meta(self, backend: Any, each: Informing) -> Any:
        meta = backend._get_result_meta(
            result=_info(each.record), state=each.state, traceback=None, request=_context(each)
        )
        meta["task_id"] = each.record["id"]
        return backend.encode(meta)

    def _replaceable(self, backend: Any, each: Informing) -> Any:
        raw = backend.get(backend.get_key_for_task(each.record["id"]))
        try:
            status = backend.decode(raw)["status"]
        except Exception:  # of any library that decodes
            return None
        return raw if status in REPLACES[each.state] else None

    def _read_then_store(self, backend: Any, each: Informing) -> bool:
        job_id = each.record["id"]
        known = backend.get_task_meta(job_id, cache=False)["status"]
        if known not in REPLACES[each.state]:
            return False
        backend.store_result(job_id, _info(each.record), each.state, request=_context(each))
        return True

    @property
    def refresh_seconds(self) -> float | None:
        """Seconds between two refreshes: a quarter of the expiry; None if the states do not expire,
        or the backend cannot extend them.
        """
        backend = self._app.backend
        return (
            backend.expires / 4 if backend.expires and isinstance(backend, RedisBackend) else None
        )

    def refresh(self, records: Iterable[Record]) -> None:
        """Extend the expiry of the states of long jobs, and of their chords (Redis backend)."""
        backend = self._app.backend
        for some in batched(records, REFRESHED_AT_ONCE):
            pipe = backend.client.pipeline(transaction=False)
            for record in some:
                pipe.expire(backend.get_key_for_task(record["id"]), backend.expires)
                if "group" in record and backend.chord_expires:
                    for suffix in ("", ".j", ".t", ".s"):
                        key = backend.get_key_for_group(record["group"], suffix)
                        pipe.expire(key, backend.chord_expires)
            pipe.execute()


def answer_soon(app: Celery) -> None:
    """Make the backend of this thread give up within seconds, for callers that try again later."""
    backend = app.backend
    if isinstance(backend, RedisBackend):
        backend.client.set_retry(Retry(NoBackoff(), 0))
        backend.retry_policy = {**backend.retry_policy, "max_retries": 1}


def pass_values_on(app: Celery) -> None:
    """Make the backend of this thread read results as they are stored, without the types of kombu,
    for a caller that sends them on: it lacks the types that an application registers.
    """
    backend = app.backend
    if backend.serializer == "json":
        registry.register(AS_STORED, None, json.loads, content_type=AS_STORED)
        backend.content_type, backend.accept = AS_STORED, {AS_STORED}


class Ask:
    """One key of the script, with its arguments."""

    def __init__(self, backend: Any, job_id: str, value: Any, statuses: str) -> None:
        self.key = backend.get_key_for_task(job_id)
        self.value = value
        self.statuses = statuses
        self.expected: Any = ""

    def expect(self, value: Any) -> None:
        """Replace this very value, too."""
        self.expected = value or ""


def ask(backend: Any, asked: Sequence[Ask]) -> list[int]:
    """Run the script; return its answers."""
    if not asked:
        return []
    arguments: list[Any] = [int(backend.expires or 0), LONGEST]
    for each in asked:
        arguments += [each.value, each.statuses, each.expected]
    keys = [each.key for each in asked]
    found: list[int] = _SCRIPT(keys=keys, args=arguments, client=backend.client)
    return found


def named(state: str) -> str:
    """Return the states that a state may replace, as the script reads them."""
    return f" {' '.join(REPLACES[state])} "


def _info(record: Record) -> dict[str, Any]:
    return {
        "gpu_class": record["gpu_class"],
        "isolation": record["isolation"],
        "attempt": record.get("attempt", 0),
    }


def _context(each: Informing) -> Context:
    named = {"id": each.record["id"], "task": each.record.get("task"), **each.headers}
    return Context({**named, "args": [], "kwargs": {}, "delivery_info": {}})


#: One for all clients: each executor would compute its digest again.
_SCRIPT = Script(None, (files("gpuqueue.glue.results") / "inform.lua").read_bytes())  # type: ignore[arg-type]


def batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Yield lists of up to ``size`` records."""
    left = iter(records)
    while some := list(islice(left, size)):
        yield some
