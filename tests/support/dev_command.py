"""`gpuqueue dev` as a process, and the command line beside it, driven as a person would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from celery import Celery

from gpuqueue.model.record import Record
from gpuqueue.store.client import connect
from gpuqueue.store.reader import Reader
from tests.support.command_line import run_command
from tests.support.waiting import until

APP = """
import time
from pathlib import Path
from celery import Celery

app = Celery("cliapp")


@app.task
def hold(path):
    while not Path(path).exists():
        time.sleep(0.02)
    return "held"


@app.task
def fail():
    raise ValueError("no such luck")
"""
CLI = [sys.executable, "-m", "gpuqueue.cli"]
OURS = ("CELERY_", "GPUQUEUE_", "GPU_", "T4_", "MIG_", "FLOWER_")


def clean_env(**extra: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    return {**inherited, "GPUQUEUE_DEVICES": "none", **extra}


@dataclass
class Dev:
    """A `gpuqueue dev`, and the environment that it tells to copy."""

    process: subprocess.Popen[bytes]
    directory: Path
    log: Path
    env: dict[str, str]

    def run(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return run_command(arguments, cwd=self.directory, env={**self.env, **extra})

    def json(self, *arguments: str, status: int = 0, **extra: str) -> Any:
        done = self.run(*arguments, "--json", **extra)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def send(self, task: str, *args: object, **options: object) -> str:
        client = Celery("client", broker=self.env["CELERY_BROKER_URL"], set_as_current=False)
        with client:
            job_id: str = client.send_task(
                f"cliapp.{task}", args, ignore_result=False, **options
            ).id
        return job_id

    def reaches(self, job_id: str, state: str) -> Record:
        with connect(self.env["CELERY_BROKER_URL"]) as client:

            def look() -> Record | None:
                found = Reader(client).find(job_id, ["t4", "refused"])
                return found if found and found["state"] == state else None

            return until(look)

    def result(self, job_id: str) -> dict[str, Any]:
        with redis.Redis.from_url(self.env["CELERY_RESULT_BACKEND"]) as client:
            raw: Any = client.get(f"celery-task-meta-{job_id}")
        found: dict[str, Any] = json.loads(raw)
        return found


def start_dev(directory: Path, *options: str, **extra: str) -> Dev:
    directory.mkdir(exist_ok=True)
    (directory / "cliapp.py").write_text(APP)
    log = directory / "dev.log"
    env = clean_env(**extra)
    with log.open("wb") as out:
        command = [*CLI, "dev", "-A", "cliapp", *options]
        process = subprocess.Popen(
            command, cwd=directory, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until(
            lambda: b"Ctrl-C stops everything" in log.read_bytes() or process.poll() is not None, 60
        )
        assert process.poll() is None, log.read_text()
    except BaseException:
        process.kill()
        raise
    line = re.search(r"^  export (.*)$", log.read_text(), re.MULTILINE)
    assert line
    told = dict(word.split("=", 1) for word in line.group(1).split())
    return Dev(process, directory, log, {**env, **told})


def family(dev: Dev) -> list[psutil.Process]:
    """All processes of a `gpuqueue dev`, executors included, without itself."""
    children: list[psutil.Process] = psutil.Process(dev.process.pid).children(recursive=True)
    return children


def executors(dev: Dev) -> list[psutil.Process]:
    """The executors among them."""
    return [each for each in family(dev) if is_executor(each)]


def is_executor(process: psutil.Process) -> bool:
    try:
        return "GPUQUEUE_TOKEN" in process.environ()
    except psutil.Error:  # it has ended since it was listed
        return False


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if runs(each)]


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(dev: Dev, how: signal.Signals = signal.SIGINT) -> int:
    dev.process.send_signal(how)
    try:
        return dev.process.wait(30)
    finally:
        dev.process.kill()
