"""STARTED and RETRY of an executor, which inform people: neither may replace what says more.

STARTED is stored in order while the result backend answers, else beside the task: it must not hold
a GPU. A late one replaces only the states before it: never a RETRY, a state that the task chose, or
a result.

RETRY follows the message of the retry. While the result backend refuses it, that retry can run and
end, so it replaces no result.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend
from kombu.exceptions import DecodeError
from redis import RedisError, ResponseError
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpuqueue.glue.results.earlier import mark
from gpuqueue.glue.results.states import Ask, answer_soon, ask, named
from gpuqueue.model.states import DISPATCHED, QUEUED

logger = logging.getLogger("gpuqueue.start")
#: Seconds between two tries of a late STARTED: doubling, up to the second value.
EARLIEST, LATEST = 1.0, 30.0
_STORED = 1
#: The state of an aborted task (celery.contrib.abortable, which needs psutil).
_ABORTED = "ABORTED"
#: Task → the mark of the result that the last STARTED of this process has found, if it was stored.
_found: dict[str, str] = {}


def store_running_states(app: Celery, passes: Callable[[BaseException], bool]) -> None:
    """Make the STARTED of this process one command in place of Celery's three, tried once; if the
    error ``passes``, a thread goes on until another state of this process follows. Make its RETRY
    wait as its results do, and replace none. Each STARTED begins another job.
    """
    backend = app.backend
    plain = backend.store_result
    over = threading.Event()

    def store_result(
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        nonlocal over

        def as_celery_does() -> Any:
            def store() -> Any:
                return plain(task_id, result, state, traceback=traceback, request=request, **kwargs)

            try:
                return store()
            except DecodeError:
                if not _read_as_json(backend, task_id):
                    raise
                return store()

        over.set()
        if state == states.STARTED:
            over = threading.Event()
            _found.clear()
        if state not in (states.STARTED, states.RETRY):
            return as_celery_does()
        value = _value(backend, task_id, result, state, traceback, request)
        if state == states.RETRY:
            return result if _retry(backend, task_id, value, passes) else as_celery_does()
        try:
            found = _tried_once(backend, task_id, value, passes)
        except RedisError as exc:
            if not passes(exc):
                raise
            logger.warning("STARTED is not stored yet: %s", exc)
            late = threading.Thread(
                target=_store_late,
                args=(app, task_id, value, over, passes),
                name="gpuqueue-started",
                daemon=True,
            )
            late.start()
            return result
        if found is None:
            return as_celery_does()
        _found[task_id] = found
        return result

    if isinstance(backend, RedisBackend):
        backend.store_result = store_result


def stored_before(app: Celery, task_id: str) -> str:
    """Return the :func:`mark` of the result that was stored before a task begins, of which Celery
    has stored STARTED if it does. Empty: there is none, or the backend does not answer at once.
    """
    if task_id in _found:
        return _found[task_id]
    backend = app.backend
    try:
        if not isinstance(backend, RedisBackend):
            return mark(backend._get_task_meta_for(task_id))
        with _once(backend.client):
            known = backend.get(backend.get_key_for_task(task_id))
        return mark(_decoded(backend, known))
    except Exception as exc:  # of any backend, and of one that keeps nothing
        logger.debug("it is unknown whether %s has an earlier result: %s", task_id, exc)
        return ""


def _value(
    backend: Any, task_id: str, result: Any, state: str, traceback: Any, request: Any
) -> Any:
    meta = backend._get_result_meta(
        result=backend.encode_result(result, state),
        state=state,
        traceback=traceback,
        request=request,
    )
    meta["task_id"] = task_id
    return backend.encode(meta)


def _read_as_json(backend: Any, task_id: str) -> bool:
    """Store a state of a dispatcher that had not heard yet how this application reads results as it
    does; return whether there was one.
    """
    try:
        meta = json.loads(backend.get(backend.get_key_for_task(task_id)) or "")
    except ValueError:
        return False
    if not isinstance(meta, dict) or meta.get("status") not in (QUEUED, DISPATCHED):
        return False
    ask(backend, [Ask(backend, task_id, backend.encode(meta), named(states.STARTED))])
    return True


@contextmanager
def _once(client: Any) -> Iterator[None]:
    """Try each command once meanwhile."""
    patience = client.get_retry()
    if patience is not None:
        client.set_retry(Retry(NoBackoff(), 0))
    try:
        yield
    finally:
        if patience is not None:
            client.set_retry(patience)


def _tried_once(
    backend: Any, task_id: str, value: Any, passes: Callable[[BaseException], bool]
) -> str | None:
    """Store STARTED; return the mark of the result that stays, or None where Celery's own way is
    needed.
    """
    try:
        with _once(backend.client):
            return _started(backend, task_id, value)
    except ResponseError as exc:  # a server, or a user, without scripts
        if passes(exc):
            raise
        return None


def _started(backend: Any, task_id: str, value: Any) -> str:
    """Store STARTED in place of anything but a success, as Celery does: also of what an earlier
    attempt has left. A task that was aborted before its start must see that. No command can replace
    what is written after it was sent. Returns the mark of the result that stays.
    """
    asked = Ask(backend, task_id, value, named(states.STARTED))
    if ask(backend, [asked])[0] == _STORED:
        return ""
    known = backend.get(asked.key)
    meta = _decoded(backend, known)
    if meta.get("status") in (states.SUCCESS, _ABORTED):
        return mark(meta)
    asked.expect(known)
    ask(backend, [asked])
    return ""


def _retry(backend: Any, task_id: str, value: Any, passes: Callable[[BaseException], bool]) -> bool:
    """Store RETRY in place of anything but a result; return False where Celery's own way is needed.
    The retry may write meanwhile: each try replaces what it has read.
    """
    asked = Ask(backend, task_id, value, named(states.RETRY))
    try:
        while ask(backend, [asked])[0] != _STORED:
            known = backend.get(asked.key)
            if _decoded(backend, known).get("status") in states.READY_STATES:
                break
            asked.expect(known)
    except ResponseError as exc:  # a server, or a user, without scripts
        if passes(exc):
            raise
        return False
    return True


def _decoded(backend: Any, known: Any) -> Mapping[str, Any]:
    """Return what a value says; nothing if it cannot be read."""
    try:
        return dict(backend.decode(known))
    except Exception:  # of any library that decodes
        return {}


def _store_late(
    app: Celery,
    task_id: str,
    value: Any,
    over: threading.Event,
    passes: Callable[[BaseException], bool],
) -> None:
    pause = EARLIEST
    try:
        backend = app.backend  # of this thread: the patience of the other one is for results
        answer_soon(app)
        while not over.wait(pause):
            try:
                ask(backend, [Ask(backend, task_id, value, named(states.STARTED))])
                return
            except RedisError as exc:
                if not passes(exc):
                    raise
            pause = min(LATEST, pause * 2)
    except Exception as exc:
        logger.warning("STARTED is not stored: %s: %s", type(exc).__name__, exc)
