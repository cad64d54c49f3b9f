"""Kills the process that takes a step: loaded by Python itself in dispatchers and executors of the
crash tests.

CRASH_AT names the step, ``module:Class.method:before`` or ``:after``; CRASH_MARK is a file made
once, so that only the first process to come there dies, and the repeated step goes through.
"""

import functools
import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def _die(mark: str) -> None:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(module: ModuleType, path: str, when: str, mark: str) -> None:
    *outer, name = path.split(".")
    owner: object = functools.reduce(getattr, outer, module)
    step: Callable[..., object] = getattr(owner, name)

    @functools.wraps(step)
    def killed(*args: object, **kwargs: object) -> object:
        if when == "before":
            _die(mark)
        answer = step(*args, **kwargs)
        if when == "after":
            _die(mark)
        return answer

    setattr(owner, name, killed)


class _Armed(importlib.abc.MetaPathFinder):
    """Arms the step when its module is first imported, so that other processes stay as they are."""

    def __init__(self, name: str, path: str, when: str, mark: str) -> None:
        self._name, self._rest, self._busy = name, (path, when, mark), False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name or self._busy:
            return None
        self._busy = True
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader  # find_spec made it for this module only
        inner, rest = loader.exec_module, self._rest

        def exec_module(module: ModuleType) -> None:
            inner(module)
            _arm(module, *rest)

        loader.exec_module = exec_module
        return spec


if "CRASH_AT" in os.environ:
    _module, _path, _when = os.environ["CRASH_AT"].split(":")
    sys.meta_path.insert(0, _Armed(_module, _path, _when, os.environ["CRASH_MARK"]))
