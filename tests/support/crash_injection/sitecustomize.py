"""Kills the process that takes a step, and sets its clock: loaded by Python itself in dispatchers
and executors of the crash tests.

One step: CRASH_AT names it, ``module:Class.method:before`` or ``:after``; CRASH_MARK is a file made
once, so that only the first process to come there dies, and the repeated step goes through.
``:after:field`` passes over answers that lack the field, or in which it is empty. An answer that is
a list has a field if any of its items has it.

Many steps, which a schedule arms while the processes run: CRASH_STEPS is a file with one step a
line, CRASH_ARMED a folder. The first process that comes to a step whose number (of its line) is a
file there takes the file away, notes its death in CRASH_NOTES, and dies.

CRASH_CLOCKS is a file of doubles, seconds by which ``time.time()`` is off: the first is for
executors, CRASH_CLOCK numbers that of a dispatcher.
"""

import functools
import importlib
import importlib.abc
import importlib.util
import json
import mmap
import os
import signal
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

Die = Callable[[], None]


def _die_once(mark: str) -> None:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _die_if_armed(armed: str, step: str) -> None:
    try:
        Path(armed).unlink()
    except FileNotFoundError:
        return
    note = {
        "event": "killed",
        "id": os.environ.get("GPUQUEUE_JOB_ID", ""),
        "delivery": os.environ.get("GPUQUEUE_DELIVERY", ""),
        "attempt": os.environ.get("GPUQUEUE_ATTEMPT", ""),
        "finisher": "GPUQUEUE_FINISHER" in os.environ,
        "at": time.monotonic(),
        "pid": os.getpid(),
        "step": step,
    }
    with Path(os.environ["CRASH_NOTES"]).open("a") as notes:
        notes.write(json.dumps(note) + "\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _has(answer: object, field: str) -> bool:
    items = answer if isinstance(answer, list) else [answer]
    return any(getattr(item, field, None) for item in items)


def _arm(module: ModuleType, path: str, when: str, field: str, die: Die) -> None:
    *outer, name = path.split(".")
    owner: object = functools.reduce(getattr, outer, module)
    step: Callable[..., object] = getattr(owner, name)

    @functools.wraps(step)
    def killed(*args: object, **kwargs: object) -> object:
        if when == "before":
            die()
        answer = step(*args, **kwargs)
        if when == "after" and (not field or _has(answer, field)):
            die()
        return answer

    setattr(owner, name, killed)


class _Armed(importlib.abc.MetaPathFinder):
    """Arms the steps of a module when it is first imported, so that other processes stay as they
    are.
    """

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[str, str, str, Die]]] = defaultdict(list)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        steps = self.steps.pop(fullname, None)
        if steps is None:
            return None
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader  # find_spec made it for this module only
        inner = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            inner(module)
            for step in steps:
                _arm(module, *step)

        loader.exec_module = exec_module
        return spec


def _shift(path: str, number: int) -> None:
    """Let the clock of this process be off by the number that stands in the file at any time."""
    with Path(path).open("rb") as file:
        shifts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    true_time, read = time.time, struct.Struct("d").unpack_from
    time.time = lambda: true_time() + read(shifts, 8 * number)[0]


def _parsed(step: str) -> tuple[str, str, str, str]:
    module, path, when, *field = step.split(":")
    return module, path, when, "".join(field)


_finder = _Armed()
if "CRASH_AT" in os.environ:
    _module, _path, _when, _field = _parsed(os.environ["CRASH_AT"])
    _once = functools.partial(_die_once, os.environ["CRASH_MARK"])
    _finder.steps[_module].append((_path, _when, _field, _once))
if "CRASH_STEPS" in os.environ:
    for _number, _step in enumerate(Path(os.environ["CRASH_STEPS"]).read_text().split()):
        _module, _path, _when, _field = _parsed(_step)
        _file = f"{os.environ['CRASH_ARMED']}/{_number}"
        _finder.steps[_module].append(
            (_path, _when, _field, functools.partial(_die_if_armed, _file, _step))
        )
if _finder.steps:
    sys.meta_path.insert(0, _finder)
if "CRASH_CLOCKS" in os.environ:
    _executor = (
        "GPUQUEUE_TOKEN" in os.environ
        or "CRASH_CLOCK" not in os.environ
        or "gpuqueue.runner" in sys.orig_argv
    )
    _shift(os.environ["CRASH_CLOCKS"], 0 if _executor else int(os.environ["CRASH_CLOCK"]))
