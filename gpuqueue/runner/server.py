"""The loop of a runner: dispatchers connect, ask for attempts, and hear how they end."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuqueue import __version__
from gpuqueue.launchers.local import wire
from gpuqueue.launchers.local.runtime import Runtime
from gpuqueue.runner.attempts import Attempts, Ended
from gpuqueue.runner.parent import Parent

logger = logging.getLogger(__name__)
#: Seconds without a dispatcher and an attempt after which a runner ends.
IDLE = 60.0
#: Seconds between two looks at what an ended attempt left, and at all else.
SOON, LATER = 0.002, 1.0


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
    """Serves the dispatchers of one runtime directory, whose lock the caller holds.

    Args:
        runtime: the directory.
        parent: the imported application.
    """

    def __init__(self, runtime: Runtime, parent: Parent) -> None:
        self._runtime = runtime
        self._parent = parent
        self._selector = selectors.DefaultSelector()
        self._dispatchers: dict[int, Dispatcher] = {}
        self._asked: dict[str, int] = {}
        self.stale = ""
        runtime.socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(runtime.socket))
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._attempts = Attempts(runtime, self._selector, parent.unsafe)

    def serve(self) -> None:
        """Serve until no dispatcher is connected and no attempt runs, for a while; or until the
        application has changed and the last attempt has ended.
        """
        idle_since = time.monotonic()
        while True:
            busy = bool(self._attempts) or bool(self._dispatchers and not self.stale)
            if busy:
                idle_since = time.monotonic()
            elif self.stale or time.monotonic() - idle_since >= IDLE:
                return
            for key, _ in self._selector.select(SOON if self._attempts.reaping else LATER):
                if isinstance(key.data, str):
                    self._attempts.exited(key.data)
                elif key.fileobj is self._listener:
                    self._welcome()
                else:
                    self._hear(self._dispatchers[key.fd])
            for ended in self._attempts.reap() if self._attempts.reaping else ():
                self._tell(ended)

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        if _user_of(connection) != os.getuid():
            connection.close()
            logger.warning("a process of another user was turned away")
            return
        dispatcher = self._dispatchers[connection.fileno()] = Dispatcher(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        dispatcher.say("hello", version=__version__, pid=os.getpid(), unsafe=self._parent.unsafe)
        for ended in self._attempts.unwritten():
            dispatcher.say("ended", nonce=ended.nonce, instance=ended.instance, code=ended.code)

    def _hear(self, dispatcher: Dispatcher) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = dispatcher.connection.recv(1 << 20)
        try:
            if not data:
                raise wire.Malformed("closed")
            for message in dispatcher.lines.feed(data):
                self._do(dispatcher, message)
        except (wire.Malformed, KeyError, TypeError) as exc:
            if data:
                logger.warning("a dispatcher sent what is no request: %s", exc)
            del self._dispatchers[dispatcher.connection.fileno()]
            self._selector.unregister(dispatcher.connection)
            dispatcher.connection.close()

    def _do(self, dispatcher: Dispatcher, message: Mapping[str, Any]) -> None:
        word, nonce = message["is"], message["nonce"]
        if word == "start":
            self._start(dispatcher, nonce, message["env"])
        elif word == "signal":
            dispatcher.say(
                "signalled", nonce=nonce, runs=self._attempts.signal(nonce, message["signal"])
            )
        elif word == "written":
            self._attempts.written(nonce)

    def _start(self, dispatcher: Dispatcher, nonce: str, environ: Mapping[str, str]) -> None:
        changed = self.stale or self._parent.changed()
        if changed:
            self._retire(changed)
            dispatcher.say("refused", nonce=nonce, why=f"{changed} has changed", kind="stale")
        elif self._parent.problem:
            dispatcher.say("refused", nonce=nonce, why=self._parent.problem, kind="application")
        else:
            try:
                instance = self._attempts.start(nonce, environ)
            except OSError as exc:
                dispatcher.say("refused", nonce=nonce, why=str(exc), kind="system")
                return
            self._asked[nonce] = dispatcher.connection.fileno()
            dispatcher.say("started", nonce=nonce, instance=instance)

    def _retire(self, changed: str) -> None:
        """Take no further attempt: the next dispatcher finds no runner here, and starts one."""
        if not self.stale:
            self.stale = changed
            self._runtime.socket.unlink(missing_ok=True)
            self._runtime.lock.unlink(missing_ok=True)

    def _tell(self, ended: Ended) -> None:
        """Tell the end to the dispatcher that asked for the attempt, or to the others. The file
        keeps it for the next one if none hears it.
        """
        asked = self._dispatchers.get(self._asked.pop(ended.nonce, -1))
        for each in [asked] if asked else list(self._dispatchers.values()):
            each.say("ended", nonce=ended.nonce, instance=ended.instance, code=ended.code)


def _user_of(connection: socket.socket) -> int:
    """Return the user of the process at the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()  # only the mode of the directory protects the socket
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")
