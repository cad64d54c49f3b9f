"""Redis, one dispatcher and Flower as child processes, for ``gpuqueue dev`` and the demo."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from gpuqueue.dev.children import Child
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dev.signals import uninterrupted
from gpuqueue.dev.sweep import sweep
from gpuqueue.errors import EmbeddedRedisFailed, GpuQueueError, SettingsError
from gpuqueue.model.redis_url import unix
from gpuqueue.store.client import RedisError, check, connect
from gpuqueue.store.clock import redis_time
from gpuqueue.store.reader import Reader

#: Seconds until the dispatcher, and then Flower, must be ready, on a cold disk and a busy laptop.
READY_SECONDS = 60.0
LOCALHOST = "127.0.0.1"


class ChildEnded(GpuQueueError):
    """A child process ended by itself: the text names it and quotes the end of its log."""


class Stack:
    """Redis, a dispatcher for one application, and Flower; a context manager.

    Args:
        app: the application that executors load: the argument of ``celery -A``.
        broker_url: the broker; None starts an embedded Redis in a temporary directory.
        flower_port: the port of Flower on 127.0.0.1; 0 chooses a free one; None starts no Flower.
        extra_env: environment of the children, over this process's.
        log_level: log level of the dispatcher, as for ``celery worker -l``.
        log_file: the file for the children's output; None for this process's output.
    """

    def __init__(
        self,
        app: str,
        *,
        broker_url: str | None = None,
        flower_port: int | None = None,
        extra_env: Mapping[str, str] | None = None,
        log_level: str = "info",
        log_file: Path | None = None,
    ) -> None:
        self.app = app
        self.flower_url: str | None = None
        #: Why the requested Flower is missing.
        self.flower_missing: str | None = None
        #: The number of executors that ``stop`` ended with their embedded Redis.
        self.stopped_jobs = 0
        self.env: dict[str, str] = {}
        self.dispatcher_name = f"dispatcher@{socket.gethostname()}"
        self._broker_url = broker_url
        self._flower_port = flower_port
        self._extra = dict(extra_env or {})
        self._log_level = log_level
        self._log_file = log_file
        self._redis: EmbeddedRedis | None = None
        self._dispatcher: Child | None = None
        self._flower: Child | None = None
        self._sweeper: Child | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def embedded(self) -> bool:
        """Whether Redis is embedded, and ends with this stack."""
        return self._broker_url is None or self._redis is not None

    @property
    def broker_url(self) -> str:
        """The broker's URL. Raises :class:`GpuQueueError` before ``start`` if it is embedded."""
        url = self._redis.url if self._redis else self._broker_url
        if not url:
            raise GpuQueueError("there is no Redis yet: start the stack first")
        return url

    @property
    def redis_url(self) -> str:
        """The URL of the queue's state."""
        return unix(self.env.get("GPUQUEUE_REDIS_URL") or self.broker_url)

    def start(self) -> None:
        """Start everything; return once the dispatcher is announced in Redis and Flower answers.

        Raises :class:`GpuQueueError` if Redis is unusable, a port is taken, or a child ended or is
        late. Then call ``stop``.
        """
        port = self._choose_port()
        if self._broker_url is None:
            self._redis = EmbeddedRedis().start()
        self.env = self._environment()
        client = connect(self.redis_url, timeout=5, retries=1)
        check(client, self.redis_url)
        since = redis_time(client)
        self._start_children(port)
        reader = Reader(client)
        self._wait("dispatcher", lambda: self.dispatcher_name in reader.dispatchers(since))
        if self._flower:
            self._wait("Flower", lambda: _answers(f"http://{LOCALHOST}:{port}/"))
            self.flower_url = f"http://{LOCALHOST}:{port}"
        client.close()

    def check(self) -> None:
        """Raise :class:`ChildEnded` if a child has ended by itself."""
        for child in (self._dispatcher, self._flower):
            if child and child.ended.is_set():
                said = child.tail()
                raise ChildEnded(
                    f"the {child.name} ended by itself with status {child.status}"
                    + (f"\n{said}" if said else "; see above")
                )
        if self._redis:
            try:
                _ = self._redis.pid
            except EmbeddedRedisFailed as exc:
                raise ChildEnded("the embedded Redis ended by itself") from exc

    def stop(self) -> None:
        """Stop Flower and the dispatcher, then an embedded Redis with its running jobs.

        With an external Redis running jobs continue, and the next dispatcher takes them over. May
        be repeated.
        """
        with uninterrupted():
            if self._flower:
                self._flower.stop(3)
            if self._dispatcher:
                self._dispatcher.stop(15)
            if self._redis and self.env:
                self.stopped_jobs += sweep(self.redis_url)
            if self._sweeper:
                self._sweeper.stop(10)
            if self._redis:
                self._redis.stop()
            self._flower = self._dispatcher = self._sweeper = self._redis = None

    # -- parts -------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        env = {
            **os.environ,
            **self._extra,
            "CELERY_BROKER_URL": self.broker_url,
            "GPUQUEUE_APP": self.app,
        }
        if self._redis:
            env.pop("GPUQUEUE_REDIS_URL", None)
            env["CELERY_RESULT_BACKEND"] = self.broker_url
        env.setdefault("CELERY_RESULT_BACKEND", self.broker_url)
        return env

    def _start_children(self, port: int | None) -> None:
        celery = [sys.executable, "-m", "celery", "-A", "gpuqueue"]
        # An embedded Redis ends with the owner: an orderly shutdown of these has no use, and could
        # take long.
        death = signal.SIGKILL if self._redis else signal.SIGTERM
        if self._redis:
            sweeper = [sys.executable, "-m", "gpuqueue.dev.sweep", self.redis_url]
            self._sweeper = Child(
                "sweeper", sweeper, self.env, log=self._log_file, death_signal=None, leash=True
            )
        else:  # other dispatchers may use the same broker: the name must be unique
            self.dispatcher_name = f"dispatcher-{os.getpid()}@{socket.gethostname()}"
        worker = [*celery, "worker", "-n", self.dispatcher_name, "-l", self._log_level]
        self._dispatcher = Child(
            "dispatcher", worker, self.env, log=self._log_file, death_signal=death
        )
        if port is not None:
            env = {**self.env, "FLOWER_UNAUTHENTICATED_API": "true"}  # bound to localhost only
            command = [
                *celery,
                "--quiet",
                "flower",
                f"--address={LOCALHOST}",
                f"--port={port}",
                "--logging=error",
            ]
            self._flower = Child("Flower", command, env, log=self._log_file, death_signal=death)

    def _choose_port(self) -> int | None:
        if self._flower_port is None:
            return None
        if importlib.util.find_spec("flower") is None:
            self.flower_missing = "Flower is not installed; pip install 'gpuqueue[flower]'"
            return None
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Flower does
            try:
                probe.bind((LOCALHOST, self._flower_port))
            except OSError as exc:
                raise SettingsError(
                    f"port={self._flower_port} for Flower cannot be used: {exc.strerror}; choose"
                    " another with --port"
                ) from None
            port: int = probe.getsockname()[1]
            return port

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.check()
            try:
                if ready():
                    return
            except RedisError:
                # check() reports an embedded Redis that ended; an external one may come back.
                pass
            if time.monotonic() > deadline:
                raise GpuQueueError(
                    f"the {what} was not ready within {READY_SECONDS:.0f} s; see its log"
                )
            time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
