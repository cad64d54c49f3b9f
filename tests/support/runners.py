"""The runners that tests have started: each process of tests has its own runtime directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from gpuqueue.launchers.local.runtime import Runtime, all_of


def runtimes() -> list[Runtime]:
    """The runtime directories of this process's stacks."""
    return list(all_of(Path(os.environ["GPUQUEUE_RUNTIME_DIR"])))


def runners_of(url: str | None = None) -> Iterator[psutil.Process]:
    """The runners whose executors work for this Redis; without one, all of this process."""
    base = os.environ.get("GPUQUEUE_RUNTIME_DIR", "")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "gpuqueue.runner" not in command or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if "GPUQUEUE_TOKEN" in process.environ():
                continue  # an executor that it has forked
            mine = any(each.startswith(base) for each in command) if base else False
            if mine if url is None else process.environ().get("GPUQUEUE_REDIS_URL") == url:
                yield process


def end_runners(url: str | None = None) -> None:
    """End runners, as a machine does that is switched off."""
    for process in runners_of(url):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(5)
