"""Dispatchers of several versions over one Redis, probed as a kubelet does, and a stream of jobs
that goes on meanwhile.
"""

from __future__ import annotations

import collections
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from celery.result import AsyncResult

import gpuqueue
from tests.support.crash_stack import CrashStack
from tests.support.endpoints import Endpoint, free_port
from tests.support.launching import ClusterLaunching
from tests.support.nodes import WorkerNode
from tests.support.waiting import PATIENCE, until

NEW = Path(gpuqueue.__file__).parent.parent
SHARED, EXCLUSIVE = "gpu.t4.shared", "gpu.t4.exclusive"
#: Seconds from SIGTERM in which a dispatcher is gone, where nothing it needs hangs.
SOON = 8.0


class Versions(CrashStack):
    """A stack of ``crashshop`` whose dispatchers, and the image of its executors, may have the
    gpuqueue of another version.

    Local executors have their dispatcher's.
    """

    def __init__(self, directory: Path, kind: str) -> None:
        super().__init__(directory, kind)
        self._apps = self.env["PYTHONPATH"]

    def image(self, code: Path) -> None:
        """Give the image of executors the gpuqueue that lies there."""
        if isinstance(self.launching, ClusterLaunching):
            self.launching._image_env["PYTHONPATH"] = self._path(code)
            self.launching.told({})

    def begin(
        self, name: str, code: Path = NEW, env: Mapping[str, str] | None = None
    ) -> WorkerNode:
        """Start a dispatcher; see :func:`ready`."""
        told = {
            "PYTHONPATH": self._path(code),
            "GPUQUEUE_METRICS_PORT": str(free_port()),
            **(env or {}),
        }
        node = self.dispatcher(
            name, env=told, arguments=("-Q", f"{SHARED},{EXCLUSIVE}"), ready=False
        )
        status, said = node.container.exec_run(
            [sys.executable, "-c", "import gpuqueue; print(gpuqueue.__path__[0])"]
        )
        assert (status, said.decode().strip()) == (0, str(code / "gpuqueue"))
        return node

    def ready(self, node: WorkerNode) -> None:
        """Wait until it is ready: by its endpoint, or by its log in the version without one."""
        if node.container.environment["PYTHONPATH"] == self._path(NEW):
            until(lambda: probe(node, "/readyz")[0] == 200, PATIENCE, f"{node.name()} is ready")
        else:
            node.ready()
            until(
                lambda: node.hostname() in self.reader.dispatchers(0),
                PATIENCE,
                f"{node.name()} has announced itself",
            )

    def _path(self, code: Path) -> str:
        return os.pathsep.join((str(code), self._apps))


def probe(node: WorkerNode, path: str) -> tuple[int, str]:
    """Ask a dispatcher as a kubelet does; 0: it does not answer."""
    try:
        return Endpoint(int(node.container.environment["GPUQUEUE_METRICS_PORT"])).ask(path)
    except OSError as exc:
        return 0, str(exc)


def leave(node: WorkerNode, within: float = SOON) -> float:
    """Tell a dispatcher to stop; answers how long it took, in seconds. It ends in order, and in
    time.
    """
    begun = time.monotonic()
    signalled = node.container._popen
    assert signalled is not None
    signalled.terminate()
    assert signalled.wait(within) == 0, node.logs()
    return time.monotonic() - begun


class Stream:
    """Jobs of all kinds, sent one after the other as long as it is entered; then :meth:`check`
    waits for them all.
    """

    def __init__(self, cluster: CrashStack, pause: float = 0.3) -> None:
        self._cluster = cluster
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream")
        self.sent: dict[int, AsyncResult[Any]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause):
            self.send(number)
            number += 1

    def send(self, number: int) -> None:
        """Send one: every third has an eta, every fifth is exclusive, every seventh asks for a
        retry.
        """
        options: dict[str, Any] = {
            "queue": EXCLUSIVE if number % 5 == 4 else SHARED,
            "priority": number % 2 * 3,
        }
        if number % 3 == 2:
            options["countdown"] = 0.5
        self.sent[number] = self._cluster.send(
            "again" if number % 7 == 6 else "work", number, **options
        )

    def check(self, within: float = 90.0) -> None:
        """See that every job has run once, its retry once more, and that its result is there."""
        wanted: collections.Counter[str] = collections.Counter()
        deadline = time.monotonic() + within
        for number, result in self.sent.items():
            assert result.get(timeout=max(0.1, deadline - time.monotonic())) == number * 2
            wanted.update(
                [f"try 0 of {number}", f"try 1 of {number}"]
                if number % 7 == 6
                else [f"ran {number}"]
            )
        until(self._cluster.is_idle, PATIENCE, "an idle queue")
        noted = collections.Counter(
            note for note in self._cluster.noted() if note.startswith(("ran", "try"))
        )
        assert noted == wanted
