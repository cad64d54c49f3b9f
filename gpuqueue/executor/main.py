"""The executor: a one-shot Celery worker. It claims its attempt, runs one message under Celery's
tracer, and exits.

Its environment: GPUQUEUE_APP (the argument of ``celery -A``), GPUQUEUE_JOB_ID, GPUQUEUE_TOKEN, and
from the launcher GPUQUEUE_DELIVERY, GPUQUEUE_GPU_CLASS, GPUQUEUE_ATTEMPT, GPUQUEUE_INSTANCE; in a
pod also GPUQUEUE_POD (its name) and GPUQUEUE_POD_UID. GPUQUEUE_LAYOUT, if set, is the layout of the
dispatcher (keys.py) and must match. CELERY_BROKER_URL is the broker; GPUQUEUE_REDIS_URL (the state
of the queue) and CELERY_RESULT_BACKEND default to it. The executor needs celery and redis only, and
no GPU library; it writes no file and needs no home directory.

Exit status:
    0: reported.
    72: the application cannot be loaded; nothing is written, and the job waits until it can.
    75: Redis could not be reached.
    76: the attempt belongs to another process.
    77: the GPU failed; nothing is written, and another attempt follows.
    78: the environment is incomplete, wrong, or for another version; or Redis refuses the user or
    fails to prove its identity.
    143: asked to stop.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import NoReturn

from gpuqueue.errors import (
    ApplicationNotFound,
    ServerNotTrusted,
    ServerRefuses,
    SettingsError,
    StaleAttempt,
)
from gpuqueue.executor import application
from gpuqueue.executor.leaving import end_within, grace_of, leave_at_once
from gpuqueue.executor.task_run import KEEP, Run
from gpuqueue.executor.waiting import FINISH_PATIENCE, PATIENCE, sending
from gpuqueue.glue.messages.bodies import ApplicationBodies
from gpuqueue.glue.results.completion import complete
from gpuqueue.glue.results.events import Event, try_to_send
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.celery_redis import BACKEND, BROKER, NAMES, STATE, CeleryRedis, read
from gpuqueue.model.ends import (
    EXIT_CONFIG,
    EXIT_DEVICE,
    EXIT_NO_APPLICATION,
    EXIT_NO_STATE,
    EXIT_OK,
    EXIT_STALE,
    EXIT_TERMINATED,
)
from gpuqueue.model.executor_env import (
    FINISHER,
    INSTANCE,
    LOAD_TIMEOUT,
    POD,
    POD_UID,
    VARIABLES,
)
from gpuqueue.model.redis_url import tls_problems
from gpuqueue.store.attempts import ExecutorAttempt, ExecutorFinish
from gpuqueue.store.client import Redis, RedisError, connect, explained, forbidden, look
from gpuqueue.store.keys import VERSION
from gpuqueue.store.logs import Logs
from gpuqueue.store.passing import describe, passes

#: Not a logger of Celery (as in task_run.py): those are silent until the application sets logging
#: up, and errors here come earlier.
logger = logging.getLogger("gpuqueue.start")


def main(environ: MutableMapping[str, str] = os.environ) -> int:
    """Run the attempt that the environment names; return the exit status."""
    signal.signal(signal.SIGTERM, _on_term)  # process 1 ignores signals without a handler
    if (layout := environ.get("GPUQUEUE_LAYOUT", str(VERSION))) != str(VERSION):
        raise SettingsError(
            f"GPUQUEUE_LAYOUT={layout!r} is the layout of the dispatcher, but the gpuqueue here"
            f" reads layout {VERSION} only; install the dispatcher's version with the application"
        )
    try:
        where = _addresses(environ)
        state_url = where.state or environ["CELERY_BROKER_URL"]
        attempt = Attempt(
            environ[VARIABLES["gpu_class"]],
            environ[VARIABLES["delivery"]],
            int(environ.get(VARIABLES["attempt"], 0)),
        )
        # A finisher proves itself by its claim instead.
        token = "" if FINISHER in environ else environ[VARIABLES["token"]]
    except KeyError as exc:
        raise SettingsError(
            f"{exc.args[0]} is not set; start the executor through a dispatcher, which sets it"
        ) from None
    setting = STATE if environ.get(STATE) else BROKER
    client = _client(state_url)
    # Applications read them when they are imported.
    complete_urls = where.environment()
    environ.update(
        {name: complete_urls[name] for name in (BROKER, BACKEND) if name in complete_urls}
    )
    host = environ.get(POD) or socket.gethostname()
    try:
        look(client, state_url, setting)
        if finisher := environ.get(FINISHER):
            keep = float(environ.get("GPUQUEUE_TOMBSTONE_SECONDS", KEEP))
            finish = ExecutorFinish(client, attempt, finisher, keep)
            return _finish(environ, finish, Logs(client), f"{attempt.gpu_class}@{host}")
        executor = ExecutorAttempt(client, attempt, token)
        worker = attempt.worker(host)
        loads_within = float(environ.get(LOAD_TIMEOUT, 0)) or None
        record, stored = executor.claim(_instance(environ, host), worker, loads_within)
        Run(environ, executor, record, stored, worker).run()
        end_within(grace_of(environ), EXIT_OK)  # hooks of the application may hang, too
        application.leave()
    except StaleAttempt as exc:
        logger.warning("%s", exc)
        return EXIT_STALE
    except ApplicationNotFound as exc:
        logger.error("%s", exc)
        return EXIT_NO_APPLICATION
    except (ServerRefuses, ServerNotTrusted) as exc:
        logger.error("%s", exc)
        return EXIT_CONFIG
    except RedisError as exc:
        if forbidden(exc):
            logger.error("%s", explained(exc, state_url, setting, "gpuqueue-executor"))
            return EXIT_CONFIG
        logger.error("Redis %s: %s", describe(exc).problem, exc)
        return EXIT_NO_STATE
    return EXIT_OK


@cache
def _client(state_url: str) -> Redis:
    return connect(state_url, retries=PATIENCE)


def _addresses(environ: Mapping[str, str]) -> CeleryRedis:
    """Return the addresses of Redis. Raises :class:`SettingsError` for a wrong one, incomplete TLS
    options included: Celery would connect to any server.
    """
    return _checked(*(environ.get(name) for name in NAMES))


@cache
def _checked(*values: str | None) -> CeleryRedis:
    environ = dict(zip(NAMES, values, strict=True))
    try:
        where = read(environ)
    except ValueError as exc:
        raise SettingsError(str(exc)) from None
    for problem in tls_problems({name: environ[name] for name in (BROKER, BACKEND, STATE)}):
        raise SettingsError(problem)
    return where


def prepare(environ: Mapping[str, str]) -> Redis | None:
    """Make before a fork the client that each executor with these addresses of Redis would make,
    and return it. It has not connected.
    """
    with suppress(SettingsError, KeyError):
        return _client(_addresses(environ).state or environ[BROKER])
    return None


def _instance(environ: Mapping[str, str], host: str) -> str:
    """Name this process among all that may have been started for the attempt."""
    started, pod = environ.get(INSTANCE, host), environ.get(POD_UID)
    return f"{started}/{pod}" if pod else f"{started}:{os.getpid()}"


def _finish(environ: Mapping[str, str], finish: ExecutorFinish, logs: Logs, worker: str) -> int:
    """Write the outcome of a job in place of its executor, with the application's errbacks and
    hooks.
    """
    claimed = finish.claim()
    if claimed is None:
        return EXIT_STALE
    record, stored = claimed
    events: list[Event] = []
    try:
        app = application.load(
            environ.get("GPUQUEUE_APP"),
            worker,
            environ.get("GPUQUEUE_LOG_LEVEL", "INFO"),
            FINISH_PATIENCE,
        )
        log = logs.for_result(record)
        with sending():
            reason = complete(
                app,
                record,
                stored,
                ApplicationBodies(app),
                send=events.append,
                hostname=record.get("worker") or worker,
                own_tasks=True,
                log=log,
            )
    except Exception as exc:
        finish.failed(f"{type(exc).__name__}: {exc}", passing=passes(exc))
        raise
    finish.finished(reason)
    try_to_send(app, events)
    return EXIT_OK


def _on_term(number: int, frame: FrameType | None) -> NoReturn:
    raise application.Stopped(EXIT_TERMINATED)


def run() -> None:
    """Run the executor: the entry point. This process ends within its grace, however it went."""
    code = 1
    try:
        code = main()
    except SettingsError as exc:
        sys.stderr.write(f"gpuqueue: {exc}\n")
        code = EXIT_CONFIG
    except application.Stopped as stopped:
        code = int(stopped.code or EXIT_OK)
        if code == EXIT_DEVICE:  # the clean-up may hang on a failed GPU
            leave_at_once(code)
    finally:
        end_within(grace_of(os.environ), code)
    sys.exit(code)
