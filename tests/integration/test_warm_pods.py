"""A warm pod, by hand: its runner goes on with other jobs, and waits for one without a slot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.executor_env import record_variables
from gpuqueue.model.record import Record
from gpuqueue.model.warm_pod import WARM_POD, WarmPod
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from tests.support.hands import T4, Hands
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
OWNER = "gpu-jobs-1"
POD_NAME, UID = "gpu-own-1-x7k", "8a0b-77"
INSTANCE = f"gpu/gpu-where-1/{UID}"
#: What an attempt finds of those before it, and leaves for those after it.
APP = """
import os, sys, tempfile, threading
from contextlib import suppress
from celery import Celery
URL = os.environ["CELERY_BROKER_URL"]
print("imports", os.getpid(), flush=True)
app = Celery("own", broker=URL, backend=URL)
LEFT = []
GPU = "/dev/full"  # stands in for one

@app.task
def see(name):
    print("sees", name, flush=True)
    known = [*LEFT, *os.listdir(tempfile.gettempdir()), *(n for n in os.environ if n == "LEFT")]
    known += [n for n in sys.modules if n == "this_was_left"]
    for pid in (os.getpid(), os.getppid()):  # a GPU would be open here, or in the runner
        for each in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                known += [n for n in [os.readlink(f"/proc/{pid}/fd/{each}")] if n == GPU]
    LEFT.append(open(GPU))
    LEFT.append("a value")
    os.environ["LEFT"] = "a variable"
    sys.modules["this_was_left"] = sys
    tempfile.mkstemp(prefix="a file")
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    if os.fork() == 0:  # a process that outlives its task
        os.setsid()
        threading.Event().wait()
    return [os.getpid(), os.getppid(), os.environ["GPUQUEUE_JOB_ID"], known]

@app.task
def load(name, path):
    print("loads", name, flush=True)
    LEFT.append(name)
    with open(path):  # opens once the test has sent the other jobs
        return [os.getpid(), LEFT]
"""


class Pods:
    """Warm pods whose image has an application ``own``."""

    def __init__(self, hands: Hands, folder: Path, start: str) -> None:
        (folder / "own.py").write_text(APP)
        hands.line = Line(hands.client, by="d1", owner=OWNER)
        hands.line.open("t4")
        hands.line.announce([T4], 600)
        self.hands = hands
        self.env = {
            "GPUQUEUE_POD": POD_NAME,
            "GPUQUEUE_POD_UID": UID,
            "GPUQUEUE_NODE": "node-1",
            "PYTHONPATH": str(folder),
            "GPUQUEUE_START": start,
        }

    @contextmanager
    def pod(self, record: Record, **terms: Any) -> Iterator[subprocess.Popen[str]]:
        told: dict[str, Any] = {
            "site": OWNER,
            "application": "",
            "settings": "",
            "jobs": 9,
            "age": 60,
            "log": 9000,
        }
        text = WarmPod(**(told | terms)).text()
        env = self.env | record_variables(record) | {WARM_POD: text}
        with self.hands.start(record, env) as process:
            try:
                yield process
            finally:
                process.kill()

    def attempt(self, task: str, *args: Any, **fields: Any) -> Record:
        return self.hands.attempt(f"own.{task}", *args, **({"warm": 60} | fields))

    def accept(self, task: str, *args: Any, **fields: Any) -> Record:
        return self.hands.accepted(f"own.{task}", *args, **({"warm": 60} | fields))

    def result(self, record: Record) -> Any:
        return self.hands.app.AsyncResult(record["id"]).get(timeout=PATIENCE)

    def waits(self) -> bool:
        return bool(self.hands.reader.waiting_pods("t4"))


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def pods(hands: Hands, tmp_path: Path, request: pytest.FixtureRequest) -> Pods:
    hands.client.flushdb()
    return Pods(hands, tmp_path, request.param)


def test_a_pod_that_waits_gets_the_next_job_and_finds_nothing_of_the_last(pods: Pods) -> None:
    first = pods.attempt("see", "one")
    with pods.pod(first) as process:
        pid, runner, its_id, _ = pods.result(first)
        assert (runner, its_id) == (process.pid, first["id"])
        until(pods.waits, PATIENCE, "the pod waits without a slot")
        assert pods.hands.reader.holder_names("t4") == []
        second = pods.accept("see", "two")
        other, runner, its_id, found = pods.result(second)
        assert other != pid
        assert (runner, its_id) == (process.pid, second["id"])
        assert found == [], "nothing of the first job"
        kept = pods.hands.kept(second)
        assert kept["instance"] == INSTANCE
        assert kept["worker"] == f"t4-{second['id']}-1@{POD_NAME}"
        assert (kept["node"], kept["pod"], kept["warm_turn"]) == ("node-1", POD_NAME, 2)
        until(pods.waits, PATIENCE, "the pod waits again")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        output = process.stdout.read() if process.stdout else ""
    logs = Logs(pods.hands.client)
    for record, own, other in ((first, "one", "two"), (kept, "two", "one")):
        log = logs.read(Attempt.of(record)) or ""
        assert f"sees {own}\n" in log
        assert f"sees {other}" not in log
    assert output.index("sees one") < output.index("sees two")


def test_a_model_stays_loaded_in_a_pod(pods: Pods, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slots = GpuClass("t4", shared_slots=1)  # the others wait for the process
    pods.hands.line.announce([slots], 600)
    first = pods.attempt("load", "one", str(gate), reuse=3, warm=0)
    with pods.pod(first) as process:
        others = [
            pods.hands.accepted("own.load", name, str(gate), slots=slots, reuse=3)
            for name in ("two", "three", "four")
        ]
        results = []
        for record in (first, *others[:2]):
            gate.write_text("")
            results.append(pods.result(record))
        assert process.wait(PATIENCE) == 0, "one of them allowed three"
        pid = results[0][0]
        assert results == [
            [pid, ["one"]],
            [pid, ["one", "two"]],
            [pid, ["one", "two", "three"]],
        ]
    logs = Logs(pods.hands.client)
    for record, name in zip((first, *others), ("one", "two", "three"), strict=False):
        kept = pods.hands.kept(record)
        assert kept["instance"] == INSTANCE
        log = logs.read(Attempt.of(kept)) or ""
        assert [each for each in ("one", "two", "three") if f"loads {each}\n" in log] == [name]
    last = Attempt.of(pods.hands.kept(others[1]))
    released = pods.hands.line.release(slots, last, instance=INSTANCE)
    assert [each["id"] for each in released.granted] == [others[2]["id"]]
