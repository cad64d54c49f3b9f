"""The attempts of a runner: start each, notice its end, and keep the end until it is written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from gpuqueue.launchers.local import cgroup
from gpuqueue.launchers.local.identity import Instance, Process
from gpuqueue.launchers.local.marked import end_marked
from gpuqueue.launchers.local.runtime import Runtime, read
from gpuqueue.model.executor_env import FINISHER, INSTANCE
from gpuqueue.runner import child, safety
from gpuqueue.runner.descendants import Strays, is_tracker
from gpuqueue.runner.running import Ended, Running

logger = logging.getLogger(__name__)
_NEW = os.O_CREAT | os.O_CLOEXEC
#: No process is described in more bytes.
_LONGEST = Process("0" * 128, 1 << 32, "0" * 32)


class Attempts:
    """Starts and reaps attempts. For one thread.

    Args:
        runtime: where their files are.
        selector: gets the pidfd of each attempt, with its nonce as data.
        environ: the environment that this runner was started with.
        why_spawn: why attempts are spawned; empty: they are forked.
        command: what a spawned attempt runs; empty: the executor.
        private: more descriptors that no attempt may have.
    """

    def __init__(
        self,
        runtime: Runtime,
        selector: selectors.BaseSelector,
        environ: Mapping[str, str],
        why_spawn: str = "",
        command: Sequence[str] = (),
        private: Iterable[int] = (),
    ) -> None:
        self._runtime = runtime
        self._selector = selector
        self._environ = environ
        self._why_spawn = why_spawn
        self._command = tuple(command) or child.SPAWNED
        self._private = list(private)
        self._host = socket.gethostname()
        self._me = Process.of(os.getpid())
        self._described = asdict(self._me) if self._me else None
        self._running: dict[str, Running] = {}
        self._over: list[str] = []
        self._strays = Strays()
        self._cgroups = cgroup.own()
        cgroup.remove_empty(self._cgroups)
        child.adopt_orphans()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, nonce: str, variables: Mapping[str, str]) -> str:
        """Start an attempt and return its instance. May be repeated: the answer of an earlier
        runner may be lost. Raises OSError.
        """
        if (known := self._running.get(nonce)) is not None:
            return str(known.instance)
        spawned = bool(self._why_spawn or safety.unsafe())
        output = os.open(self._runtime.output(nonce), _NEW | os.O_WRONLY | os.O_APPEND, 0o600)
        held = -1
        try:
            held = os.open(self._runtime.attempt(nonce), _NEW | os.O_RDWR, 0o600)
            # The process inherits the lock, and holds it to its end.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            private = [*(key.fd for key in self._selector.get_map().values()), *self._private]
            group = cgroup.make(self._cgroups, nonce)
            about = self._about(variables, group)
            run = partial(self._run, nonce, held, variables, about, group, spawned)
            try:
                reserve(held, len(about(self._instance(nonce, _LONGEST))))
                pid = child.fork(run, close=private, output=output)
            except OSError:
                for path in (self._runtime.attempt(nonce), self._runtime.output(nonce)):
                    path.unlink(missing_ok=True)
                cgroup.remove_empty(self._cgroups)
                raise
            process = Process.of(pid)
            # So does the new process, which may outlive this one, and have gone on by now.
            if process is not None and not os.pread(held, 1, 0).strip():
                os.pwrite(held, about(self._instance(nonce, process)), 0)
        finally:
            os.close(output)
            if held >= 0:
                os.close(held)
        if process is None:  # it has ended by now: its end is read below
            process = Process(self._me.machine if self._me else "", pid, "0")
        instance = self._instance(nonce, process)
        self._note(nonce, instance, variables, group, ours=True)
        return str(instance)

    def _instance(self, nonce: str, process: Process) -> Instance:
        return Instance(self._host, nonce, process)

    def _run(
        self,
        nonce: str,
        held: int,
        variables: Mapping[str, str],
        about: Callable[[Instance], bytes],
        group: Path | None,
        spawned: bool,
    ) -> None:
        """In the new process: note which it is, and become the executor."""
        cgroup.enter(group)
        process = Process.of(os.getpid())
        assert process is not None, "this process runs"
        instance = self._instance(nonce, process)
        os.pwrite(held, about(instance), 0)
        # The executor adds its pid.
        named = {**variables, INSTANCE: str(instance).rpartition(":")[0]}
        if spawned:
            os.set_inheritable(held, True)
            os.execve(self._command[0], self._command, {**self._environ, **named})
        child.show_environment(named)
        for name, value in named.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        from gpuqueue.executor import main as executor

        executor.run()

    def _about(
        self, variables: Mapping[str, str], group: Path | None
    ) -> Callable[[Instance], bytes]:
        """Return what makes the content of the file of an attempt: its process adds little."""
        known: dict[str, Any] = {"variables": dict(variables), "runner": self._described}
        if group:
            known["cgroup"] = str(group)
        rest = json.dumps(known)[1:].encode()

        def about(instance: Instance) -> bytes:
            return b'{"instance": %s, %s' % (json.dumps(str(instance)).encode(), rest)

        return about

    def _note(
        self,
        nonce: str,
        instance: Instance,
        variables: Mapping[str, str],
        group: Path | None,
        *,
        ours: bool,
    ) -> None:
        pidfd = os.pidfd_open(instance.process.pid) if hasattr(os, "pidfd_open") else -1
        self._running[nonce] = Running(instance, pidfd, ours, variables, group)
        if pidfd >= 0:
            self._selector.register(pidfd, selectors.EVENT_READ, nonce)

    def adopt(self) -> Iterator[Ended]:
        """Take over the attempts whose runner has died. Yields those that have ended."""
        for nonce, content in list(self._runtime.attempts()):
            runner = content.get("runner")
            if nonce in self._running or (runner and Process(**runner).runs):
                continue
            group = cgroup.named(content.get("cgroup"), nonce)
            with contextlib.suppress(ValueError, ProcessLookupError):
                instance = Instance.parse(content["instance"])
                if instance.process.runs:
                    self._note(nonce, instance, content["variables"], group, ours=False)
                    continue
            if group:
                cgroup.kill(group)
                cgroup.is_empty(group)
            end_marked(nonce)
            # Its runner may have died while it noted the end.
            code = content.get("code")
            yield self._end(Ended(nonce, content["instance"], code, content["variables"]))

    def end_headless(self) -> None:
        """Kill what is left of each process whose main thread has ended alone, as a sandbox or
        native code can do: it runs no code of Python, and no pidfd tells.
        """
        for each in self._running.values():
            if each.ours and not (each.reaped or each.instance.process.runs):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.instance.process.pid, signal.SIGKILL)

    def exited(self, nonce: str) -> None:
        """Note that the process of an attempt has ended."""
        self._selector.unregister(self._running[nonce].pidfd)
        self._over.append(nonce)

    @property
    def polled(self) -> bool:
        """Whether the ends of attempts must be polled: the system has no pidfds."""
        return any(each.pidfd < 0 for each in self._running.values())

    def poll(self) -> None:
        """Look which of those have ended."""
        for nonce, each in self._running.items():
            if each.pidfd < 0 and nonce not in self._over and not each.instance.process.runs:
                self._over.append(nonce)

    def reap(self) -> Iterator[Ended]:
        """Yield the ends of attempts of which nothing is left. Call it again soon if
        :attr:`reaping`.
        """
        for nonce in self._over:
            running = self._running[nonce]
            if running.ours and not running.reaped:
                running.code = child.reap(running.instance.process.pid)
                running.reaped = True
            if running.cgroup and not any(map(is_tracker, cgroup.processes(running.cgroup))):
                cgroup.kill(running.cgroup)
        living = {each.instance.process.pid for each in self._running.values() if not each.reaped}
        left = self._strays.end(living, self._over)
        for nonce in [each for each in self._over if each not in left]:
            running = self._running[nonce]
            if not running.ours and end_marked(nonce, running.instance.process.pid):
                continue
            if running.cgroup and not cgroup.is_empty(running.cgroup):
                continue
            self._over.remove(nonce)
            del self._running[nonce]
            if running.pidfd >= 0:
                os.close(running.pidfd)
            # It may have gone on to another attempt.
            content = read(self._runtime.attempt(nonce))
            variables = content["variables"] if content else running.variables
            yield self._end(Ended(nonce, str(running.instance), running.code, variables))

    @property
    def reaping(self) -> bool:
        """Whether an attempt has ended, and what it left has not."""
        return bool(self._over)

    def _end(self, ended: Ended) -> Ended:
        try:
            if FINISHER in ended.variables:
                self._runtime.attempt(ended.nonce).unlink(missing_ok=True)
            else:
                self._runtime.keep_end(ended.nonce, ended.described())
        except OSError as exc:  # the dispatchers that are connected are told
            logger.error("the end of %s is not kept: %s", ended.instance, exc)
        return ended

    def unwritten(self) -> Iterator[Ended]:
        """Yield the ends that no dispatcher has written yet."""
        for nonce, content in self._runtime.ends():
            yield Ended(nonce, content["instance"], content["code"], content["variables"])


def reserve(held: int, size: int) -> None:
    """Write blanks into an open file, so that a full disk is known before a process starts. Raises
    OSError.
    """
    if os.pwrite(held, b" " * size, 0) < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
