"""The dispatcher's side of the runner: find the runner of a runtime directory or start it, ask it
for attempts, and hear how they end.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any

from gpuqueue.errors import GpuQueueError
from gpuqueue.launchers.local import wire
from gpuqueue.launchers.local.runtime import Runtime

logger = logging.getLogger(__name__)
#: Seconds that a runner has to import the application and answer.
START = 120.0
#: Seconds that a runner has to answer a request.
ANSWER = 30.0
#: Seconds between two looks for a runner that starts.
LOOK = 0.02

#: Called with nonce, instance, and exit status (None: unknown) of each attempt that has ended.
OnEnded = Callable[[str, str, int | None], None]


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
        on_ended: told each end, from the reading thread. An end is told again until ``written``.
    """

    def __init__(self, runtime: Runtime, environ: Mapping[str, str], on_ended: OnEnded) -> None:
        self._runtime = runtime
        self._environ = dict(environ)
        self._on_ended = on_ended
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._answers: dict[str, Future[Mapping[str, Any]]] = {}
        self._closed = False
        self.unsafe = ""

    def start(self, nonce: str, environ: Mapping[str, str]) -> str:
        """Start an attempt; return its instance. Raises :class:`RunnerRefuses`,
        :class:`RunnerAway`.
        """
        while True:
            answer = self._ask("start", nonce, env=dict(environ))
            if answer["is"] == "started":
                return str(answer["instance"])
            if answer["kind"] != "stale":
                raise RunnerRefuses(answer["why"], answer["kind"])
            logger.info("%s: a new runner starts", answer["why"], extra={"action": "runner_stale"})
            self._disconnect()

    def signal(self, nonce: str, name: str) -> bool:
        """Send a signal to an attempt. Returns whether it runs. Raises :class:`RunnerAway`."""
        return bool(self._ask("signal", nonce, signal=name)["runs"])

    def written(self, nonce: str) -> None:
        """The end of an attempt is in Redis: the runner may forget it."""
        with contextlib.suppress(OSError, RunnerAway):
            self._connected().sendall(wire.encode("written", nonce=nonce))

    def connect(self) -> None:
        """Connect, and start a runner if there is none, so that ends are told. Raises
        :class:`RunnerAway`.
        """
        self._connected()

    def close(self) -> None:
        """Leave the runner. Its attempts go on."""
        self._closed = True
        self._disconnect()

    def _ask(self, word: str, nonce: str, **fields: Any) -> Mapping[str, Any]:
        answer: Future[Mapping[str, Any]] = Future()
        self._answers[nonce] = answer
        try:
            self._connected().sendall(wire.encode(word, nonce=nonce, **fields))
            return answer.result(ANSWER)
        except (OSError, Late) as exc:
            self._disconnect()
            raise RunnerAway(f"the runner of {self._runtime.path} does not answer: {exc}") from exc
        finally:
            self._answers.pop(nonce, None)

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
        deadline, started = time.monotonic() + START, None
        while time.monotonic() < deadline and not self._closed:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._runtime.socket))
                return connection
            except OSError:
                connection.close()
            # A second runner of the directory ends at once.
            if started is None or started.poll() is not None:
                started = self._spawn()
            time.sleep(LOOK)
        raise RunnerAway(
            f"the runner of {self._runtime.path} does not start; see {self._runtime.log}"
        )

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._runtime.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "gpuqueue.runner", str(self._runtime.path)],
                env={**self._environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _read(self, connection: socket.socket) -> None:
        lines = wire.Lines()
        with contextlib.suppress(OSError, wire.Malformed):
            while data := connection.recv(1 << 20):
                for message in lines.feed(data):
                    self._take(message)
        self._disconnect(connection)
        for answer in list(self._answers.values()):
            with contextlib.suppress(Exception):
                answer.set_exception(OSError("its connection is closed"))

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["is"] == "ended":
            self._on_ended(message["nonce"], message["instance"], message["code"])
        elif message["is"] == "hello":
            self.unsafe = message["unsafe"]
        elif (answer := self._answers.get(message["nonce"])) is not None:
            answer.set_result(message)

    def _disconnect(self, connection: socket.socket | None = None) -> None:
        with self._lock:
            if connection is None or connection is self._connection:
                connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
