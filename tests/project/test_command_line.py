"""A forked command is what a started one is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.command_line import run_command
from tests.support.dev_command import CLI, clean_env
from tests.support.forking import start_forked
from tests.support.nodes import FAKE_GPUS
from tests.support.waiting import PATIENCE

NOWHERE = {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["statsu"], {}),
        (["status"], {"T4_SHARED_SLOTS": "many"} | NOWHERE),
        (["dead", "--json"], {"CELERY_BROKER_URL": ""}),
    ],
    ids=str,
)
def test_a_forked_command_answers_as_a_started_one(
    tmp_path: Path, words: list[str], env: dict[str, str]
) -> None:
    forked = run_command(words, env=clean_env(**env), cwd=tmp_path)
    started = subprocess.run(
        [*CLI, *words], env=clean_env(**env), cwd=tmp_path, capture_output=True, text=True
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_a_forked_dispatcher_ends_as_a_started_one(tmp_path: Path) -> None:
    words, env = ["-A", "gpuqueue", "worker"], clean_env(CELERY_BROKER_URL="amqp://x")
    forked = run_command(words, env=env, cwd=tmp_path, module="celery")
    command = [sys.executable, "-m", "celery", *words]
    started = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert "gpuqueue: CELERY_BROKER_URL='amqp://x' is not Redis" in started.stderr
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_a_call_leaves_nothing_for_the_next_one(tmp_path: Path) -> None:
    with EmbeddedRedis() as server:
        assert run_command(["status"], env=clean_env(**NOWHERE), cwd=tmp_path).returncode == 2
        env = clean_env(CELERY_BROKER_URL=server.url)
        assert run_command(["status"], env=env, cwd=Path(os.sep)).returncode == 0


def test_a_command_that_takes_too_long_ends_and_the_next_one_runs(tmp_path: Path) -> None:
    env = clean_env(CELERY_BROKER_URL="redis://192.0.2.1:6379/0")  # TEST-NET-1
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(["status"], env=env, cwd=tmp_path, timeout=0.01)
    done = run_command(["--version"], env=clean_env(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_has_the_gpus_of_its_environment(tmp_path: Path) -> None:
    (tmp_path / "gpus.py").write_text(
        "from gpuqueue.dispatcher import choose_launcher\n"
        "print(choose_launcher.devices.pynvml.__file__)\n"
    )
    seen = []
    for path in (str(FAKE_GPUS), ""):
        done = run_command([], env=clean_env(PYTHONPATH=path), cwd=tmp_path, module="gpus")
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.strip())
    assert seen == [str(FAKE_GPUS / "pynvml.py"), pynvml.__file__]


def test_a_forked_process_ends_its_threads_and_handlers_as_a_started_one(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "import atexit, sys, threading, time\n"
        "atexit.register(print, 'handler')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "sys.exit('its words')\n"
    )
    forked = run_command([], env=clean_env(), cwd=tmp_path, module="ends")
    command = [sys.executable, "-m", "ends"]
    started = subprocess.run(command, env=clean_env(), cwd=tmp_path, capture_output=True, text=True)
    assert started.stdout == "thread\nhandler\n"
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_forked_processes_run_side_by_side_each_in_a_session(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import signal; signal.pause()")
    with (tmp_path / "output").open("wb") as output:
        both = output.fileno(), output.fileno()
        one, two = (
            start_forked("waits", [], env=clean_env(), cwd=tmp_path, output=both) for _ in range(2)
        )
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(0.05)
    assert run_command(["--version"], env=clean_env(), cwd=tmp_path).returncode == 0
    assert (one.poll(), two.poll()) == (None, None)
    assert len({os.getsid(0), os.getsid(one.pid), os.getsid(two.pid)}) == 3
    one.terminate()
    two.kill()
    assert (one.wait(PATIENCE), two.wait(PATIENCE)) == (-signal.SIGTERM, -signal.SIGKILL)
    one.terminate()  # it has ended
    assert (one.poll(), two.poll()) == (-signal.SIGTERM, -signal.SIGKILL)
