"""One run of a Redis server, from fork to reaping, bound to the life of its owner.

On Linux the server dies with its owner, even if SIGKILL ends the owner: the kernel sends the server
SIGTERM (PR_SET_PDEATHSIG). The kernel does so when the *thread* that started the server ends, so a
dedicated thread starts the server and waits for its end. On other systems only an ordinary exit of
the owner stops the server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpuqueue.errors import EmbeddedRedisFailed

HOST = "127.0.0.1"
START_SECONDS = 10.0  # loading a large append-only file included
STOP_SECONDS = 5.0  # for SIGTERM, which writes out the append-only file; then SIGKILL
PROBE_SECONDS = 1.0
LOG_TAIL_BYTES = 2000

# Runs in the new process, which then becomes the server: the death signal survives exec, and
# setting it here instead of in a preexec_fn keeps the owner free to have threads. A changed parent
# shows that the owner died before the call. The server inherits the lock, which ends with it: two
# servers would ruin one append-only file. The process waits for the lock (the owner bounds the
# wait), since the server of a killed owner needs a moment to end.
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


class RedisProcess:
    """A server process in ``directory``, listening on ``port``; its output is in ``redis.log``."""

    def __init__(self, server: Path, directory: Path, port: int) -> None:
        self.port = port
        self.ended = threading.Event()
        self._log = directory / "redis.log"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        started: Future[subprocess.Popen[bytes]] = Future()
        become = [sys.executable, "-I", "-S", "-c", _BECOME_SERVER, str(os.getpid())]
        threading.Thread(
            target=self._run,
            args=([*become, str(server), *_options(port)], directory, started),
            name=f"embedded-redis-{port}",
            daemon=True,
        ).start()
        self.process = started.result()

    def _run(
        self, command: list[str], directory: Path, started: Future[subprocess.Popen[bytes]]
    ) -> None:
        try:
            with self._log.open("ab") as log:
                # In a new session: Ctrl-C in the terminal is for the owner, which still needs the
                # server to shut down.
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
        """Return True once the server answers, False if another process has its port.

        Raises EmbeddedRedisFailed if the server ends for another reason or starts too slowly.
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
        client = redis.Redis(
            host=HOST,
            port=self.port,
            socket_timeout=PROBE_SECONDS,
            socket_connect_timeout=PROBE_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.ping()
            # Another server that took the port before this one would answer a PING as well.
            return bool(client.info("server")["process_id"] == self.process.pid)
        except redis.RedisError:
            return False
        finally:
            client.close()

    def end(self, how: signal.Signals) -> None:
        """Send the signal; after STOP_SECONDS, SIGKILL."""
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
    """Paths are relative to the server's working directory, so that none has to be quoted.

    The server logs to its output.
    """
    words = f"--bind {HOST} --port {port} --protected-mode yes --daemonize no --dir ."
    durable = "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction"
    return [*words.split(), *durable.split(), "--save", "", "--logfile", ""]
