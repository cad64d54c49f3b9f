"""Remove the runtime directories that nothing uses: each version, environment and working directory
of an application has its own.

A directory goes if no runner holds its lock, none of its attempts may run, no end in it may still
be told, and all of it is old. A dispatcher that prepares the same directory meanwhile finds it
whole or gone: see :func:`gpuqueue.launchers.local.runtime.guard`.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from gpuqueue.launchers.local.identity import Instance
from gpuqueue.launchers.local.runtime import KEPT, UNTOLD, Runtime, all_of, guard, read

#: How the name of a directory begins that is being removed.
_GONE = ".gone."


def remove_unused(base: Path, own: Runtime) -> list[str]:
    """Remove the unused directories below the base, but ``own``; return their names."""
    gone = []
    with contextlib.suppress(OSError), guard(base, alone=True):
        for each in all_of(base):
            if each.path == own.path or is_used(each):
                continue
            each.path.rename(base / f"{_GONE}{each.path.name}.{secrets.token_hex(4)}")
            gone.append(each.path.name)
    for path in base.glob(f"{_GONE}*"):  # also what a killed process has left
        shutil.rmtree(path, ignore_errors=True)
    return gone


def is_used(runtime: Runtime) -> bool:
    """Whether a runtime directory may still be needed. What cannot be read may be."""
    now = time.time()
    try:
        attempts, ends = (list((runtime.path / name).iterdir()) for name in ("attempts", "ends"))
        return (
            runtime.has_runner
            or _newest([runtime.path, *runtime.path.iterdir()]) > now - KEPT
            # An attempt that has a file has an end that is not told yet, too.
            or _newest([*attempts, *ends]) > now - UNTOLD
            or any(map(_may_run, attempts))
        )
    except OSError:
        return True


def _newest(paths: Iterable[Path]) -> float:
    return max((path.stat().st_mtime for path in paths), default=0.0)


def _may_run(path: Path) -> bool:
    """Whether the process that a file names may run: only its own machine knows that it does
    not.
    """
    content = read(path)
    if content is None:  # empty: its writer died before it wrote
        return path.stat().st_size > 0
    try:
        process = Instance.parse(content["instance"]).process
    except ValueError:
        return True
    return not process.is_here or process.runs
