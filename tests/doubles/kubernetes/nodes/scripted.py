"""The runtime that runs no process: a container is a timer, set by the annotations of its pod.

- ``double.gpuqueue.io/seconds``: the time until the container ends, in real seconds; endless if
  unset.
- ``double.gpuqueue.io/exit``: the exit code, default 0.
- ``double.gpuqueue.io/message``: the termination message.
- ``double.gpuqueue.io/ignores-sigterm``: if ``true``, only SIGKILL ends the container.
"""

from __future__ import annotations

import signal

from tests.doubles.kubernetes.engine.loop import KUBELET, Engine
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle, OnExit, Task

SECONDS, EXIT, MESSAGE = (
    "double.gpuqueue.io/seconds",
    "double.gpuqueue.io/exit",
    "double.gpuqueue.io/message",
)
IGNORES_SIGTERM = "double.gpuqueue.io/ignores-sigterm"


class ScriptedHandle:
    """A container that is a timer."""

    def __init__(self, engine: Engine, task: Task, on_exit: OnExit) -> None:
        self._on_exit: OnExit | None = on_exit
        self._message = task.annotations.get(MESSAGE, "")
        self._ignores_sigterm = task.annotations.get(IGNORES_SIGTERM) == "true"
        self.oom = False
        seconds = task.annotations.get(SECONDS)
        code = int(task.annotations.get(EXIT, "0"))
        self._timer = (
            None
            if seconds is None
            else engine.after_exactly(KUBELET, float(seconds), lambda: self._end(code))
        )

    def signal(self, number: int) -> None:
        """End the container, unless it ignores this signal."""
        if number == signal.SIGKILL or not self._ignores_sigterm:
            self._end(128 + number)

    def pids(self) -> list[int]:
        """Return no process."""
        return []

    def _end(self, code: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None:
            on_exit(Exit(code, self._message, "OOMKilled" if self.oom else ""))


class ScriptedRuntime:
    """Runs containers as timers."""

    quick = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(self, task: Task, on_exit: OnExit) -> Handle:
        """Start a timer."""
        return ScriptedHandle(self._engine, task, on_exit)

    def close(self) -> None:
        """Kill nothing: there is no process."""
