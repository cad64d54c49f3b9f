"""The entry points of workers/, and the celeryconfig.py at the root."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest

from tests.docs.conftest import Reader
from tests.docs.typed import DISPATCHER
from tests.support.command_line import run_command
from tests.support.pages import ROOT
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


def test_the_dispatcher_script_passes_options_on(reader: Reader) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        folder = ROOT / "workers" / "dispatcher"
        return run_command(words, env=reader.own, cwd=folder, timeout=PATIENCE, module="run")

    shown = run("--help")
    assert shown.returncode == 0
    assert "--gpu-watch / --no-gpu-watch" in shown.stdout
    refused = run("-Q", "orders")  # a later -Q replaces the queues
    assert refused.returncode not in (0, None)
    assert "queue='orders' is not the name of a GPU queue" in refused.stderr


def test_the_dispatcher_script_is_the_command_of_its_readme() -> None:
    source = (ROOT / "workers" / "dispatcher" / "run.py").read_text()
    (text,) = re.findall(r"sys\.argv\[1:1\] = (\[.*?\])", source, re.DOTALL)
    words = ["celery", *ast.literal_eval(text)]
    assert words == shlex.split(
        re.findall(
            r"is `(celery [^`]+)`", (ROOT / "workers" / "dispatcher" / "README.md").read_text()
        )[0]
    )
    assert " ".join(words) in DISPATCHER


def test_an_executor_started_by_hand_names_the_missing_setting() -> None:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GPUQUEUE", "CELERY"))
    }
    run = [sys.executable, str(ROOT / "workers" / "gpu-runner" / "executor.py")]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 78
    said = (
        "gpuqueue: CELERY_BROKER_URL is not set; start the executor through a dispatcher, which"
        " sets it"
    )
    assert done.stderr.strip() == said


# -- celeryconfig.py of the root -------------------------------------------------------------------


def test_celery_without_an_application_reaches_dispatchers(reader: Reader) -> None:
    def answers() -> str:  # a dispatcher leads before its consumer listens
        return reader.run(["celery", "inspect", "ping", "--json"], cwd=ROOT).stdout

    answer = until(answers, PATIENCE, "a dispatcher answers")
    assert list(json.loads(answer).values()) == [{"ok": "pong"}]


def test_a_worker_without_an_application_is_refused(reader: Reader) -> None:
    begun = time.monotonic()
    done = reader.run(["celery", "worker", "-Q", "gpu.t4.shared"], cwd=ROOT)
    assert done.returncode not in (0, None)
    assert "gpuqueue: a worker with this celeryconfig.py is not a dispatcher" in done.stderr
    assert time.monotonic() - begun < PATIENCE / 2


def test_celeryconfig_does_not_configure_applications(reader: Reader) -> None:
    code = "from celery import Celery; from gpuqueue.celery import app\n"
    code += (
        "print(Celery('own').conf.worker_consumer, Celery('own').conf.task_queues,"
        " app.conf.worker_consumer)"
    )
    done = reader.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.stdout.split() == [
        "celery.worker.consumer:Consumer",
        "None",
        "gpuqueue.glue.worker.consumer:Consumer",
    ], done.stderr
