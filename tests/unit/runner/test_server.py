"""A runner as a process, without an application: spawned attempts of a few lines."""

from __future__ import annotations

import os
import queue
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuqueue.launchers.local.identity import Instance
from gpuqueue.launchers.local.runner import Runner, RunnerAway, RunnerRefuses
from gpuqueue.launchers.local.runtime import Runtime, prepare
from gpuqueue.model.ends import EXIT_CONFIG
from gpuqueue.model.executor_env import LOAD_TIMEOUT
from tests.support.shared_memory import LEAVES_SHARED_MEMORY
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
PAUSES = "import signal; signal.pause()"
#: Ends its main thread alone: the system call ``exit``, not ``exit_group``.
HEADLESS = """
import _thread, ctypes, os, time
_thread.start_new_thread(time.sleep, (600,))
ctypes.CDLL(None).syscall({"aarch64": 93}.get(os.uname().machine, 60), 0)
"""
#: Starts a runner in place of ``python -m gpuqueue.runner``, with something changed.
CHANGED = "import os, sys; {change}; from gpuqueue.runner.main import run; run()"


class Machine:
    """Runtime directory, runners and dispatchers."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gq-"))
        self.runtime: Runtime = prepare(self.folder, "key")
        self.ended: queue.Queue[Mapping[str, Any]] = queue.Queue()
        self.made: list[Runner] = []

    def dispatcher(self, program: str, change: str = "", **more: Any) -> Runner:
        command = [sys.executable, "-m", "gpuqueue.runner"]
        if change:
            command = [sys.executable, "-c", CHANGED.format(change=change)]
        env = {**os.environ, "GPUQUEUE_START": "spawn", **more.pop("env", {})}
        executor = [sys.executable, "-S", "-c", program]
        self.made.append(
            Runner(self.runtime, env, command, executor, PATIENCE, self.ended.put, **more)
        )
        return self.made[-1]

    def runners(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for each in psutil.process_iter():
            try:
                is_runner = str(self.runtime.path) in each.cmdline() and each.ppid() not in [
                    other.pid for other in found
                ]
                if is_runner and each.status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
            except psutil.Error:
                continue
        return found

    def end(self) -> Mapping[str, Any]:
        return self.ended.get(timeout=PATIENCE)

    def close(self) -> None:
        for each in self.made:
            each.close()
        for _, content in list(self.runtime.attempts()):
            Instance.parse(content["instance"]).process.signal("KILL")
        for runner in self.runners():
            runner.kill()
            runner.wait(PATIENCE)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def test_dispatchers_that_start_at_once_get_one_runner(machine: Machine) -> None:
    dispatchers = [machine.dispatcher(PAUSES) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        instances = list(
            pool.map(lambda each: each[1].start(f"n{each[0]}", {}), enumerate(dispatchers))
        )
    assert len(set(instances)) == 8
    until(lambda: len(machine.runners()) == 1, PATIENCE, "one runner")


def test_runner_ends_when_it_is_idle_and_not_before(machine: Machine) -> None:
    change = "import gpuqueue.runner.server as s; s.IDLE = 0.2; s.LATER = 0.05"
    one = machine.dispatcher(PAUSES, change)
    instance = Instance.parse(one.start("a", {}))
    one.close()
    [runner] = machine.runners()
    with pytest.raises(psutil.TimeoutExpired):
        runner.wait(1)
    instance.process.signal("KILL")
    until(lambda: not machine.runners(), PATIENCE, "it has ended")
    assert not machine.runtime.socket.exists()
    assert [nonce for nonce, _ in machine.runtime.ends()] == ["a"]


def test_end_is_told_to_the_next_dispatcher_of_the_next_runner(machine: Machine) -> None:
    one = machine.dispatcher("import os; os._exit(7)")
    one.start("a", {"GPUQUEUE_TASK": "x"})
    assert machine.end()["code"] == 7
    one.close()
    for runner in machine.runners():
        runner.kill()
        runner.wait(PATIENCE)
    machine.dispatcher(PAUSES).connect()
    told = machine.end()
    assert (told["nonce"], told["code"], told["variables"]) == ("a", 7, {"GPUQUEUE_TASK": "x"})


def test_attempt_of_a_killed_runner_goes_on_and_its_end_is_unknown(machine: Machine) -> None:
    started: list[bool] = []
    one = machine.dispatcher(PAUSES, wanted=lambda: bool(started))
    instance = Instance.parse(one.start("a", {}))
    started.append(True)
    [runner] = machine.runners()
    runner.kill()
    until(lambda: machine.runners() not in ([], [runner]), PATIENCE, "the next runner")
    assert instance.process.runs
    until(lambda: machine.runtime.has_runner, PATIENCE, "it serves")
    one.connect()
    instance.process.signal("TERM")
    told = machine.end()
    assert (told["instance"], told["code"]) == (str(instance), None)


def test_what_an_adopted_attempt_leaves_is_ended_by_its_mark(
    machine: Machine, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    below = (
        f"import os; os.write(os.open({str(fifo)!r}, os.O_WRONLY), b'%d' % os.getpid());{PAUSES}"
    )
    program = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c',"
        f" {below!r}], start_new_session=True); {PAUSES}"
    )
    one = machine.dispatcher(program)
    instance = Instance.parse(one.start("a", {}))
    with fifo.open("rb", buffering=0) as pipe:
        left_behind = int(pipe.read(32))
    one.close()
    for runner in machine.runners():
        runner.kill()
        runner.wait(PATIENCE)
    instance.process.signal("KILL")
    machine.dispatcher(program).connect()
    assert machine.end()["code"] is None
    until(lambda: not _runs(left_behind), PATIENCE, "what it left has ended")


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_runner_asked_to_stop_stays_for_its_attempts(machine: Machine) -> None:
    one = machine.dispatcher(PAUSES)
    first = Instance.parse(one.start("a", {}))
    [old] = machine.runners()
    old.send_signal(signal.SIGTERM)
    until(lambda: not machine.runtime.socket.exists(), PATIENCE, "it takes nothing more")
    second = Instance.parse(one.start("b", {}))
    assert first.process.runs and len(machine.runners()) == 2
    first.process.signal("TERM")
    told = machine.end()
    assert (told["nonce"], told["code"]) == ("a", -15), "its own runner has read it"
    until(lambda: old not in machine.runners(), PATIENCE, "it has ended with its last attempt")
    assert second.process.runs


def test_shared_memory_is_removed_before_the_end_is_told(machine: Machine, tmp_path: Path) -> None:
    name = tmp_path / "name"
    one = machine.dispatcher(LEAVES_SHARED_MEMORY.format(path=str(name)))
    one.start("a", {})
    assert machine.end()["code"] == -signal.SIGABRT
    with pytest.raises(FileNotFoundError):
        SharedMemory(name.read_text())


def test_repeated_start_is_one_attempt(machine: Machine) -> None:
    one = machine.dispatcher(PAUSES)
    assert one.start("a", {}) == one.start("a", {})


def test_runner_that_dies_at_its_start_is_the_hosts_fault(machine: Machine) -> None:
    one = machine.dispatcher(PAUSES, "os._exit(3)")
    with pytest.raises(RunnerAway, match=r"ended at its start with exit code 3; see .*log"):
        one.start("a", {})


@pytest.mark.parametrize(
    ("code", "ends"),
    [(4, "os._exit(4)"), (0, "os.fork() and os._exit(0); os.closerange(0, 4096)")],
    ids=["exit", "daemon"],
)
def test_import_that_ends_the_process_is_the_applications_fault(
    machine: Machine, tmp_path: Path, code: int, ends: str
) -> None:
    (tmp_path / "dies.py").write_text(f"import celery, os; app = celery.Celery(); {ends}")
    env = {"GPUQUEUE_START": "fork", "GPUQUEUE_APP": "dies", "PYTHONPATH": str(tmp_path)}
    env |= {LOAD_TIMEOUT: str(PATIENCE)}
    one = machine.dispatcher(PAUSES, env=env)
    with pytest.raises(
        RunnerRefuses, match=rf"GPUQUEUE_APP='dies' ended its process.*code {code}"
    ) as seen:
        one.start("a", {})
    assert seen.value.kind == "application"
    until(lambda: not machine.runners(), PATIENCE, "no copy of it is left")


def test_a_copy_of_the_runner_that_an_import_forks_ends(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text("import celery, os; app = celery.Celery(); os.fork()")
    env = {"GPUQUEUE_START": "fork", "GPUQUEUE_APP": "forks", "PYTHONPATH": str(tmp_path)}
    machine.dispatcher(PAUSES, env=env).start("a", {})
    assert machine.end()["code"] == EXIT_CONFIG
    until(lambda: "came out of its code" in machine.runtime.log.read_text(), PATIENCE)
    assert len(machine.runners()) == 1


def test_broken_import_is_said_once_with_its_traceback(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f():\n    raise RuntimeError('no such luck')\nf()\n")
    env = {"GPUQUEUE_START": "fork", "GPUQUEUE_APP": "broken", "PYTHONPATH": str(tmp_path)}
    one = machine.dispatcher(PAUSES, env=env)
    for name in ("a", "b", "c"):
        with pytest.raises(RunnerRefuses, match="RuntimeError: no such luck") as seen:
            one.start(name, {})
        assert seen.value.kind == "application"
    assert machine.runtime.log.read_text().count("RuntimeError: no such luck") <= 3
    assert 'broken.py", line 2, in f' in machine.runtime.log.read_text()


@pytest.mark.parametrize(
    "closes",
    [
        "os.closerange(3, 4096)",
        "os.closerange(0, 4096)",
        "os.closerange(3, 4096); K = [open(os.devnull) for _ in range(30)]",
    ],
)
def test_an_import_may_close_all_descriptors(machine: Machine, tmp_path: Path, closes: str) -> None:
    (tmp_path / "daemon.py").write_text(f"import os, celery\napp = celery.Celery()\n{closes}\n")
    env = {"GPUQUEUE_START": "fork", "GPUQUEUE_APP": "daemon", "PYTHONPATH": str(tmp_path)}
    one = machine.dispatcher(PAUSES, env=env)
    for name in ("a", "b"):
        one.start(name, {})
        assert machine.end()["code"] == EXIT_CONFIG, "a forked executor without its variables"
        assert "is not set" in machine.runtime.output(name).read_text()
    machine.dispatcher(PAUSES, env=env).connect()
    assert len(machine.runners()) == 1


def test_a_full_disk_starts_no_process_and_ends_no_runner(machine: Machine) -> None:
    patch, half = "w, tries = os.pwrite, []; os.pwrite = ", "tries.append(1) or len(data) // 2"
    change = f"{patch}lambda f, data, at: w(f, data, at) if data.strip() or tries else {half}"
    one = machine.dispatcher("import os; os._exit(3)", change)
    with pytest.raises(RunnerRefuses, match="No space left on device") as seen:
        one.start("a", {})
    assert seen.value.kind == "system"
    one.start("b", {})
    assert (machine.end()["nonce"], machine.ended.empty()) == ("b", True)
    left = [*machine.runtime.attempts(), *(machine.runtime.path / "attempts").iterdir()]
    assert left == []


def test_a_process_whose_main_thread_has_ended_alone_is_ended(machine: Machine) -> None:
    machine.dispatcher(HEADLESS).start("a", {})
    assert (machine.end()["nonce"], machine.ended.empty()) == ("a", True)


def test_ends_are_polled_without_pidfds(machine: Machine) -> None:
    one = machine.dispatcher("import os; os._exit(7)", "del os.pidfd_open")
    one.start("a", {})
    assert machine.end()["code"] == 7


def test_peer_that_says_nonsense_is_dropped(machine: Machine) -> None:
    import socket

    one = machine.dispatcher(PAUSES)
    one.connect()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(machine.runtime.socket))
        peer.sendall(b"nonsense\n")
        while peer.recv(4096):
            pass
    one.start("a", {})


def test_user_of_a_foreign_socket_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuqueue.errors import SettingsError

    machine.dispatcher(PAUSES).connect()
    user = os.getuid()
    other = machine.dispatcher(PAUSES)
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(SettingsError, match=rf"user {user} listens on .*set GPUQUEUE_RUNTIME_DIR"):
        other.connect()
