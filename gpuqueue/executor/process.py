"""What one executor does with its Redis: claim its attempt, run it, go on with another one where
the application asks for that, and translate each error into an exit status.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from celery import Celery

from gpuqueue.errors import (
    ApplicationNotFound,
    ServerNotTrusted,
    ServerRefuses,
    SettingsError,
    StaleAttempt,
)
from gpuqueue.executor import application
from gpuqueue.executor.finish import write_outcome
from gpuqueue.executor.leaving import end_within, grace_of, keep_of
from gpuqueue.executor.redis_of import addresses, client, forget_default, told_backend
from gpuqueue.executor.reuse import Reuse
from gpuqueue.executor.task_run import Run
from gpuqueue.glue.profile import profile_of
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.celery_redis import BACKEND, BROKER, STATE
from gpuqueue.model.ends import (
    EXIT_CONFIG,
    EXIT_NO_APPLICATION,
    EXIT_NO_STATE,
    EXIT_OK,
    EXIT_STALE,
)
from gpuqueue.model.executor_env import (
    FINISHER,
    INSTANCE,
    LOAD_TIMEOUT,
    POD,
    POD_UID,
    VARIABLES,
    become,
    parse_record,
    record_variables,
)
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.client import Redis, RedisError, connect, explained, forbidden, look
from gpuqueue.store.finishes import ExecutorFinish
from gpuqueue.store.keys import VERSION
from gpuqueue.store.logs import Logs
from gpuqueue.store.passing import describe
from gpuqueue.store.profiles import Profiles

#: Seconds that the runner of a pod waits for Redis while an executor runs: it must hear signals.
BRIEF = 2.0
#: Not a logger of Celery (as in task_run.py): those are silent until the application sets logging
#: up, and errors here come earlier.
logger = logging.getLogger("gpuqueue.start")


class Executor:
    """One executor: its attempt, and the Redis that has it.

    Args:
        environ: names both. It gets the complete addresses, which applications read when they are
            imported.

    Raises:
        SettingsError: the environment is incomplete, wrong, or for another version.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        if (layout := environ.get("GPUQUEUE_LAYOUT", str(VERSION))) != str(VERSION):
            raise SettingsError(
                f"GPUQUEUE_LAYOUT={layout!r} is the layout of the dispatcher, but the gpuqueue here"
                f" reads layout {VERSION} only; install the dispatcher's version with the"
                " application"
            )
        forget_default(environ)
        try:
            where = addresses(environ)
            self._url = where.state or environ["CELERY_BROKER_URL"]
            self._attempt = Attempt(
                environ[VARIABLES["gpu_class"]],
                environ[VARIABLES["delivery"]],
                int(environ.get(VARIABLES["attempt"], 0)),
            )
            # A finisher proves itself by its claim instead.
            self._token = "" if FINISHER in environ else environ[VARIABLES["token"]]
        except KeyError as exc:
            raise SettingsError(
                f"{exc.args[0]} is not set; start the executor through a dispatcher, which sets it"
            ) from None
        self._environ = environ
        self._setting = STATE if environ.get(STATE) else BROKER
        self._client = client(self._url)
        complete_urls = where.environment()
        # A backend that was not set is the one that the application names, if it names one.
        named = (BROKER, BACKEND) if where.names_backend else (BROKER,)
        environ.update({name: complete_urls[name] for name in named if name in complete_urls})
        self._profiles = Profiles(self._client, [self._attempt.gpu_class])
        self._host = environ.get(POD) or socket.gethostname()
        self._instance = _instance(environ, self._host)
        self._loads_within = float(environ.get(LOAD_TIMEOUT, 0)) or None
        self._claimed: tuple[ExecutorAttempt, Record, dict[str, Any], str] | None = None
        self._known: Record | None = None  # by the runner of a pod that goes on
        self._soon: Redis | None = None

    def main(self) -> int:
        """Claim the attempt and run it; return the exit status."""
        return self.claim() or self.work()

    def claim(self) -> int:
        """Claim the attempt; return the exit status, :data:`EXIT_OK` if it is claimed."""
        return self._status_of(self._claim)

    def work(self) -> int:
        """Load the application and run the claimed attempt; return the exit status."""
        return self._status_of(self._work)

    def not_loaded(self, exc: ApplicationNotFound) -> int:
        """Report that the application of the claimed attempt cannot be loaded; return the exit
        status.
        """
        return self._status_of(lambda: self._not_loaded(exc))

    def describe(self, app: Celery) -> None:
        """Tell dispatchers what the application, which was imported here, says of its broker and
        results.
        """
        assert self._claimed is not None, "the attempt is claimed"
        self._describe(app, self._claimed[1])

    def disconnect(self) -> None:
        """Close the connections: a forked process must not share them. A later call opens new
        ones.
        """
        self._client.connection_pool.disconnect()
        if self._soon is not None:
            self._soon.connection_pool.disconnect()

    # -- the next job of a pod ---------------------------------------------------------------------

    @property
    def holder(self) -> str:
        """The name of its attempt."""
        return self._attempt.holder

    def goes_on(self, **pod: Any) -> bool:
        """Turn to the next job of its pod in place of an end; return whether there is one now. It
        is claimed. For ``pod`` see :class:`WarmInstance`. Raises RedisError.
        """
        me = WarmInstance(self._instance, self._host, loads_within=self._loads_within, **pod)
        taken = self._ask().take_next(me)
        if taken:
            executor, record, stored = taken
            self._turn_to(record)
            self._claimed = executor, record, stored, record["worker"]
        return bool(taken)

    def called(self, first: str, *, leaves: bool) -> bool | None:
        """Turn to the job that was given to its pod. Returns whether there is one, which must be
        claimed; None: the pod may wait. Raises RedisError.
        """
        found = self._ask().called(self._instance, first, leaves=leaves)
        if isinstance(found, bool):
            return None if found else False
        self._turn_to(found)
        return True

    def stands(self) -> None:
        """Have Redis know the attempt that runs: it may have lost it, and only this process knows
        by now which one it is.
        """
        try:
            asks = ExecutorAttempt(self._brief(), self._attempt, self._token)
            self._known = asks.stands(self._known, self._instance) or self._known
        except RedisError as exc:
            logger.debug("%s: Redis cannot tell whether it knows it: %s", self.holder, exc)

    def sleep(self, seconds: float) -> None:
        """Sleep until the pod is told something, or for so many seconds. Raises RedisError."""
        self._ask().sleep(self._instance, seconds)

    def turned(self, variables: Mapping[str, str]) -> None:
        """Note that its process has gone on to the attempt of the variables."""
        self._turn_to(parse_record(variables))
        self._claimed = None

    def keep_log(self, printed: bytes) -> None:
        """Keep the end of what the attempt has printed; the log of its pod has other ones, too."""
        try:
            text = printed.decode(errors="replace")
            Logs(self._brief()).keep(self._attempt, text, keep_of(self._environ))
        except RedisError as exc:
            logger.warning("the log of %s is not kept: %s", self.holder, exc)

    def _brief(self) -> Redis:
        """Return a client that fails soon."""
        if self._soon is None:
            self._soon = connect(self._url, timeout=BRIEF, retries=0)
        return self._soon

    def _ask(self) -> ExecutorAttempt:
        """Return the verbs of its latest attempt."""
        if self._claimed:
            return self._claimed[0]
        return ExecutorAttempt(self._client, self._attempt, self._token)

    def _turn_to(self, record: Record) -> None:
        become(self._environ, record_variables(record))
        self._attempt, self._token = Attempt.of(record), record["token"]
        self._known = record

    def finish(self, finisher: str) -> int:
        """Write the outcome of a job in place of its executor; return the exit status."""
        return self._status_of(lambda: self._finish(finisher))

    def _claim(self) -> int:
        look(self._client, self._url, self._setting)
        executor = ExecutorAttempt(self._client, self._attempt, self._token)
        worker = self._attempt.worker(self._host)
        record, stored = executor.claim(self._instance, worker, self._loads_within)
        self._claimed = executor, record, stored, worker
        return EXIT_OK

    def _run(self) -> Run:
        """Make the run, which a process must not inherit: it has a thread that is not started."""
        assert self._claimed is not None, "the attempt is claimed"
        return Run(self._environ, *self._claimed)

    def _describe(self, app: Celery, record: Record) -> None:
        try:
            self._profiles.keep(
                self._environ.get("GPUQUEUE_APP", ""),
                record.get("image") or "",
                profile_of(app, told_backend(self._environ)).described(),
            )
        except RedisError as exc:  # dispatchers go on with what they know
            logger.warning("what the application says of itself is not told: %s", exc)

    def _work(self) -> int:
        imported = application.kept(self._environ.get("GPUQUEUE_APP")) is not None
        run = self._run()
        app = run.load()
        if app is None:
            return self._left()
        if not imported:
            self.describe(app)
        assert self._claimed is not None, "the attempt is claimed"
        executor, record, _, worker = self._claimed
        reuse = self._reuse() if Reuse.is_wanted(record) else None
        while run.run(app) and reuse and (taken := reuse.take_next(executor)):
            executor, record, stored = taken
            self._claimed = executor, record, stored, record["worker"]
            run = self._run()
        return self._left(app, worker)

    def _reuse(self) -> Reuse | None:
        return Reuse.of(
            self._environ,
            self._client,
            self._host,
            self._instance,
            self._loads_within,
            keep_of(self._environ),
        )

    def _not_loaded(self, exc: ApplicationNotFound) -> int:
        self._run().not_loaded(exc)
        return self._left()

    def _left(self, app: Celery | None = None, worker: str = "") -> int:
        """Leave the application; ``app`` if it was loaded, as that worker."""
        end_within(grace_of(self._environ), EXIT_OK)  # hooks of the application may hang, too
        application.leave()
        if app is not None and application.kept(self._environ.get("GPUQUEUE_APP")) is None:
            application.shut_down(app, worker)  # a runner does that itself
        return EXIT_OK

    def _finish(self, finisher: str) -> int:
        look(self._client, self._url, self._setting)
        keep = keep_of(self._environ)
        finish = ExecutorFinish(self._client, self._attempt, finisher, keep)
        worker = f"{self._attempt.gpu_class}@{self._host}"
        return write_outcome(self._environ, finish, Logs(self._client), worker, self._describe)

    def _status_of(self, do: Callable[[], int]) -> int:
        try:
            return do()
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
                logger.error("%s", explained(exc, self._url, self._setting, "gpuqueue-executor"))
                return EXIT_CONFIG
            logger.error("Redis %s: %s", describe(exc).problem, exc)
            return EXIT_NO_STATE


def _instance(environ: Mapping[str, str], host: str) -> str:
    """Name this process among all that may have been started for the attempt."""
    started, pod = environ.get(INSTANCE, host), environ.get(POD_UID)
    return f"{started}/{pod}" if pod else f"{started}:{os.getpid()}"
