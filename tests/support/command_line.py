"""Commands of ``gpuqueue`` and ``celery`` in a new process, without the time that imports take."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tests.support.forking import start_forked


def run_command(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout: float = 60.0,
    module: str = "gpuqueue.cli",
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE WORDS`` as ``subprocess.run`` would, with its output captured."""
    with TemporaryFile() as out, TemporaryFile() as err:
        output = out.fileno(), err.fileno()
        process = start_forked(module, words, env=env, cwd=cwd or Path.cwd(), output=output)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(words), timeout, _text(out), _text(err)) from None
        return subprocess.CompletedProcess(list(words), status, _text(out), _text(err))


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode()
