"""A reader of the README, with a running dispatcher."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.reader import Reader as Queue
from tests.docs.typed import BROKER, DISPATCHER, SHOP
from tests.support.command_line import run_command
from tests.support.nodes import executors_of
from tests.support.waiting import PATIENCE, until


@dataclass
class Reader:
    """A reader who follows the README in a folder, with a Redis at another port."""

    url: str
    folder: Path

    def script(self, text: str) -> list[str]:
        """Return the command that runs a block of the page."""
        return ["sh", "-c", text.replace(BROKER, self.url)]

    @property
    def env(self) -> dict[str, str]:
        """The environment of a fresh terminal."""
        ours = ("GPU", "T4_", "MIG_", "CELERY", "PYTHONPATH")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {
            **clean,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def own(self) -> dict[str, str]:
        """The environment after the README's `export`."""
        return {
            **self.env,
            "CELERY_BROKER_URL": self.url,
            "CELERY_RESULT_BACKEND": self.url,
            "GPUQUEUE_APP": "shop",
        }

    def run(
        self, command: list[str], *, own: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        env = self.own if own else self.env
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def command(self, typed: str) -> subprocess.CompletedProcess[str]:
        """Run a line that begins with ``gpuqueue``."""
        _, *words = shlex.split(typed)
        return run_command(words, env=self.own, cwd=self.folder, timeout=PATIENCE)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run a program that is typed into a file."""
        (self.folder / "typed.py").write_text(code)
        return run_command([], env=self.own, cwd=self.folder, timeout=PATIENCE, module="typed")

    def send(self, **options: object) -> str:
        """Send the README's task; answers its id."""
        code = f"import shop; print(shop.train.apply_async((1,), **{options!r}).id)"
        return self.python(code).stdout.strip()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "shop.py").write_text(SHOP)
    with EmbeddedRedis() as server:
        made = Reader(server.url, folder)
        log = folder / "dispatcher.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                made.script(DISPATCHER),
                cwd=folder,
                env=made.env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            known = Queue(connect(server.url))
            until(
                lambda: known.leader() or process.poll() is not None,
                PATIENCE,
                "a dispatcher leads",
                log.read_text,
            )
            assert process.poll() is None, log.read_text()
            yield made
        finally:
            _end(process)
            for executor in executors_of(server.url):
                executor.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue
