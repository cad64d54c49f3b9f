"""Process 1 of a pod, by hand: it claims the attempt, imports the application, forks the executor,
and ends as that does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import states

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_CONFIG, EXIT_NO_APPLICATION, EXIT_STALE, EXIT_TERMINATED
from gpuqueue.model.record import Record
from tests.support.hands import INSTANCE, Hands
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
POD = {"GPUQUEUE_POD": "gpu-where-1-x7k", "GPUQUEUE_POD_UID": "8a0b-77"}
LOAD = {"GPUQUEUE_LOAD_TIMEOUT": "50"}
#: What a spawned executor sends: the main process and one of its pool in one.
SIGNALS = ("celeryd_init", "worker_init", "worker_process_init")
#: An application that notes who gets which signal of Celery. ``{}`` is run when it is imported.
APP = """
import os, signal, sys, threading, time
from celery import Celery, signals
URL = os.environ["CELERY_BROKER_URL"]
print("imports", os.getpid(), flush=True)
SEEN = []
for name in ("celeryd_init", "worker_init", "worker_process_init", "worker_process_shutdown"):
    @getattr(signals, name).connect(weak=False)
    def note(name=name, **_):
        SEEN.append([name, os.getpid()])
for name in ("task_received", "task_prerun", "worker_shutting_down", "worker_shutdown"):
    @getattr(signals, name).connect(weak=False)
    def told(sender=None, request=None, sig="", name=name, **_):
        worker = getattr(sender, "hostname", sender)
        print("told", name, os.getpid(), worker, request and request.id, sig, flush=True)
{}
app = Celery("own", broker=URL, backend=URL)

@app.task
def see():
    return [os.getpid(), os.getppid(), SEEN, threading.active_count()]

@app.task
def die(number):
    os.kill(os.getpid(), number)

@app.task
def leave(code):
    os._exit(code)

@app.task
def wait(path):
    with open(path, "w") as fifo:
        fifo.write(f"{{os.getpid()}} {{os.getppid()}}")
    while True:
        time.sleep(60)
"""


class Pods:
    """Pods whose image has an application ``own``."""

    def __init__(self, hands: Hands, folder: Path) -> None:
        self.hands = hands
        self.folder = folder
        self.env = {**POD, **LOAD, "PYTHONPATH": str(folder)}
        self.image("")

    def image(self, text: str) -> None:
        (self.folder / "own.py").write_text(APP.format(text))

    def attempt(self, task: str, *args: Any) -> Record:
        return self.hands.attempt(f"own.{task}", *args)

    def run(self, record: Record, **env: str) -> tuple[int, str]:
        with self.started(record, **env) as process:
            said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    @contextmanager
    def started(self, record: Record, **env: str) -> Iterator[subprocess.Popen[str]]:
        """A pod that is killed at the latest when its test ends."""
        with self.hands.start(record, self.env | env) as process:
            try:
                yield process
            finally:
                process.kill()

    def result(self, record: Record) -> Any:
        return self.hands.app.AsyncResult(record["id"])

    def fifo(self, name: str = "fifo") -> Path:
        path = self.folder / name
        os.mkfifo(path)
        return path

    def deadline(self, record: Record) -> float:
        holder = Attempt.of(record).holder
        return float(self.hands.client.zscore("gpuqueue:1:{t4}:deadlines", holder) or 0)


@pytest.fixture
def pods(hands: Hands, tmp_path: Path) -> Pods:
    return Pods(hands, tmp_path)


def test_application_is_imported_once_and_its_executor_forked(pods: Pods) -> None:
    record = pods.attempt("see")
    status, log = pods.run(record)
    executor, runner, seen, threads = pods.result(record).get(PATIENCE)
    assert (status, log.count("imports ")) == (0, 1), log
    assert executor != runner and f"imports {runner}\n" in log
    assert seen == [
        ["celeryd_init", runner],
        ["worker_init", runner],
        ["worker_process_init", executor],
    ]
    kept = pods.hands.kept(record)
    assert (kept["reason"], kept["instance"]) == ("SUCCEEDED", f"{INSTANCE}/8a0b-77")


def told(log: str) -> list[list[str]]:
    return [line.split()[1:] for line in log.splitlines() if line.startswith("told ")]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_application_is_told_what_its_worker_received_and_of_its_end(
    pods: Pods, start: str
) -> None:
    record = pods.attempt("see")
    _, log = pods.run(record, GPUQUEUE_START=start)
    executor, runner, _, _ = pods.result(record).get(PATIENCE)
    received, prerun, shutdown = told(log)
    worker = pods.hands.kept(record)["worker"]
    assert received == ["task_received", str(executor), worker, record["id"]]
    assert prerun[:2] == ["task_prerun", str(executor)]
    main = str(runner if start == "fork" else executor)
    assert shutdown[:2] == ["worker_shutdown", main]
    if start == "fork":
        assert shutdown[2].startswith("gpuqueue-runner@")


def test_an_application_is_told_the_signal_that_stops_its_worker(pods: Pods) -> None:
    fifo = pods.fifo()
    record = pods.attempt("wait", str(fifo))
    with pods.started(record) as process:
        fifo.read_text()
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_TERMINATED
    last = [(each[0], each[1], each[-1]) for each in told(log)[-2:]]
    pid = str(process.pid)
    assert last[0] == ("worker_shutting_down", pid, "SIGTERM")
    assert last[1][:2] == ("worker_shutdown", pid)


def test_a_handler_that_hangs_at_the_end_ends_with_the_grace(pods: Pods) -> None:
    pods.image("signals.worker_shutdown.connect(lambda **_: time.sleep(600), weak=False)")
    record = pods.attempt("see")
    assert pods.run(record, GPUQUEUE_GRACE_SECONDS="1")[0] == 0
    assert pods.hands.kept(record)["reason"] == "SUCCEEDED"


def test_spawned_executor_imports_the_application_and_the_runner_does_not(pods: Pods) -> None:
    record = pods.attempt("see")
    status, log = pods.run(record, GPUQUEUE_START="spawn")
    executor, runner, seen, _ = pods.result(record).get(PATIENCE)
    assert (status, log.count("imports "), executor != runner) == (0, 1, True), log
    assert f"imports {executor}\n" in log
    assert seen == [[name, executor] for name in SIGNALS]


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (
            "threading.Thread(target=time.sleep, args=(600,), name='pump', daemon=True).start()",
            "the application started 1 threads when it was imported: pump",
        ),
        (
            "opened = open(os.environ['DEVICE'])\n"
            "from gpuqueue.runner import safety; safety._GPUS = (os.environ['DEVICE'],)",
            "nvidia-uvm when it was imported",
        ),
    ],
    ids=["threads", "gpu"],
)
def test_application_that_cannot_be_forked_is_spawned(pods: Pods, does: str, why: str) -> None:
    device = pods.folder / "nvidia-uvm"
    device.touch()
    pods.image(f"{does}\nos.chdir('/')")
    record = pods.attempt("see")
    status, log = pods.run(record, DEVICE=str(device))
    executor, runner, seen, _ = pods.result(record).get(PATIENCE)
    assert status == 0, log
    assert log.count("is started, not forked: ") == 1 and why in log
    assert f"imports {runner}\n" in log and f"imports {executor}\n" in log
    assert seen == [[name, executor] for name in SIGNALS]


def test_second_import_meets_nothing_that_the_first_has_left(pods: Pods) -> None:
    left = pods.folder / "left"
    pods.image(
        "import pathlib, subprocess\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "print('secret', os.environ.pop('SECRET'))\n"
        f"left = pathlib.Path({str(left)!r})\n"
        "if left.exists():\n"
        "    print('runs', os.path.exists('/proc/' + left.read_text()))\n"
        "left.write_text(str(subprocess.Popen(['sleep', '600']).pid))"
    )
    record = pods.attempt("see")
    status, log = pods.run(record, SECRET="s")
    assert status == 0, log
    assert log.count("secret s\n") == 2 and "runs False\n" in log


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_application_that_has_its_children_reaped_runs(pods: Pods, start: str) -> None:
    pods.image("signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    record = pods.attempt("see")
    status, log = pods.run(record, GPUQUEUE_START=start)
    assert status == 0, log
    assert pods.result(record).get(PATIENCE)


def test_second_import_has_the_whole_time_of_an_import(pods: Pods) -> None:
    # Two: the first import may still have its own open when the second one is waited for.
    imported = {start: pods.fifo(start) for start in ("fork", "spawn")}
    paths = {start: str(path) for start, path in imported.items()}
    pods.image(
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        f"open({paths}[os.environ.get('GPUQUEUE_START', 'fork')]).close()"
    )
    record = pods.attempt("see")
    with pods.started(record) as process:
        with imported["fork"].open("w"):  # the first import
            first = pods.deadline(record)
        with imported["spawn"].open("w"):
            second = pods.deadline(record)
            kept = pods.hands.kept(record)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert first == pytest.approx(kept["started"] + 50, abs=0.1) and second > first + 0.05


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("task", "argument", "status"),
    [("leave", 9, 9), ("die", signal.SIGKILL, 137), ("die", signal.SIGTERM, EXIT_TERMINATED)],
)
def test_pod_ends_as_its_executor_does(
    pods: Pods, task: str, argument: int, status: int, start: str
) -> None:
    record = pods.attempt(task, argument)
    assert pods.run(record, GPUQUEUE_START=start)[0] == status
    assert pods.hands.kept(record)["state"] == "running", "its launcher concludes the end"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_stop_of_the_pod_reaches_the_task(pods: Pods, start: str) -> None:
    fifo = pods.fifo()
    record = pods.attempt("wait", str(fifo))
    with pods.started(record, GPUQUEUE_START=start) as process:
        executor, runner = fifo.read_text().split()
        assert int(runner) == process.pid != int(executor)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == EXIT_TERMINATED
    assert pods.result(record).state == states.STARTED


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_stop_during_the_import_is_a_stop(pods: Pods, start: str) -> None:
    fifo = pods.fifo()
    # A library that wraps what its import raises.
    pods.image(
        f"try:\n    open({str(fifo)!r}, 'w').close(); time.sleep(600)\n"
        "except BaseException as exc:\n    raise ImportError('broken') from exc"
    )
    record = pods.attempt("see")
    with pods.started(record, GPUQUEUE_START=start) as process:
        fifo.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == EXIT_TERMINATED
    kept = pods.hands.kept(record)
    assert (kept["state"], kept.get("load_error")) == ("running", None)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_application_that_cannot_be_imported_is_no_fault_of_the_job(pods: Pods, start: str) -> None:
    pods.image("raise RuntimeError('no such luck')")
    record = pods.attempt("see")
    status, log = pods.run(record, GPUQUEUE_START=start)
    assert status == EXIT_NO_APPLICATION
    assert log.count("GPUQUEUE_APP='own' cannot be imported: RuntimeError: no such luck") == 2
    assert log.rstrip().endswith(
        "celery -A`, and start the dispatcher where that can be imported"
    ), "the end of the log is the message of the container"
    kept = pods.hands.kept(record)
    assert (kept["state"], "no such luck" in kept["load_error"]) == ("running", True)


def test_setting_that_fails_in_the_runner_is_the_applications_fault(pods: Pods) -> None:
    pods.image(
        "from celery.loaders.app import AppLoader\n"
        "def fail(self): raise KeyError('MODEL')\n"
        "AppLoader.on_worker_init = fail"
    )
    record = pods.attempt("see")
    status, log = pods.run(record)
    assert status == EXIT_NO_APPLICATION
    assert "GPUQUEUE_APP='own' cannot become a worker: KeyError: 'MODEL'" in log


def test_dispatcher_without_held_applications_gets_a_failure(pods: Pods) -> None:
    pods.image("raise RuntimeError('no such luck')")
    record = pods.attempt("see")
    del pods.env["GPUQUEUE_LOAD_TIMEOUT"]
    assert pods.run(record)[0] == 0
    assert type(pods.result(record).result).__name__ == "ApplicationNotFound"
    assert pods.hands.kept(record)["reason"] == "ERROR"


def test_import_that_kills_process_1_is_seen_as_an_import(pods: Pods) -> None:
    pods.image("os.kill(os.getpid(), signal.SIGKILL)")
    record = pods.attempt("see")
    assert pods.run(record)[0] == -signal.SIGKILL
    kept = pods.hands.kept(record)
    assert (kept["state"], kept["loading"]) == ("running", 1)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_attempt_of_another_process_imports_nothing(pods: Pods, start: str) -> None:
    record = pods.attempt("see")
    status, log = pods.run(record, GPUQUEUE_TOKEN="another", GPUQUEUE_START=start)
    assert (status, "imports" in log) == (EXIT_STALE, False)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_wrong_environment_is_said_as_by_the_executor(pods: Pods, start: str) -> None:
    record = pods.attempt("see")
    status, log = pods.run(record, GPUQUEUE_LAYOUT="2", GPUQUEUE_START=start)
    assert (status, log.startswith("gpuqueue: GPUQUEUE_LAYOUT='2' is")) == (EXIT_CONFIG, True)
