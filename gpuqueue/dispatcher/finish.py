"""Finish jobs that their executor did not: in the application's code if it is needed, else here.

Errbacks with the (request, exc, traceback) signature, ``on_failure`` and the errbacks of a chord
body need the application: the executor starts once more for them, without a GPU. The dispatcher
itself writes results that need no application (of a revoked or expired job), and the result of a
job whose application cannot finish it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.glue.results.completion import complete
from gpuqueue.glue.results.events import Sender
from gpuqueue.glue.results.states import answer_soon
from gpuqueue.launchers.base import Launcher, LauncherClosed
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.reasons import NO_APPLICATION, EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: How long a finish in the application's code may take, in seconds: import and hooks.
BY_APPLICATION = 120.0
_DIRECT = (EndReason.CANCELLED, EndReason.EXPIRED, EndReason.REJECTED)


class Finisher:
    """Finishes jobs in its threads, each job once at a time.

    Args:
        line, reader, logs: the state.
        app: the dispatcher's Celery application, for jobs that do not need their own.
        hostname: the worker that events name.
        launcher: starts the finishes that need the application's code.
        send: sends events, and does not wait for the broker.
        bodies: how the dispatcher reads bodies.
        lease: seconds that a finish here may take until another dispatcher may repeat it.
    """

    def __init__(
        self,
        line: Line,
        reader: Reader,
        logs: Logs,
        app: Any,
        hostname: str,
        launcher: Launcher,
        send: Sender,
        bodies: DispatcherBodies = UNSIGNED,
        lease: float = 15.0,
    ) -> None:
        self._line = line
        self._reader = reader
        self._logs = logs
        self._app = app
        self._hostname = hostname
        self._launcher = launcher
        self._send = send
        self._bodies = bodies
        self._lease = lease
        self._here = self._pool(2, "gpuqueue-finish")
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._by_application = self._pool(launcher.finishers, "gpuqueue-finish-app")

    def _pool(self, threads: int, name: str) -> ThreadPoolExecutor:
        """Return threads whose writes fail within the lease if the result backend is away."""
        return ThreadPoolExecutor(threads, name, lambda: answer_soon(self._app))

    def submit(self, gpu_class: str, delivery: str) -> None:
        """Finish a job soon, unless its finish is under way here."""
        with self._lock:
            if delivery in self._under_way:
                return
            self._under_way.add(delivery)
        self._put(self._here, gpu_class, delivery, self._first)

    def _put(
        self,
        pool: ThreadPoolExecutor,
        gpu_class: str,
        delivery: str,
        step: Callable[[str, str], bool],
    ) -> None:
        def run() -> None:
            done = True
            try:
                done = step(gpu_class, delivery)
            except Exception:
                # The lease expires, and the watcher retries it.
                logger.exception("%s: finish failed", delivery, extra={"action": "finish_failed"})
            finally:
                if done:
                    with self._lock:
                        self._under_way.discard(delivery)

        try:
            pool.submit(run)
        except RuntimeError:  # shutting down: another dispatcher takes it over
            with self._lock:
                self._under_way.discard(delivery)

    def _first(self, gpu_class: str, delivery: str) -> bool:
        finisher = uuid.uuid4().hex
        answer, record, stored = self._line.finish_claim(gpu_class, delivery, finisher, self._lease)
        if answer != "ok" or record is None:
            return True
        if not needs_application(record):
            self._write(gpu_class, record, stored, finisher)
            return True
        self._put(
            self._by_application,
            gpu_class,
            delivery,
            lambda name, each: self._in_application(name, each, record, finisher),
        )
        return False

    def _in_application(self, gpu_class: str, delivery: str, record: Record, finisher: str) -> bool:
        answer, *_ = self._line.finish_claim(
            gpu_class, delivery, finisher, BY_APPLICATION + self._lease
        )
        if answer != "ok":
            return True

        def wanted() -> bool:
            now = self._reader.record(gpu_class, delivery)
            return (
                now is not None and now["state"] == "finishing" and now.get("finisher") == finisher
            )

        try:
            status = self._launcher.finish(record, finisher, BY_APPLICATION, wanted)
        except LauncherClosed:
            return True
        answer, again, stored = self._line.finish_claim(gpu_class, delivery, finisher, self._lease)
        if answer == "ok" and again is not None:
            logger.warning(
                "%s: the application could not finish it (exit %s)",
                delivery,
                status,
                extra={"action": "finish_here"},
            )
            self._write(gpu_class, again, stored, finisher)
        return True

    def _write(self, gpu_class: str, record: Record, stored: Any, finisher: str) -> None:
        log = self._logs.for_result(record)
        reason = complete(
            self._app,
            record,
            stored,
            self._bodies,
            send=self._send,
            hostname=record.get("worker") or self._hostname,
            own_tasks=False,
            log=log,
        )
        self._line.finished(gpu_class, record["delivery"], finisher, reason)
        logger.info("%s finished: %s", record["delivery"], reason, extra={"action": "finished"})

    def close(self) -> None:
        """Complete the finishes under way here. Those in the application's code continue by
        themselves.
        """
        self._here.shutdown(wait=True, cancel_futures=True)
        self._by_application.shutdown(wait=True, cancel_futures=True)


def needs_application(record: Record) -> bool:
    """Return whether a finish needs the application's code: for errbacks, chords, or the hooks of a
    started task.
    """
    if record["task"] == CONTAINER_TASK:
        # It has no hooks. A dispatcher passes a result on by name, but cannot sign it.
        return bool(record.get("needs_app")) and (
            record.get("reason") != EndReason.SUCCEEDED or bool(record.get("signed"))
        )
    if record.get("reason") in NO_APPLICATION:
        return False
    return bool(record.get("needs_app")) or record.get("reason") not in _DIRECT
