"""An application's client in a separate process: another user, other certificates and other keys
than the process of the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.nodes import APPS

#: Runs the code of each line, and answers what it left in ``answer``; it knows the application as
#: ``ledger``, and a result's ``outcome``: what it is, or the name of its error.
_LOOP = """\
import json, sys
import ledger
from celery import chain, chord, group
def outcome(result):
    try:
        return result.get(timeout=40)
    except Exception as exc:
        return type(exc).__name__
scope = {"ledger": ledger, "chain": chain, "chord": chord, "group": group, "outcome": outcome}
for line in sys.stdin:
    scope["answer"] = None
    try:
        exec(json.loads(line), scope)
        said = {"answer": scope["answer"]}
    except Exception as exc:
        said = {"error": type(exc).__name__, "text": str(exc)}
    sys.__stdout__.write(json.dumps(said, default=str) + "\\n")
    sys.__stdout__.flush()
"""


class ClientError(Exception):
    """What the client's code raised: the name of its type, and its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text


class Client:
    """A context manager. Not for use from several threads at once."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self._env = {**os.environ, "PYTHONPATH": str(APPS), **env}
        self._folder = folder
        self.log = folder / "client.log"

    def __enter__(self) -> Client:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LOOP],
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def do(self, code: str) -> Any:
        """Run code; answers its ``answer``. Raises :class:`ClientError` for what it raised."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client ended:\n{self.log.read_text()}"
        said = json.loads(line)
        if "error" in said:
            raise ClientError(said["error"], said["text"])
        return said["answer"]
