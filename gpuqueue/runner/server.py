"""The loop of a runner: dispatchers connect, ask for attempts, and hear how they end."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from gpuqueue import __version__
from gpuqueue.launchers.local import wire
from gpuqueue.launchers.local.peer import user_of
from gpuqueue.launchers.local.runtime import Runtime
from gpuqueue.runner import safety
from gpuqueue.runner.attempts import Attempts
from gpuqueue.runner.descendants import pause
from gpuqueue.runner.parent import Parent, be_ready
from gpuqueue.runner.running import Ended

logger = logging.getLogger(__name__)
#: Seconds without a dispatcher and an attempt after which a runner ends.
IDLE = 60.0
#: Seconds between two polls of processes on systems without pidfds, and between two looks at all
#: else.
POLL, LATER = 0.05, 1.0
#: Seconds between two looks for old files.
TIDY = 600.0
#: Bytes of an attempt's output after which its file begins again; as many before them are kept.
LONGEST_OUTPUT = 1 << 26
#: Seconds that a dispatcher may leave a message unread.
PATIENCE = 5.0


@dataclass
class Dispatcher:
    """One connected dispatcher."""

    connection: socket.socket
    lines: wire.Lines = field(default_factory=wire.Lines)

    def say(self, word: str, **fields: Any) -> bool:
        """Send one message; return False if the dispatcher is gone."""
        with contextlib.suppress(OSError):
            self.connection.sendall(wire.encode(word, **fields))
            return True
        return False


class Server:
    """Serves the dispatchers of one runtime directory.

    Args:
        runtime: the directory.
        parent: the imported application.
        environ: the environment that this process was started with.
        lock: the descriptor of the lock of the directory.
        command: what a spawned attempt runs; empty: the executor.
    """

    def __init__(
        self,
        runtime: Runtime,
        parent: Parent,
        environ: Mapping[str, str],
        *,
        lock: int,
        command: Sequence[str] = (),
    ) -> None:
        self._runtime = runtime
        self._parent = parent
        self._app = environ.get("GPUQUEUE_APP")
        self._selector = selectors.DefaultSelector()
        self._dispatchers: dict[int, Dispatcher] = {}
        self._asked: dict[str, int] = {}
        self._ready = False
        #: Why this runner starts no further attempt.
        self._stale = ""
        self.stopped_by = ""
        """The signal that has asked it to stop."""
        # A signal ends the wait of the selector.
        self._woken, waker = os.pipe()
        for end in (self._woken, waker):
            os.set_blocking(end, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        self._attempts = Attempts(
            runtime,
            self._selector,
            environ,
            parent.unsafe,
            command,
            [lock, waker, self._selector.fileno()],
        )
        for ended in self._attempts.adopt():
            self._tell(ended)
        runtime.socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(runtime.socket))
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until no dispatcher is connected and no attempt runs, for a while; or until the
        application has changed and the last attempt has ended.
        """
        idle_since = looked = reaping_since = time.monotonic()
        tidied = float("-inf")
        while True:
            now = time.monotonic()
            if self._attempts or (self._dispatchers and not self._stale):
                idle_since = now
            elif self._stale or now - idle_since >= IDLE:
                return
            if not self._attempts.reaping:
                reaping_since = now
            for key, _ in self._selector.select(self._pause(now - reaping_since)):
                if isinstance(key.data, str):
                    self._attempts.exited(key.data)
                elif key.fileobj is self._listener:
                    self._welcome()
                elif key.fd == self._woken:
                    os.read(self._woken, 4096)
                elif key.fd in self._dispatchers:
                    self._hear(self._dispatchers[key.fd])
            if now - looked >= LATER:
                looked = now
                self._runtime.rotate(LONGEST_OUTPUT)
                self._attempts.end_headless()
                for ended in self._attempts.adopt():
                    self._tell(ended)
            if now - tidied >= TIDY:
                tidied = now
                self._runtime.forget_old()
            self._attempts.poll()
            for ended in self._attempts.reap() if self._attempts.reaping else ():
                self._tell(ended)

    def _pause(self, reaping: float) -> float:
        if self._attempts.reaping:
            return pause(reaping)
        return POLL if self._attempts.polled else LATER

    def close(self) -> None:
        """Take no more dispatchers."""
        self._retire("it ends")
        for each in self._dispatchers.values():
            each.connection.close()

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = signal.Signals(number).name
        self._retire(f"the runner got {self.stopped_by}")

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        if user_of(connection) != os.getuid():
            connection.close()
            logger.warning("a process of another user was turned away")
            return
        connection.settimeout(PATIENCE)
        dispatcher = self._dispatchers[connection.fileno()] = Dispatcher(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        profile = self._parent.profile
        dispatcher.say(
            "hello",
            version=__version__,
            pid=os.getpid(),
            unsafe=self._parent.unsafe,
            problem=self._parent.problem,
            app=self._app,
            profile=profile.described() if profile else None,
        )
        for ended in self._attempts.unwritten():
            dispatcher.say("ended", nonce=ended.nonce, **ended.described())

    def _hear(self, dispatcher: Dispatcher) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = dispatcher.connection.recv(1 << 20)
        try:
            if not data:
                raise wire.Malformed("closed")
            for message in dispatcher.lines.feed(data):
                if message["is"] == "start":
                    self._start(dispatcher, message["nonce"], message["variables"])
        except (wire.Malformed, KeyError, TypeError) as exc:
            if data:
                logger.warning("a dispatcher sent what is no request: %s", exc)
            del self._dispatchers[dispatcher.connection.fileno()]
            self._selector.unregister(dispatcher.connection)
            dispatcher.connection.close()

    def _start(self, dispatcher: Dispatcher, nonce: str, variables: Mapping[str, str]) -> None:
        outdated = self._stale or self._parent.outdated()
        if outdated:
            self._retire(outdated)
            dispatcher.say("refused", nonce=nonce, why=outdated, kind="stale")
        elif self._parent.problem:
            dispatcher.say("refused", nonce=nonce, why=self._parent.problem, kind="application")
        else:
            try:
                instance = self._attempts.start(nonce, variables)
            except OSError as exc:
                dispatcher.say("refused", nonce=nonce, why=str(exc), kind="system")
                return
            self._asked[nonce] = dispatcher.connection.fileno()
            dispatcher.say("started", nonce=nonce, instance=instance)
            self._be_ready()

    def _be_ready(self) -> None:
        """Tell the application once. An executor that is spawned tells its own."""
        if not (self._ready or self._parent.unsafe):
            self._ready = True
            be_ready(self._app)
            if why := safety.unsafe():
                logger.warning(
                    "executors are started, not forked, since worker_ready was sent: %s", why
                )

    def _retire(self, why: str) -> None:
        """Take no further attempt: the next dispatcher finds no runner here, and starts one."""
        if not self._stale:
            self._stale = why
            self._runtime.socket.unlink(missing_ok=True)
            self._runtime.lock.unlink(missing_ok=True)

    def _tell(self, ended: Ended) -> None:
        """Tell the end to the dispatcher that asked for the attempt, or to the others. The file
        keeps it for the next one if none hears it.
        """
        asked = self._dispatchers.get(self._asked.pop(ended.nonce, -1))
        for each in [asked] if asked else list(self._dispatchers.values()):
            each.say("ended", nonce=ended.nonce, **ended.described())
