"""The attempts of a runner: start each, notice its end, and keep the end until it is written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gpuqueue.executor import main as executor
from gpuqueue.launchers.local.identity import Instance, Process
from gpuqueue.launchers.local.runtime import Runtime, write
from gpuqueue.model.executor_env import INSTANCE
from gpuqueue.runner import child, safety
from gpuqueue.runner.descendants import Strays, end_session

#: What a spawned attempt runs.
COMMAND = (sys.executable, "-m", "gpuqueue.executor")

_NEW = os.O_CREAT | os.O_CLOEXEC


@dataclass(slots=True)
class Running:
    """One attempt that runs. ``ours``: this runner started it, and can read how it ends."""

    instance: Instance
    pidfd: int
    ours: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended: ``code`` as :mod:`subprocess` has it, None if it is unknown."""

    nonce: str
    instance: str
    code: int | None


class Attempts:
    """Starts and reaps attempts. For one thread, on Linux.

    Args:
        runtime: where their files are.
        selector: gets the pidfd of each attempt, with its nonce as data.
        why_spawn: why attempts are spawned; empty: they are forked.
    """

    def __init__(
        self, runtime: Runtime, selector: selectors.BaseSelector, why_spawn: str = ""
    ) -> None:
        self._runtime = runtime
        self._selector = selector
        self._why_spawn = why_spawn
        self._running: dict[str, Running] = {}
        self._over: list[str] = []
        self._strays = Strays()
        child.adopt_orphans()
        self._adopt()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, nonce: str, environ: Mapping[str, str]) -> str:
        """Start an attempt and return its instance. Raises OSError."""
        spawned = bool(self._why_spawn or safety.unsafe())
        output = os.open(self._runtime.output(nonce), _NEW | os.O_WRONLY | os.O_APPEND, 0o600)
        held = os.open(self._runtime.attempt(nonce), _NEW | os.O_RDWR, 0o600)
        try:
            # The process inherits the lock, and holds it to its end.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pid = os.fork()
            if not pid:
                child.become(
                    lambda: self._run(nonce, held, spawned),
                    environ=environ,
                    close=[key.fd for key in self._selector.get_map().values()],
                    output=output,
                )
            process = Process.of(pid)
        finally:
            os.close(output)
            os.close(held)
        if process is None:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._runtime.attempt(nonce).unlink(missing_ok=True)
            raise ChildProcessError(f"its process ended at its start with exit code {code}")
        instance = Instance(socket.gethostname(), nonce, process)
        self._note(nonce, instance, ours=True)
        return str(instance)

    @staticmethod
    def _run(nonce: str, held: int, spawned: bool) -> None:
        process = Process.of(os.getpid())
        assert process is not None, "this process runs"
        instance = str(Instance(socket.gethostname(), nonce, process))
        os.pwrite(held, json.dumps({"instance": instance}).encode(), 0)
        # The executor adds its pid.
        os.environ[INSTANCE] = instance.rpartition(":")[0]
        if spawned:
            os.set_inheritable(held, True)
            os.execve(COMMAND[0], COMMAND, os.environ)
        executor.run()

    def _note(self, nonce: str, instance: Instance, *, ours: bool) -> None:
        pidfd = os.pidfd_open(instance.process.pid)
        self._running[nonce] = Running(instance, pidfd, ours)
        self._selector.register(pidfd, selectors.EVENT_READ, nonce)

    def _adopt(self) -> None:
        """Find the attempts of an earlier runner."""
        for nonce, content in self._runtime.attempts():
            with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
                instance = Instance.parse(content["instance"])
                if instance.process.runs:
                    self._note(nonce, instance, ours=False)
                    continue
            self._end(Ended(nonce, content.get("instance", ""), None))

    def signal(self, nonce: str, name: str) -> bool:
        """Send a signal to an attempt; return False if it is gone."""
        running = self._running.get(nonce)
        if running is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(running.pidfd, signal.Signals[f"SIG{name}"])
        return True

    def exited(self, nonce: str) -> None:
        """Note that the process of an attempt has ended."""
        self._selector.unregister(self._running[nonce].pidfd)
        self._over.append(nonce)

    def reap(self) -> Iterator[Ended]:
        """Yield the ends of attempts of which nothing is left. Call it again soon if
        :attr:`reaping`.
        """
        living = {each.instance.process.pid for each in self._running.values()}
        if not self._strays.end(living):
            return
        for nonce in self._over:
            running = self._running.pop(nonce)
            os.close(running.pidfd)
            pid = running.instance.process.pid
            code = None
            if running.ours:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            else:
                end_session(pid)
            yield self._end(Ended(nonce, str(running.instance), code))
        self._over.clear()

    @property
    def reaping(self) -> bool:
        """Whether an attempt has ended, and what it left has not."""
        return bool(self._over)

    def _end(self, ended: Ended) -> Ended:
        write(self._runtime.end(ended.nonce), {"instance": ended.instance, "code": ended.code})
        self._runtime.attempt(ended.nonce).unlink(missing_ok=True)
        return ended

    def unwritten(self) -> Iterator[Ended]:
        """Yield the ends that no dispatcher has written yet."""
        for nonce, content in self._runtime.ends():
            yield Ended(nonce, content["instance"], content["code"])

    def written(self, nonce: str) -> None:
        """Forget an end."""
        self._runtime.end(nonce).unlink(missing_ok=True)
