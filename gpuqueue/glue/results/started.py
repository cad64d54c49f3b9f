"""STARTED of an executor: stored in order while the result backend answers, else beside the task.

A state for people must not hold a GPU. A late STARTED replaces only the states before it: never a
RETRY, a state that the task chose, or a result.
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


def store_started_beside(app: Celery, passes: Callable[[BaseException], bool]) -> None:
    """Make the STARTED of this process one command in place of Celery's three, tried once; if the
    error ``passes``, a thread goes on until another state of this process follows.
    """
    backend = app.backend
    plain = backend.store_result
    over = threading.Event()

    def store_result(task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state != states.STARTED:
            over.set()
            return plain(task_id, result, state, *args, **kwargs)
        value = _value(backend, task_id, result, kwargs.get("request"))
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
        return result if stored else plain(task_id, result, state, *args, **kwargs)

    if isinstance(backend, RedisBackend):
        backend.store_result = store_result


def _value(backend: Any, task_id: str, result: Any, request: Any) -> Any:
    meta = backend._get_result_meta(
        result=result, state=states.STARTED, traceback=None, request=request
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
        if not _is_success(backend, known):
            asked.expect(known)
            ask(backend, [asked])
    return True


def _is_success(backend: Any, known: Any) -> bool:
    try:
        return bool(backend.decode(known)["status"] == states.SUCCESS)
    except Exception:  # of any library that decodes
        return False


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
