"""STARTED and RETRY of an executor, which inform people: neither may replace what says more.

STARTED is stored in order while the result backend answers, else beside the task: it must not hold
a GPU. A late one replaces only the states before it: never a RETRY, a state that the task chose, or
a result.

RETRY follows the message of the retry. While the result backend refuses it, that retry can run and
end, so it replaces no result.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend
from redis import RedisError, ResponseError
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpuqueue.glue.results.states import Ask, answer_soon, ask, named

logger = logging.getLogger("gpuqueue.start")
#: Seconds between two tries of a late STARTED: doubling, up to the second value.
EARLIEST, LATEST = 1.0, 30.0
_STORED = 1


def store_running_states(app: Celery, passes: Callable[[BaseException], bool]) -> None:
    """Make the STARTED of this process one command in place of Celery's three, tried once; if the
    error ``passes``, a thread goes on until another state of this process follows. Make its RETRY
    wait as its results do, and replace none.
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
        def as_celery_does() -> Any:
            return plain(task_id, result, state, traceback=traceback, request=request, **kwargs)

        if state != states.STARTED:
            over.set()
        if state not in (states.STARTED, states.RETRY):
            return as_celery_does()
        value = _value(backend, task_id, result, state, traceback, request)
        if state == states.RETRY:
            return result if _retry(backend, task_id, value, passes) else as_celery_does()
        try:
            stored = _tried_once(backend, task_id, value, passes)
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
        return result if stored else as_celery_does()

    if isinstance(backend, RedisBackend):
        backend.store_result = store_result


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


def _tried_once(
    backend: Any, task_id: str, value: Any, passes: Callable[[BaseException], bool]
) -> bool:
    """Store STARTED; return False where Celery's own way is needed."""
    client = backend.client
    patience = client.get_retry()
    if patience is not None:
        client.set_retry(Retry(NoBackoff(), 0))
    try:
        return _started(backend, task_id, value)
    except ResponseError as exc:  # a server, or a user, without scripts
        if passes(exc):
            raise
        return False
    finally:
        if patience is not None:
            client.set_retry(patience)


def _started(backend: Any, task_id: str, value: Any) -> bool:
    """Store STARTED in place of anything but a success, as Celery does: also of what an earlier
    attempt has left. No command can replace what is written after it was sent.
    """
    asked = Ask(backend, task_id, value, named(states.STARTED))
    if ask(backend, [asked])[0] != _STORED:
        known = backend.get(asked.key)
        if _status(backend, known) != states.SUCCESS:
            asked.expect(known)
            ask(backend, [asked])
    return True


def _retry(backend: Any, task_id: str, value: Any, passes: Callable[[BaseException], bool]) -> bool:
    """Store RETRY in place of anything but a result; return False where Celery's own way is needed.
    The retry may write meanwhile: each try replaces what it has read.
    """
    asked = Ask(backend, task_id, value, named(states.RETRY))
    try:
        while ask(backend, [asked])[0] != _STORED:
            known = backend.get(asked.key)
            if _status(backend, known) in states.READY_STATES:
                break
            asked.expect(known)
    except ResponseError as exc:  # a server, or a user, without scripts
        if passes(exc):
            raise
        return False
    return True


def _status(backend: Any, known: Any) -> Any:
    """Return the status of a value; None: it cannot be read."""
    try:
        return backend.decode(known)["status"]
    except Exception:  # of any library that decodes
        return None


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
