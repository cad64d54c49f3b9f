"""The dispatcher's side of the runner: find the runner of a runtime directory or start it, ask it
for attempts, and hear how they end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any

from gpuqueue.errors import GpuQueueError, SettingsError
from gpuqueue.launchers.local import wire
from gpuqueue.launchers.local.peer import user_of
from gpuqueue.launchers.local.runtime import IMPORTING, ROOM, ROOM_BYTES, Runtime, prepare
from gpuqueue.model.profile import Profile

logger = logging.getLogger(__name__)
#: Seconds that a runner has to answer a request.
ANSWER = 30.0
#: Seconds for which the failure to start a runner is the answer to those who ask next.
PAUSE = 1.0
#: Seconds between two looks for a runner that starts.
LOOK = 0.02

#: Called with each message ``ended``.
OnEnded = Callable[[Mapping[str, Any]], None]
#: Called with the profile of an application that a runner has imported.
OnProfile = Callable[[Profile], object]


class RunnerRefuses(GpuQueueError):
    """The runner did not start an attempt. ``kind``: ``application`` or ``system``."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


class RunnerAway(GpuQueueError):
    """No runner answers. Its attempts go on."""


class Runner:
    """A connection to the runner. Thread-safe; it connects again by itself.

    Args:
        runtime: the directory.
        environ: the environment of a runner that this dispatcher starts.
        command: the command that starts it, without the directory.
        executor: the command of a spawned attempt; empty: the executor.
        start_within: seconds that a runner has to import the application and listen.
        on_ended: told each end, from the reading thread.
        wanted: whether attempts run, so that a runner that has died must be replaced at once.
        on_profile: told when it connects.
    """

    def __init__(
        self,
        runtime: Runtime,
        environ: Mapping[str, str],
        command: Sequence[str],
        executor: Sequence[str],
        start_within: float,
        on_ended: OnEnded,
        wanted: Callable[[], bool] = lambda: False,
        on_profile: OnProfile = lambda profile: None,
    ) -> None:
        self._runtime = runtime
        self._environ = dict(environ)
        self._command = [*command, str(runtime.path), *executor]
        self._start_within = start_within
        self._on_ended = on_ended
        self._wanted = wanted
        self._on_profile = on_profile
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._answers: dict[str, tuple[socket.socket, Future[Mapping[str, Any]]]] = {}
        self._unsafe = self._problem = ""
        self._failed: tuple[float, GpuQueueError] | None = None
        self._closed = False

    def start(self, nonce: str, variables: Mapping[str, str]) -> str:
        """Start an attempt; return its instance. Raises :class:`RunnerRefuses`,
        :class:`RunnerAway`.
        """
        tried = False
        while True:
            try:
                answer = self._ask("start", nonce, variables=dict(variables))
            except ConnectionError as exc:
                # It has ended since: idle, or killed. An attempt that it may have started claims
                # nothing once another has.
                if tried:
                    raise RunnerAway(f"the runner of {self._runtime.path} ended: {exc}") from exc
                tried = True
                continue
            if answer["is"] == "started":
                return str(answer["instance"])
            if answer["kind"] != "stale":
                raise RunnerRefuses(answer["why"], answer["kind"])
            logger.info("%s: a new runner starts", answer["why"], extra={"action": "runner_stale"})

    def connect(self) -> None:
        """Connect, and start a runner if there is none, so that ends are told. Raises
        :class:`RunnerRefuses`, :class:`RunnerAway`.
        """
        self._connected()

    def close(self) -> None:
        """Leave the runner. Its attempts go on. What is asked for later goes to the runner that
        there is.
        """
        self._closed = True
        with self._lock:
            if self._connection is not None:
                _shut(self._connection)
                self._connection = None

    def _ask(self, word: str, nonce: str, **fields: Any) -> Mapping[str, Any]:
        answer: Future[Mapping[str, Any]] = Future()
        connection = self._connected()
        self._answers[nonce] = connection, answer
        try:
            connection.sendall(wire.encode(word, nonce=nonce, **fields))
            found = answer.result(ANSWER)
            if found.get("kind") == "stale":  # it still tells the ends of what it started
                self._drop(connection)
            return found
        except Late as exc:
            self._drop(connection)
            raise RunnerAway(
                f"the runner of {self._runtime.path} did not answer within {ANSWER:g} s"
            ) from exc
        except OSError as exc:
            self._drop(connection)
            raise ConnectionError(str(exc)) from exc
        finally:
            self._answers.pop(nonce, None)

    def _drop(self, connection: socket.socket) -> None:
        """Ask this runner for nothing more."""
        with self._lock:
            if self._connection is connection:
                self._connection = None

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._connection is None:
                self._connection = self._found()
                threading.Thread(
                    target=self._read,
                    args=(self._connection,),
                    name="gpuqueue-runner",
                    daemon=True,
                ).start()
            return self._connection

    def _found(self) -> socket.socket:
        if self._failed and time.monotonic() - self._failed[0] < PAUSE:
            raise self._failed[1]
        try:
            return self._find()
        except GpuQueueError as exc:
            self._failed = time.monotonic(), exc
            raise

    def _find(self) -> socket.socket:
        deadline = time.monotonic() + self._start_within
        started, status = None, None
        while time.monotonic() < deadline:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._runtime.socket))
            except OSError:
                connection.close()
            else:
                return self._trusted(connection)
            if self._closed:
                break
            if started is not None and (status := started.poll()) is not None:
                self._check_end(started.pid, status)
            if (started is None or status == 0) and not self._runtime.has_runner:
                started = self._spawn()
            time.sleep(LOOK)
        raise RunnerAway(
            f"the runner of {self._runtime.path} does not listen after {self._start_within:g} s;"
            f" see {self._runtime.log}"
        )

    def _trusted(self, connection: socket.socket) -> socket.socket:
        if (user := user_of(connection)) != os.getuid():
            connection.close()
            raise SettingsError(
                f"GPUQUEUE_RUNTIME_DIR={str(self._runtime.path.parent)!r}: user {user} listens on"
                f" {self._runtime.socket}, not user {os.getuid()}; set GPUQUEUE_RUNTIME_DIR to a"
                " directory that only this user can use"
            )
        return connection

    def _check_end(self, pid: int, status: int) -> None:
        """Raise the error for a runner that died at its start. A second runner of the directory
        ends at once, with status 0.
        """
        imported = self._runtime.runner == (pid, IMPORTING)
        if not (status or imported):
            return
        log = f"see {self._runtime.log}"
        with contextlib.suppress(OSError):
            if not os.statvfs(self._runtime.path).f_bavail:
                log = f"the disk of GPUQUEUE_RUNTIME_DIR ({self._runtime.path}) is full"
        if imported:
            named = self._environ.get("GPUQUEUE_APP")
            raise RunnerRefuses(
                f"GPUQUEUE_APP={named!r} ended its process with exit code {status} when it was"
                f" imported; {log}",
                "application",
            )
        raise RunnerAway(f"the runner ended at its start with exit code {status}; {log}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        # It may be gone: nothing in it was used for long.
        prepare(self._runtime.path.parent, self._runtime.path.name)
        with self._runtime.log.open("ab") as log:
            started = subprocess.Popen(
                self._command,
                env={**self._environ, ROOM: " " * ROOM_BYTES, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # It is reaped when it ends, long after.
        threading.Thread(target=started.wait, name="gpuqueue-runner-end", daemon=True).start()
        return started

    def _read(self, connection: socket.socket) -> None:
        lines = wire.Lines()
        try:
            while data := connection.recv(1 << 20):
                for message in lines.feed(data):
                    self._take(message)
        except OSError:
            pass  # it has ended
        except Exception as exc:
            logger.error(
                "the runner of %s said what is no message: %s: %s",
                self._runtime.path,
                type(exc).__name__,
                exc,
                extra={"action": "runner_unread"},
            )
        self._drop(connection)
        for asked, answer in list(self._answers.values()):
            if asked is connection:
                with contextlib.suppress(Exception):
                    answer.set_exception(ConnectionError("its connection is closed"))
        connection.close()
        if self._wanted() and not self._closed:
            with contextlib.suppress(GpuQueueError, OSError):
                self._connected()

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["is"] == "ended":
            self._on_ended(message)
        elif message["is"] == "hello":
            if (unsafe := message["unsafe"]) and unsafe != self._unsafe:
                logger.warning(
                    "executors are started, not forked: %s", unsafe, extra={"action": "spawns"}
                )
            self._unsafe = unsafe
            # No runner of an older version says it.
            if (problem := message.get("problem", "")) and problem != self._problem:
                logger.warning(
                    "jobs wait here for their application: %s",
                    problem,
                    extra={"action": "not_imported"},
                )
            self._problem = problem
            if (profile := Profile.parse(message.get("profile"))) is not None:
                self._on_profile(profile)
        elif (asked := self._answers.get(message["nonce"])) is not None:
            asked[1].set_result(message)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
