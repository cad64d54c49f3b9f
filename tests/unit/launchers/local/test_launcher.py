"""The local launcher, with a real runner and real processes of a few lines each."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuqueue.launchers.base import LogSource
from gpuqueue.launchers.local.identity import Instance, machine
from gpuqueue.launchers.local.launcher import LocalLauncher
from gpuqueue.launchers.local.log_source import find
from gpuqueue.model.attempt import Attempt, RunningAttempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.executor_env import parse_record, record_variables
from gpuqueue.model.record import Record
from tests.support.runners import end_runners
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration

URL = "redis://nowhere/0"
RECORD: Record = {
    "delivery": "a~1",
    "id": "a",
    "gpu_class": "t4",
    "isolation": "shared",
    "attempt": 2,
    "token": "secret",
    "retries": 1,
    "time_limit": 9.5,
    "task": "shop.train",
}
#: Writes to a FIFO that it is ready, and sleeps until a signal.
SLEEPER = (
    "import os, sys, signal; os.write(os.open(sys.argv[1], os.O_WRONLY), b'ready'); signal.pause()"
)


class Launcher(LocalLauncher):
    """Puts every end into a queue."""

    def __init__(self, program: str, *arguments: object, **more: Any) -> None:
        self.ends: queue.Queue[tuple[RunningAttempt, End]] = queue.Queue()
        command = [sys.executable, "-S", "-c", program, *map(str, arguments)]
        settings = {"GPUQUEUE_REDIS_URL": more.pop("url", URL)}
        super().__init__(self._keep, settings, claim_within=60, command=command, **more)

    def _keep(self, running: RunningAttempt, end: End) -> bool:
        self.ends.put((running, end))
        return True

    def ended(self) -> tuple[RunningAttempt, End]:
        return self.ends.get(timeout=PATIENCE)

    def code(self) -> int:
        """Return the exit status of the next process that ends."""
        status: int = self.ended()[1].evidence["exit_code"]
        return status

    def alive(self, instance: str) -> bool:
        return self.end_of(instance) is None


@pytest.fixture
def launcher() -> Iterator[Callable[..., Launcher]]:
    made: list[Launcher] = []

    def make(program: str, *arguments: object, **more: Any) -> Launcher:
        made.append(Launcher(program, *arguments, **more))
        return made[-1]

    yield make
    for each in made:
        for live in each.list():
            each.stop(live.running.instance, "KILL")
        each.close()
    end_runners()


def first_output(fifo: Path) -> str:
    """Wait for the first output of a process, which keeps its end of the FIFO open."""
    with fifo.open("rb", buffering=0) as pipe:
        return pipe.read(64).decode()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os; os._exit(7)", 7),
        ("pass", 0),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -6),
    ],
    ids=["an exit code", "a clean end", "a signal", "an abort"],
)
def test_exit_status_gives_the_end(
    launcher: Callable[..., Launcher], program: str, code: int
) -> None:
    one = launcher(program)
    instance = one.start(RECORD)
    running, end = one.ended()
    assert running == RunningAttempt(Attempt("t4", "a~1", 2), instance)
    assert (end.reason, end.error) == (explain(code).reason, explain(code).error)
    assert end.evidence == {"exit_code": code}


@pytest.mark.parametrize(("signal", "code"), [("TERM", -15), ("INT", -2), ("KILL", -9)])
def test_attempt_is_stopped_by_signal(
    launcher: Callable[..., Launcher], fifo: Path, signal: str, code: int
) -> None:
    one = launcher("import signal; signal.signal(2, signal.SIG_DFL);" + SLEEPER, fifo)
    instance = one.start(RECORD)
    assert first_output(fifo) == "ready"
    assert one.alive(instance) and one.stop(instance, signal)
    assert one.code() == code
    assert not one.alive(instance) and one.stop(instance, signal) is False


def test_child_processes_end_with_their_attempt(
    launcher: Callable[..., Launcher], fifo: Path
) -> None:
    parent = (
        "import signal, subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c',"
        " *sys.argv[1:]]); signal.pause()"
    )
    child = (
        "import os, sys, signal; os.write(os.open(sys.argv[1], os.O_WRONLY),"
        " str(os.getpid()).encode()); signal.pause()"
    )
    one = launcher(parent, child, fifo)
    instance = one.start(RECORD)
    left_behind = int(first_output(fifo))
    assert one.stop(instance, "TERM"), "the signal goes to the first process alone"
    assert one.code() == -15
    assert (
        not psutil.pid_exists(left_behind)
        or psutil.Process(left_behind).status() == psutil.STATUS_ZOMBIE
    )


#: Leaves its session, group and parent behind, and writes its pid.
FORKS_TWICE = (
    "import os, sys, signal; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0);"
    "os.write(os.open(sys.argv[1], os.O_WRONLY), str(os.getpid()).encode()); signal.pause()"
)


def test_what_left_its_session_is_gone_before_the_end_is_told(
    launcher: Callable[..., Launcher], tmp_path: Path
) -> None:
    fifo, seen = tmp_path / "pid", []
    os.mkfifo(fifo)
    go_on = "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', *sys.argv[1:]],"
    parent = go_on + " env={}, start_new_session=True); import signal; signal.pause()"
    one = launcher(parent, FORKS_TWICE, fifo)

    def on_end(running: RunningAttempt, end: End) -> bool:
        seen.append(psutil.pid_exists(left_behind))
        return one._keep(running, end)

    one._on_end = on_end
    instance = one.start(RECORD)
    left_behind = int(first_output(fifo))
    assert os.getsid(left_behind) != int(instance.rpartition(":")[2])
    assert one.stop(instance, "TERM")
    assert one.code() == -15
    assert seen == [False]


def test_end_without_a_dispatcher_is_kept_for_the_next_one(
    launcher: Callable[..., Launcher], fifo: Path
) -> None:
    one = launcher(SLEEPER, fifo)
    instance = one.start(RECORD)
    assert first_output(fifo) == "ready"
    one.close()
    assert one.stop(instance, "TERM")
    until(lambda: not one.alive(instance), PATIENCE, "its end")
    end = one.end_of(instance)
    assert end is not None and end.evidence == {"exit_code": -15}
    heir = launcher(SLEEPER, fifo)
    heir.connect()
    running, told = heir.ended()
    assert (running.instance, told.evidence) == (instance, {"exit_code": -15})
    until(lambda: not list(heir._runtime.ends()), PATIENCE, "the end is forgotten once written")


def test_live_attempts_are_found_by_their_files(
    launcher: Callable[..., Launcher], fifo: Path
) -> None:
    one = launcher(SLEEPER, fifo)
    instance = one.start(RECORD)
    assert first_output(fifo) == "ready"
    [found] = one.list()
    assert found.running.instance == instance
    assert found.record == RECORD
    assert [each.running.instance for each in launcher("").list()] == [instance]
    other = launcher("", url="redis://elsewhere/0")
    assert other.list() == [], "attempts of another queue do not count"


def test_orphan_of_another_dispatcher_is_watched_to_its_end(
    launcher: Callable[..., Launcher], fifo: Path
) -> None:
    first = (
        "import os, sys; from gpuqueue.launchers.local.launcher import LocalLauncher;one ="
        f" LocalLauncher(print, {{'GPUQUEUE_REDIS_URL': {URL!r}}}, 60, command=[sys.executable,"
        f" '-S', '-c', *sys.argv[1:]]);print(one.start({RECORD!r}), flush=True); os._exit(0)"
    )
    # Not capture_output: it would wait for the end of all that has the pipe.
    with subprocess.Popen(
        [sys.executable, "-c", first, SLEEPER, str(fifo)], stdout=subprocess.PIPE, text=True
    ) as dispatcher:
        assert dispatcher.stdout
        instance = dispatcher.stdout.readline().strip()
    assert first_output(fifo) == "ready"
    one = launcher(SLEEPER, fifo)
    one.connect()
    orphan = RunningAttempt(Attempt("t4", "a~1", 2), instance)
    assert [each.running.instance for each in one.list()] == [instance]
    for _ in range(2):
        one.watch(orphan)
    assert one.stop(instance, "TERM")
    running, end = one.ended()
    assert (running, end.evidence) == (orphan, {"exit_code": -15}), "its runner has read it"
    assert one.ends.empty(), "it is reported once, however often it was watched"


def test_other_process_with_the_same_pid_is_not_the_attempt(
    launcher: Callable[..., Launcher],
) -> None:
    one = launcher("pass")
    instance = f"{socket.gethostname()}:0123456789abcdef~{machine()}.1:{os.getpid()}"
    assert one.alive(instance) is False
    assert one.stop(instance, "KILL") is False, "it must not be killed"
    before = f"{socket.gethostname()}:0123456789abcdef:{os.getpid()}"
    assert one.alive(before) is False and one.stop(before, "KILL") is False


def test_process_of_a_dispatcher_without_runners_is_known(
    launcher: Callable[..., Launcher],
) -> None:
    named = f"{socket.gethostname()}:0123456789abcdef"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import signal; signal.pause()"],
        env={**os.environ, "GPUQUEUE_INSTANCE": named},
    ) as process:
        one = launcher("")
        instance = f"{named}:{process.pid}"
        assert one.alive(instance) and one.stop(instance, "TERM")
    assert not one.alive(instance)


#: An instance of another machine, and one of a dispatcher without runners.
ELSEWHERE = ("elsewhere:0123456789abcdef~boot.2.77:1", "elsewhere:0123456789abcdef:1")


def test_attempt_on_another_host_counts_as_alive(launcher: Callable[..., Launcher]) -> None:
    one = launcher("pass")
    for instance in ELSEWHERE:
        assert one.alive(instance) and one.stop(instance, "KILL")


@pytest.mark.parametrize(
    ("given", "visible"), [("0,2", "GPU-a,GPU-c"), ("0,3", None)], ids=["its GPUs", "unknown ones"]
)
def test_attempt_of_several_gpus_sees_all_of(
    launcher: Callable[..., Launcher], tmp_path: Path, given: str, visible: str | None
) -> None:
    output = tmp_path / "environment.json"
    program = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))"
    one = launcher(program, output, devices={"t4": ["GPU-a", "GPU-b", "GPU-c"]})
    one.start(RECORD | {"device": 0, "all_devices": given, "gpus": 2})
    assert one.code() == 0
    environ = json.loads(output.read_text())
    assert environ.get("CUDA_VISIBLE_DEVICES") == visible
    record = parse_record(environ)
    assert (record["gpus"], record["all_devices"], record["device"]) == (2, given, 0)


def test_attempt_gets_its_gpu_and_no_variable_of_the_dispatcher(
    launcher: Callable[..., Launcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUQUEUE_TENANT", "a job that runs a dispatcher")
    monkeypatch.setenv("GPUQUEUE_FINISHER", "x")
    output = tmp_path / "environment.json"
    program = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))"
    one = launcher(program, output, devices={"t4": ["GPU-a", "GPU-b"]})
    instance = one.start(RECORD | {"device": 1})
    assert one.code() == 0
    environ = json.loads(output.read_text())
    assert environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert environ["GPUQUEUE_TOKEN"] == "secret" and environ["GPUQUEUE_JOB_ID"] == "a"
    assert instance == f"{environ['GPUQUEUE_INSTANCE']}:{instance.rpartition(':')[2]}"
    assert not {"GPUQUEUE_TENANT", "GPUQUEUE_FINISHER"} & set(environ)


def test_finisher_runs_without_a_gpu_and_returns_its_exit_code(
    launcher: Callable[..., Launcher],
) -> None:
    one = launcher(
        "import os; os._exit(5 if os.environ['CUDA_VISIBLE_DEVICES'] == '' else 6)",
        devices={"t4": ["GPU-a"]},
    )
    assert one.finish(RECORD | {"device": 0}, "f", 20, lambda: True) == 5


def test_finisher_is_killed_after_its_timeout(launcher: Callable[..., Launcher]) -> None:
    one = launcher("import signal; signal.pause()")
    assert one.finish(RECORD, "f", 0.05, lambda: True) is None
    assert one.list() == [], "a finisher is not an attempt"


def test_closed_launcher_leaves_attempts_running(
    launcher: Callable[..., Launcher], fifo: Path
) -> None:
    one = launcher(SLEEPER, fifo)
    instance = one.start(RECORD)
    assert first_output(fifo) == "ready"
    one.close()
    assert launcher("pass").alive(instance)


@pytest.mark.parametrize("lives", [True, False])
def test_instance_on_another_host_lives_while_its_dispatcher_does(
    launcher: Callable[..., Launcher], lives: bool
) -> None:
    asked: list[str] = []

    def host_lives(host: str) -> bool:
        asked.append(host)
        return lives

    one = launcher("", host_lives=host_lives)
    assert [one.alive(each) for each in ELSEWHERE] == [lives, lives]
    assert asked == ["boot.2", "elsewhere"]


def test_same_host_name_with_other_pids_is_another_machine(
    launcher: Callable[..., Launcher],
) -> None:
    one = launcher("", host_lives=lambda asked: asked == "boot.2")
    assert one.alive(f"{socket.gethostname()}:0123~boot.2.77:1"), "unknown is not gone"
    assert not one.alive(f"{socket.gethostname()}:0123~boot.3.77:1")


#: Sleeps until a signal, and needs nothing.
SLEEPS = "import signal; signal.pause()"


def test_an_earlier_process_of_the_job_with_another_token_ends_first(
    launcher: Callable[..., Launcher],
) -> None:
    one = launcher(SLEEPS)
    stray = one.start({**RECORD, "admitted": 1.0})
    beside = one.start({**RECORD, "delivery": "b", "id": "b", "token": "b", "admitted": 1.0})
    again = one.start({**RECORD, "token": "given again", "admitted": 2.0})
    assert not one.alive(stray), "it ended before the other started"
    running, _ = one.ended()
    assert (running.instance, running.attempt.token) == (stray, "secret")
    until(lambda: one.alive(beside) and one.alive(again), PATIENCE, "two processes")


def test_removed_runtime_directory_is_made_again(launcher: Callable[..., Launcher]) -> None:
    local = launcher("import os; os._exit(7)")
    shutil.rmtree(local._runtime.path)
    local.start(RECORD)
    assert local.code() == 7


def test_a_late_launch_does_not_end_the_process_that_was_admitted_later(
    launcher: Callable[..., Launcher],
) -> None:
    one = launcher(SLEEPS)
    current = one.start({**RECORD, "token": "given again", "admitted": 2.0})
    one.start({**RECORD, "admitted": 1.0})
    until(lambda: one.alive(current), PATIENCE, "the process")


def test_a_process_that_has_gone_on_is_that_of_its_last_attempt(
    launcher: Callable[..., Launcher], fifo: Path
) -> None:
    one = launcher(SLEEPER, fifo)
    instance = one.start({**RECORD, "admitted": 1.0, "reuse": 3})
    assert first_output(fifo) == "ready", "its program runs, and its file is written"
    following: Any = {**RECORD, "delivery": "b", "id": "b", "token": "b", "attempt": 1}
    one._runtime.go_on(Instance.parse(instance).nonce, record_variables(following))
    [live] = one.list()
    assert (live.running.instance, live.running.attempt.holder) == (instance, "b#1")
    one.start({**RECORD, "token": "given again", "admitted": 2.0})
    assert first_output(fifo) == "ready"
    assert one.alive(instance), "the first job, given again, does not end the process of another"
    one.stop(instance, "KILL")
    running, _ = one.ended()
    assert (running.instance, running.attempt.holder, running.attempt.token) == (
        instance,
        "b#1",
        "b",
    )


def test_a_repeated_launch_ends_no_process_with_the_same_token(
    launcher: Callable[..., Launcher],
) -> None:
    one = launcher(SLEEPS)
    first = one.start({**RECORD, "admitted": 1.0})
    one.start({**RECORD, "admitted": 1.0})
    until(lambda: one.alive(first), PATIENCE, "the first process")


def test_two_attempts_with_one_number_are_both_listed_by_their_tokens(
    launcher: Callable[..., Launcher],
) -> None:
    one, other = launcher(SLEEPS), launcher(SLEEPS)
    one.start(RECORD)
    other.start({**RECORD, "token": "given again"})
    until(
        lambda: {live.running.attempt.token for live in one.list()} == {"secret", "given again"},
        PATIENCE,
        "both processes in the list",
    )


def test_whole_output_is_handed_over_also_if_the_end_was_told_before(
    launcher: Callable[..., Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: queue.Queue[tuple[Attempt, bytes]] = queue.Queue()

    class Whole:
        def keep(self, attempt: Attempt, source: LogSource) -> None:
            kept.put((attempt, b"".join(source.read())))
            assert find(source.where) is not None and find({"path": "/x"}) is None

        def before(self, attempt: Attempt) -> list[Attempt]:
            return []

    # As after a crash between the end of the slot and the log.
    monkeypatch.setattr(Launcher, "_keep", lambda self, running, end: False)
    made = launcher("print('all of it')", whole_logs=Whole())
    made.start(RECORD)
    assert kept.get(timeout=PATIENCE) == (Attempt.of(RECORD), b"all of it\n")
