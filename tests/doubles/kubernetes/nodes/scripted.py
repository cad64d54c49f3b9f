"""A runtime that only acts: a container runs for as long as its pod's annotations say, and costs a
timer.

- ``double.gpuqueue.io/seconds``: how long it runs, in real seconds; for ever without it.
- ``double.gpuqueue.io/exit``: its exit status then, 0 without it.
- ``double.gpuqueue.io/message``: its termination message.
- ``double.gpuqueue.io/ignores-sigterm``: ``true``: only SIGKILL ends it.
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
    """A container that is only a timer."""

    def __init__(self, engine: Engine, task: Task, on_exit: OnExit) -> None:
        self._on_exit: OnExit | None = on_exit
        self._message = task.annotations.get(MESSAGE, "")
        self._deaf = task.annotations.get(IGNORES_SIGTERM) == "true"
        self.oom = False
        seconds = task.annotations.get(SECONDS)
        code = int(task.annotations.get(EXIT, "0"))
        self._timer = (
            None
            if seconds is None
            else engine.after_exactly(KUBELET, float(seconds), lambda: self._end(code))
        )

    def signal(self, number: int) -> None:
        """See :class:`tests.doubles.kubernetes.nodes.runtime.Handle`."""
        if number == signal.SIGKILL or not self._deaf:
            self._end(128 + number)

    def pids(self) -> list[int]:
        """None: there is no process."""
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
        """See :class:`tests.doubles.kubernetes.nodes.runtime.Runtime`."""
        return ScriptedHandle(self._engine, task, on_exit)

    def close(self) -> None:
        """Nothing runs."""
