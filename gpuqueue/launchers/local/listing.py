"""What the runtime directories of this machine tell of its attempts, of all runners.

Never here: conclusions from a missing file. A process runs as long as its start time says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpuqueue.launchers.local import cgroup
from gpuqueue.launchers.local.identity import Instance, Process
from gpuqueue.launchers.local.marked import end_marked
from gpuqueue.launchers.local.runtime import Runtime, all_of, read
from gpuqueue.model.attempt import Attempt, LiveAttempt
from gpuqueue.model.executor_env import FINISHER, parse_record


class Listing:
    """The attempts of one Redis in all runtime directories.

    Args:
        base: the directory of the runtime directories.
        url: the address of the Redis.
    """

    def __init__(self, base: Path, url: str) -> None:
        self._base = base
        self._url = url

    def live(self) -> list[LiveAttempt]:
        """Return the attempts that run."""
        found = []
        for content in self._attempts():
            variables = content["variables"]
            if FINISHER in variables or variables.get("GPUQUEUE_REDIS_URL") != self._url:
                continue
            with contextlib.suppress(KeyError, ValueError):
                instance = Instance.parse(content["instance"])
                if instance.process.is_here and instance.process.runs:
                    found.append(LiveAttempt.of(parse_record(variables), str(instance)))
        return found

    def instances(self) -> list[Instance]:
        """Return what runs, finishers included."""
        found = []
        for content in self._attempts():
            if content["variables"].get("GPUQUEUE_REDIS_URL") == self._url:
                with contextlib.suppress(ValueError):
                    found.append(Instance.parse(content["instance"]))
        return found

    def find(self, nonce: str) -> Instance | None:
        """Return the instance of an attempt that has not ended."""
        for content in self._contents(nonce):
            with contextlib.suppress(ValueError):
                return Instance.parse(content["instance"])
        return None

    def variables(self, nonce: str) -> dict[str, str]:
        """Return what describes the attempt that a process runs; empty if it is not known."""
        for content in self._contents(nonce):
            found: dict[str, str] = content["variables"]
            return found
        return {}

    def holder(self, nonce: str) -> str:
        """Return the name of the attempt that a process runs; empty if it is not known."""
        with contextlib.suppress(KeyError, ValueError):
            return Attempt.of(parse_record(self.variables(nonce))).holder
        return ""

    def is_being_ended(self, instance: Instance) -> bool:
        """Whether something that a process has left may still run. Where no runner cares for that,
        it is ended here.
        """
        for runtime in all_of(self._base):
            content = read(runtime.attempt(instance.nonce))
            if content is None or content["instance"] != str(instance):
                continue
            if _lives(content.get("runner")) or runtime.has_runner:
                return True
            group = cgroup.named(content.get("cgroup"), instance.nonce)
            if group:
                cgroup.kill(group)
            if end_marked(instance.nonce, instance.process.pid):
                return True
            if group and not cgroup.is_empty(group):
                return True
            runtime.attempt(instance.nonce).unlink(missing_ok=True)
        return False

    def status(self, instance: Instance) -> int | None:
        """Return the exit status of a process that has ended; None if no runner has seen it."""
        for runtime in all_of(self._base):
            content = read(runtime.end(instance.nonce))
            if content is not None and content["instance"] == str(instance):
                code: int | None = content["code"]
                return code
        return None

    def _contents(self, nonce: str) -> Iterator[dict[str, Any]]:
        for runtime in all_of(self._base):
            if (content := read(runtime.attempt(nonce))) is not None:
                yield content

    def _attempts(self) -> Iterator[dict[str, Any]]:
        for runtime in all_of(self._base):
            for _, content in _safely(runtime):
                yield content


def _safely(runtime: Runtime) -> list[tuple[str, dict[str, Any]]]:
    with contextlib.suppress(OSError):
        return list(runtime.attempts())
    return []


def _lives(runner: dict[str, Any] | None) -> bool:
    with contextlib.suppress(TypeError):
        return bool(runner) and Process(**(runner or {})).runs
    return False
