"""One side of the comparison: a Redis, the suites' own worker, and on the side of GPU queues a
dispatcher beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.celery_suite.plugin import EVENTS, LIMIT
from tests.celery_suite.routes import GPU, QUEUE, SIDE, SLOTS
from tests.support.nodes import WorkerNode, redis_node, worker_node
from tests.support.runners import end_runners

#: Seconds beyond the limit of one test in which nothing happens, until the process is killed.
SILENCE = 60.0
#: The worst of its reports is the outcome of a test.
WORST = ("failed", "xpassed", "xfailed", "skipped", "passed")
DIED = "the process of pytest died"


class SuiteFailed(Exception):
    """The suites cannot run at all."""


@dataclass
class Outcome:
    """What became of one test: a word of WORST, seconds, and the text of a failure."""

    outcome: str = "passed"
    seconds: float = 0.0
    text: str = ""

    def add(self, outcome: str, seconds: float, text: str) -> None:
        """Take the report of a phase or of a subtest."""
        self.seconds += seconds
        if WORST.index(outcome) < WORST.index(self.outcome):
            self.outcome, self.text = outcome, text

    @property
    def is_good(self) -> bool:
        """Say if the suite counts it as no failure; an unexpected pass that it does not allow is
        reported as a failure.
        """
        return self.outcome != "failed"


class Side:
    """A side that runs tests, one process of pytest after the other; a context manager."""

    def __init__(self, name: str, folder: Path, packages: Path, directory: Path, limit: float):
        self.name, self._folder, self._directory, self._limit = name, folder, directory, limit
        directory.mkdir()
        self._redis = redis_node(directory / "redis")
        self._dispatcher: WorkerNode | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._runs = 0
        redis = self._redis.container
        self._env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (folder, packages))),
            "REDIS_HOST": redis.hostname,
            "REDIS_PORT": str(redis.port),
            "TEST_BROKER": redis.url,
            "TEST_BACKEND": redis.url,
            "WORKER_LOGLEVEL": "INFO",  # the tests of its log need it
            SIDE: name,
            LIMIT: str(limit),
        }

    def __enter__(self) -> Side:
        if self.name == GPU:
            url = self._redis.container.url
            env = {
                **self._env,
                "CELERY_BROKER_URL": url,
                "GPUQUEUE_APP": "tests.celery_suite.app",
                "GPUQUEUE_DEVICES": "none",
                "GPUQUEUE_METRICS_PORT": "0",
                # The suites compare states: those of a Celery worker.
                "GPUQUEUE_STATES": "celery",
                "T4_SHARED_SLOTS": str(SLOTS),
            }
            arguments = ["-A", "gpuqueue", "worker", "-P", "threads", "-Q", QUEUE]
            node = worker_node("dispatcher", arguments, env, self._directory, None)
            self._dispatcher = node.start()
            node.ready()
        return self

    def __exit__(self, *_: object) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stop()
            end_runners(self._redis.container.url)
        self._redis.teardown()

    def end(self) -> None:
        """End the run in progress, which another thread waits for."""
        self._is_over = True
        if self._process is not None:
            _kill(self._process)

    def run(self, tests: Iterable[str]) -> dict[str, Outcome]:
        """Run files or tests, in their order; returns node id → outcome."""
        found: dict[str, Outcome] = {}
        left = list(tests)
        while left:
            events = self._pytest(left)
            collected = next((each["collected"] for each in events if "collected" in each), None)
            ended = {each["ended"] for each in events if "ended" in each}
            if self._is_over:
                raise SuiteFailed("the run was ended")
            if collected is None and not ended:
                raise SuiteFailed(f"pytest collected nothing:\n{self._log().read_text()[-4000:]}")
            for each in events:
                if "test" in each and each["test"] in ended:
                    outcome = found.setdefault(each["test"], Outcome())
                    outcome.add(each["outcome"], each["seconds"], each["text"])
            left = [each for each in collected or () if each not in ended]
            if left:
                began = [each["began"] for each in events if "began" in each]
                if not began or began[-1] in ended:
                    raise SuiteFailed(f"pytest died between tests:\n{self._log().read_text()}")
                found[began[-1]] = Outcome("failed", self._limit, DIED)
                left.remove(began[-1])
        return found

    def _log(self) -> Path:
        return self._directory / f"pytest-{self._runs}.log"

    def _pytest(self, tests: list[str]) -> list[dict[str, Any]]:
        """Run one process to its end; returns its events."""
        self._runs += 1
        events = self._directory / f"events-{self._runs}"
        events.touch()
        chosen = self._directory / f"tests-{self._runs}"
        chosen.write_text("\n".join(tests) + "\n")
        plugins = ["-p", "tests.celery_suite.plugin", "-p", "no:valkey", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", *plugins, f"@{chosen}"]
        with self._log().open("wb") as log:
            process = self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, **self._env, EVENTS: str(events)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            while process.poll() is None:
                try:
                    process.wait(1)
                except subprocess.TimeoutExpired:
                    if time.time() - events.stat().st_mtime > self._limit + SILENCE:
                        break
        finally:
            _kill(process)
            process.wait()
        return [json.loads(line) for line in events.read_text().splitlines()]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with the pool of its worker."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
