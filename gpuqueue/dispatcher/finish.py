"""Finish jobs that their executor did not: in the application's code if it is needed, else here.

Errbacks with the (request, exc, traceback) signature, ``on_failure`` and the errbacks of a chord
body need the application: the executor starts once more for them, without a GPU. The dispatcher
itself writes results that need no application (of a revoked or expired job), and the result of a
job whose application fails to finish it several times. If its callbacks cannot be sent either, it
writes the result alone. Each of these steps has a number of tries.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gpuqueue.dispatcher.finish_here import HereFinisher
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.glue.results.events import Sender
from gpuqueue.glue.results.states import answer_soon, pass_values_on
from gpuqueue.launchers.base import FinishHeld, Launcher, LauncherClosed, LauncherUnavailable
from gpuqueue.model import escalation
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import NO_APPLICATION, EndReason
from gpuqueue.model.record import Record
from gpuqueue.steps import Steps
from gpuqueue.store.client import RedisError
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.passing import passes
from gpuqueue.store.reader import Reader

#: How often a claim is renewed within its lease: the executor may wait for a node or an image.
RENEWALS = 3
_DIRECT = (EndReason.CANCELLED, EndReason.EXPIRED, EndReason.REJECTED)


class Finisher:
    """Finishes jobs in its threads, each job once at a time. Each fails by itself.

    Args:
        line, reader, logs: the state.
        app: the dispatcher's Celery application, for jobs that do not need their own.
        hostname: the worker that the result of a job without an attempt names.
        launcher: starts the finishes that need the application's code.
        send: sends events, and does not wait for the broker.
        bodies: how the dispatcher reads bodies.
        lease: seconds that a finish here may take until another dispatcher may repeat it.
        timeout: seconds that a finish in the application's code may take: import and hooks.
        tries: how often a finish may fail.
        writes_here: whether results of this dispatcher are results of the application in an image;
            None: unknown.
        asked: told the image in which the code of the application has finished a job.
        move: moves a job to its larger class in place of an end; returns why that is impossible.
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
        timeout: float = 120.0,
        tries: int = 3,
        *,
        writes_here: Callable[[str | None], bool | None] = lambda image: True,
        asked: Callable[[str | None], object] = lambda image: None,
        move: Callable[[Record, dict[str, Any] | None], str] = lambda record, packed: "unknown",
    ) -> None:
        self._line = line
        self._reader = reader
        self._launcher = launcher
        self._outcomes = HereFinisher(line, logs, app, hostname, send, bodies, lease)
        self._lease = lease
        self._timeout = timeout
        self._tries = tries
        self._writes_here = writes_here
        self._asked = asked
        self._move = move
        self._steps = Steps()
        self._closed = False
        self._here = ThreadPoolExecutor(2, "gpuqueue-finish", self._begin, (app,))
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._by_application = ThreadPoolExecutor(
            launcher.finishers, thread_name_prefix="gpuqueue-finish-app"
        )

    def submit(self, gpu_class: str, delivery: str) -> None:
        """Finish a job soon, unless its finish is under way here, or has just failed."""
        if not self._steps.ready("finish", job=delivery):
            return  # the watcher comes back to it
        with self._lock:
            if delivery in self._under_way:
                return
            self._under_way.add(delivery)
        self._put(self._here, gpu_class, delivery, self._first)

    def _begin(self, app: Any) -> None:
        """Make the writes of a thread fail within the lease if the result backend is away, and let
        the results of a chord pass through it.
        """
        try:
            answer_soon(app)
            pass_values_on(app)
        except Exception as exc:  # would end the pool
            self._steps.failed("finish thread", exc)

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
            except Exception as exc:
                # The claim expires, and the watcher retries it. An outage is not the job's.
                self._steps.failed("finish", exc, job="" if passes(exc) else delivery)
            else:
                self._steps.succeeded("finish")
                self._steps.succeeded("finish", job=delivery)
            finally:
                if done:
                    with self._lock:
                        self._under_way.discard(delivery)

        try:
            pool.submit(run)
        except RuntimeError as exc:
            with self._lock:
                self._under_way.discard(delivery)
            if not self._closed:  # else another dispatcher takes it over
                self._steps.failed("finish", exc, job=delivery)

    def _first(self, gpu_class: str, delivery: str) -> bool:
        finisher = uuid.uuid4().hex
        answer, record, _ = self._line.finish_claim(gpu_class, delivery, finisher, self._lease)
        if answer != "ok" or record is None:
            return True
        if escalation.moves(record) and record.get("finishes", 0) < self._tries:
            self._moved(gpu_class, delivery, finisher)
            return True
        if not self._is_the_application_s(record):
            self._outcomes.finish(gpu_class, delivery, finisher, self._tries, instead=False)
            return True
        if record.get("finishes", 0) >= self._tries:
            # Its callbacks may be sent by name, without the application.
            self._outcomes.finish(gpu_class, delivery, finisher, self._tries + 1, instead=True)
            return True
        self._put(
            self._by_application,
            gpu_class,
            delivery,
            lambda name, each: self._later(name, each, finisher, record),
        )
        return False

    def _moved(self, gpu_class: str, delivery: str, finisher: str) -> None:
        """Move a job to its larger class: first it is there, then it ends here. If this process
        dies in between, another finisher repeats both.
        """
        claim = self._line.finish_claim
        answer, record, packed = claim(gpu_class, delivery, finisher, self._lease, begins=True)
        if answer != "ok" or record is None:
            return
        passing = False
        try:
            why = self._move(record, packed)
        except Exception as exc:
            why, passing = f"{type(exc).__name__}: {exc}", passes(exc)
        if why:
            self._outcomes.failed(gpu_class, delivery, finisher, why, passing)
        else:
            self._line.finished(gpu_class, delivery, finisher, EndReason.ESCALATED)

    def _later(self, gpu_class: str, delivery: str, finisher: str, record: Record) -> bool:
        if self._is_the_application_s(record):
            return self._in_application(gpu_class, record, finisher)
        # Meanwhile another job has shown where the application keeps its results.
        self._outcomes.finish(gpu_class, delivery, finisher, self._tries, instead=False)
        return True

    def _is_the_application_s(self, record: Record) -> bool:
        """Return whether the code of the application must finish a job."""
        ours = self._writes_here(record.get("image")) or record.get("reason") in NO_APPLICATION
        return not ours or needs_application(record)

    def _in_application(self, gpu_class: str, known: Record, finisher: str) -> bool:
        delivery = known["delivery"]
        lease = self._timeout + self._lease
        claim = partial(self._line.finish_claim, gpu_class, delivery, finisher, lease)
        answer, record, _ = claim(begins=True, hold=self._hold(known))
        if answer != "ok" or record is None:
            return True
        tries = record.get("finish_probes", ())
        renewed = time.monotonic()

        def wanted() -> bool:
            nonlocal renewed
            try:
                if time.monotonic() - renewed >= lease / RENEWALS:
                    renewed = time.monotonic()
                    return claim()[0] == "ok"
                now = self._reader.record(gpu_class, delivery)
            except RedisError as exc:
                if passes(exc):
                    return True  # unknown
                raise
            return (
                now is not None and now["state"] == "finishing" and now.get("finisher") == finisher
            )

        try:
            status = self._launcher.finish(record, finisher, self._timeout, wanted)
        except LauncherClosed:
            return True
        except FinishHeld as exc:
            of_image = exc.kind is PlaceKind.IMAGE
            place = self._places(record)[of_image]
            self._outcomes.held(gpu_class, delivery, finisher, place, str(exc))
            return True
        except Exception as exc:
            error = f"the executor could not be started: {exc}"
            passing = passes(exc) or isinstance(exc, LauncherUnavailable)
            self._outcomes.failed(gpu_class, delivery, finisher, error, passing)
            return True
        if tries:
            self._line.finishes_go_on(gpu_class, tries)
        if not wanted():
            self._asked(record.get("image"))
        took = f"not done within {self._timeout:g} s" if status is None else f"exit {status}"
        self._outcomes.failed(
            gpu_class, delivery, finisher, f"the executor did not finish it ({took})"
        )
        return True

    def _places(self, record: Record) -> tuple[str, str]:
        """Return what may keep a finisher from a pod: its class, and its image."""
        gpu_class = record["gpu_class"]
        image = record.get("image") or self._launcher.site.images.get(gpu_class, gpu_class)
        return f"{PlaceKind.FINISHES}:{gpu_class}", f"{PlaceKind.FINISHES}:{image}"

    def _hold(self, record: Record) -> dict[str, Any]:
        """Return what finish_claim must know of it."""
        most = self._launcher.site.held.get(record["gpu_class"])
        hold = {"places": self._places(record), "most": most, "tries": self._tries}
        return {name: value for name, value in hold.items() if value is not None}

    def close(self) -> None:
        """Complete the finishes under way here. Those in the application's code continue by
        themselves.
        """
        self._closed = True
        self._outcomes.close()
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
