"""The processes of a pod: one executor below a runner, which is process 1 or adopts orphans."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from functools import cache
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from gpuqueue.runner.child import ALONE
from gpuqueue.runner.pod import is_runner
from tests.support.shared_memory import LEAVES_SHARED_MEMORY
from tests.support.waiting import PATIENCE

#: A runner whose executor runs ``body``.
RUNNER = """
import os, signal, subprocess, sys, time
from gpuqueue.runner import child, pod
signal.pthread_sigmask(signal.SIG_BLOCK, child.SIGNALS)
child.adopt_orphans()
{before}
def executor():
{body}
pod._end_as(pod.Pod().run(executor))
"""
#: Makes a command process 1 of a new PID namespace, as in a container.
AS_FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@cache
def _may_be_first() -> bool:
    try:
        return subprocess.run([*AS_FIRST, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(params=["process 1", "subreaper"])
def prefix(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param == "subreaper":
        return ()
    if not _may_be_first():
        pytest.skip("this machine lets us make no PID namespace")
    return AS_FIRST


def started(prefix: tuple[str, ...], body: str, before: str = "") -> subprocess.Popen[str]:
    program = RUNNER.format(body=textwrap.indent(body, "    "), before=before)
    command = [*prefix, sys.executable, "-u", "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ran(prefix: tuple[str, ...], body: str, before: str = "") -> tuple[int, str]:
    """The exit status and output of a pod: it has ended when no process has the output."""
    with started(prefix, body, before) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, output


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("pass", 0),
        *((f"sys.exit({status})", status) for status in (1, 72, 75, 76, 77, 78, 143)),
        ("os._exit(9)", 9),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.abort()", 134),
        ("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); import ctypes;"
         " ctypes.string_at(0)", 139),
    ],
)  # fmt: skip
def test_pod_ends_with_the_status_of_its_executor(body: str, status: int) -> None:
    assert ran((), body) == (status, "")


def test_status_of_a_signal_holds_for_process_1(prefix: tuple[str, ...]) -> None:
    # Process 1 itself cannot be killed by a signal from within.
    body = "print('ran', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    assert ran(prefix, body) == (137, "ran\n")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_signals_of_the_pod_reach_the_executor(number: str) -> None:
    body = f"""
signal.signal(signal.{number}, lambda number, frame: sys.exit(40))
print("ready", flush=True)
while True: signal.pause()
"""
    with started((), body) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, number))
        assert process.wait(PATIENCE) == 40


def test_signal_before_the_fork_reaches_the_executor(prefix: tuple[str, ...]) -> None:
    body = """
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(41))
print("asks", flush=True)
while True: signal.pause()
"""
    # As one that comes between the import and the fork.
    before = "os.kill(os.getpid(), signal.SIGTERM)"
    status, _ = ran(prefix, body, before)
    assert status in (41, 143), "with its handler, or before it"


def test_orphans_are_reaped_while_the_task_runs(prefix: tuple[str, ...]) -> None:
    body = """
read, write = os.pipe()
if not (middle := os.fork()):
    if not (orphan := os.fork()):
        time.sleep(0.05)
        os._exit(0)
    os.write(write, str(orphan).encode())
    os._exit(0)
os.waitpid(middle, 0)
orphan = int(os.read(read, 32))
until = time.monotonic() + 20
while os.path.exists(f"/proc/{orphan}") and time.monotonic() < until: time.sleep(0.005)
print(os.path.exists(f"/proc/{orphan}"))
"""
    assert ran(prefix, body) == (0, "False\n")


def test_all_that_the_task_left_has_ended_before_the_pod(prefix: tuple[str, ...]) -> None:
    body = """
sleep = "import time; time.sleep(600)"
# In other sessions, with another environment, and with a parent that has ended.
subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True, env={})
if not os.fork():
    os.setsid()
    if not os.fork(): time.sleep(600)
    os._exit(0)
print("left")
"""
    assert ran(prefix, body) == (0, "left\n")


def test_what_the_import_started_ends_with_the_pod(prefix: tuple[str, ...]) -> None:
    before = "helper = subprocess.Popen(['sleep', '600'])"
    body = "os.kill(helper.pid, 0); print('it runs beside the task')"
    assert ran(prefix, body, before) == (0, "it runs beside the task\n")


def test_shared_memory_is_removed_before_the_pod_ends(tmp_path: Path) -> None:
    name = tmp_path / "name"
    assert ran((), LEAVES_SHARED_MEMORY.format(path=str(name)))[0] == 134
    with pytest.raises(FileNotFoundError):
        SharedMemory(name.read_text())


@pytest.mark.parametrize(
    ("environ", "arguments", "expected"),
    [
        ({"GPUQUEUE_POD_UID": "8a0b"}, [], True),
        ({}, [], False),
        ({"GPUQUEUE_POD_UID": ""}, [], False),
        ({"GPUQUEUE_POD_UID": "8a0b", "GPUQUEUE_FINISHER": "f"}, [], False),
        ({"GPUQUEUE_POD_UID": "8a0b"}, [ALONE], False),
    ],
)
def test_runner_is_process_1_of_a_pod_with_an_attempt(
    environ: dict[str, str], arguments: list[str], expected: bool
) -> None:
    assert is_runner(environ, arguments) is expected


def test_garbage_is_collected_after_the_imports_of_an_executor_alone() -> None:
    program = (
        "import atexit, gc, sys\n"
        "seen = []\n"
        "def look(phase, info):\n"
        "    main = sys.modules.get('gpuqueue.executor.main')\n"
        "    seen.append('celery' in sys.modules and not hasattr(main, 'run'))\n"
        "gc.callbacks.append(look)\n"
        "atexit.register(lambda: print(gc.isenabled(), any(seen)))\n"
        "from gpuqueue.runner.pod import run\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "CELERY_BROKER_URL is not set" in done.stderr
    assert (done.returncode, done.stdout) == (78, "True False\n")
