"""Run the executor without a GPU, to finish a job in the code of its application."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late

from gpuqueue.launchers.base import LauncherClosed, LauncherUnavailable
from gpuqueue.launchers.local.identity import Instance
from gpuqueue.launchers.local.output import Output
from gpuqueue.launchers.local.runner import Runner, RunnerAway, RunnerRefuses
from gpuqueue.launchers.local.runtime import Runtime
from gpuqueue.model.ends import EXIT_NO_APPLICATION
from gpuqueue.model.executor_env import FINISHER

#: Seconds that the end of a finisher may take to be told.
TOLD_WITHIN = 10.0
#: What hides the GPUs of this machine from a process.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class Finishes:
    """The finishers that this process has started, and waits for. Thread-safe.

    Args:
        runner: starts them.
        runtime: the directory of the runner.
        output: shows what they print.
    """

    def __init__(self, runner: Runner, runtime: Runtime, output: Output) -> None:
        self._runner = runner
        self._runtime = runtime
        self._output = output
        self._waiting: dict[str, Future[int | None]] = {}
        self._closed = threading.Event()

    def run(self, delivery: str, variables: Mapping[str, str], timeout: float) -> int | None:
        """Run one; return its exit status, or None after the timeout. See
        :meth:`gpuqueue.launchers.base.Launcher.finish` for what it raises.
        """
        nonce, ended = secrets.token_hex(8), Future[int | None]()
        self._waiting[nonce] = ended
        deadline = time.monotonic() + timeout
        self._output.follow(nonce, f"{delivery} finish", self._runtime.output(nonce))
        try:
            instance = self._runner.start(nonce, {**variables, **NO_GPU})
            return self._wait(Instance.parse(instance), ended, deadline)
        except RunnerRefuses as exc:
            if exc.kind == "application":
                return EXIT_NO_APPLICATION
            raise OSError(str(exc)) from exc
        except RunnerAway as exc:
            if self._closed.is_set():
                raise LauncherClosed from exc
            raise LauncherUnavailable(str(exc)) from exc
        finally:
            self._output.ended(nonce)
            self._waiting.pop(nonce, None)

    def _wait(self, instance: Instance, ended: Future[int | None], deadline: float) -> int | None:
        while not self._closed.is_set():
            with contextlib.suppress(Late):
                return ended.result(min(1.0, max(0.0, deadline - time.monotonic())))
            late = time.monotonic() >= deadline
            if late:
                instance.process.signal("KILL")
            if late or not instance.process.runs:  # its runner tells its end, or has died
                with contextlib.suppress(Late):
                    status = ended.result(TOLD_WITHIN)
                    return None if late else status
                return None
        raise LauncherClosed

    def take(self, nonce: str, variables: Mapping[str, str], code: int | None) -> bool:
        """Take an end; return False if it is that of an attempt."""
        if (waiting := self._waiting.get(nonce)) is not None:
            waiting.set_result(code)
        return FINISHER in variables

    def close(self) -> None:
        """Wait no more. The finishers go on."""
        self._closed.set()
