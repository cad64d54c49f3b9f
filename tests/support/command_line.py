"""Commands of ``gpuqueue`` and ``celery`` in a new process, without the time that imports take."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tests.support.forking import Forked, start_forked


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


@dataclass(frozen=True)
class Running:
    """A command that runs, and what it writes: the rest of it once the command has ended."""

    process: Forked
    stdout: IO[str]
    stderr: IO[str]

    def ended(self, timeout: float) -> tuple[int, str, str]:
        """Wait for its end; return its status, and what is left to read of its output and of its
        errors, which have to fit into their pipes.
        """
        return self.process.wait(timeout), self.stdout.read(), self.stderr.read()


@contextmanager
def running_command(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[Running]:
    """Run ``python -m gpuqueue.cli WORDS`` beside the block, which reads what it writes. It is
    killed where it outlives the block.
    """
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    with os.fdopen(out) as stdout, os.fdopen(err) as stderr:
        try:
            output = to_out, to_err
            process = start_forked(
                "gpuqueue.cli", words, env=env, cwd=cwd or Path.cwd(), output=output
            )
        finally:
            os.close(to_out)
            os.close(to_err)
        try:
            yield Running(process, stdout, stderr)
        finally:
            process.kill()
            process.wait()


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode()
