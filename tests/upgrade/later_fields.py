"""Take a record with fields of a later version through the scripts of the gpuqueue on PYTHONPATH;
print what each step lost.

``python later_fields.py URL``: the Redis is emptied. Needs nothing of the tests.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

#: What a later version may add: text, a number, a list that is not empty.
LATER: dict[str, Any] = {"later": "text", "later_number": 3, "later_list": ["a", "b"]}


def walk(url: str) -> dict[str, list[str]]:
    """Return step → what the record lacks, or has otherwise, after it."""
    client = connect(url)
    line, reader = Line(client, by="d@h"), Reader(client)
    t4 = GpuClass("t4", shared_slots=1, exclusive_slots=1)
    record: Any = {
        "delivery": "j",
        "id": "j",
        "task": "shop.train",
        "gpu_class": "t4",
        "isolation": "shared",
        "created": time.time(),
    }
    seen: dict[str, list[str]] = {}

    def step(name: str, state: str) -> Any:
        found: Any = reader.record("t4", "j")
        assert found["state"] == state, (name, found)
        seen[name] = sorted(field for field, value in LATER.items() if found.get(field) != value)
        return found

    def moved(gpu_class: str) -> None:
        """Wait until the job is in line again: after its eta, or the pause of a new attempt."""
        deadline = time.monotonic() + 30
        while not line.tick(gpu_class)[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    for pause in (0.5, 4.0, 16.0):  # on a busy machine, an eta may be over too soon
        client.flushdb()
        line.open("t4")
        times = {"eta": time.time() + pause, "expires": time.time() + 9999}
        line.accept("t4", record | times | LATER, '{"headers": {}}')
        step("accept", "accepted")
        line.enqueue(t4, "j")
        found: Any = reader.record("t4", "j")
        if found["state"] == "delayed":
            break
    step("enqueue", "delayed")
    moved("t4")
    step("tick", "waiting")
    for number in (1, 2):
        (granted,) = line.admit(t4)
        step(f"admit {number}", "launching")
        attempt = Attempt("t4", "j", number)
        assert line.relaunch(attempt, 0.0)
        line.launched(attempt, "host:n:1", 60.0)
        line.observed([Observation(attempt, WaitReason.PULLING_IMAGE, "slow", "pod", "node")])
        step(f"launched {number}", "launching")
        executor = ExecutorAttempt(client, attempt, granted["token"])
        executor.claim("host:n:1", "worker")
        executor.loaded(60.0)
        executor.sampled({"gpu": "GPU-1", "gpu_memory_peak": 5})
        step(f"claim {number}", "running")
        if number == 1:
            line.release(t4, attempt, End(EndReason.INFRA, "gone", "node"), "host:n:1")
            step("release, to be tried again", "delayed")
            moved("t4")
    executor.report(EndReason.SUCCEEDED)
    step("report", "reporting")
    line.release(t4, attempt, End(EndReason.ERROR, "died"), "host:n:1")
    step("release", "finishing")
    line.finish_claim("t4", "j", "finisher", 15.0)
    step("finish_claim", "finishing")
    client.flushdb()
    line.adopt("t4", record | {"attempt": 1, "token": "t", "instance": "host:n:1"} | LATER)
    step("adopt", "running")
    assert line.cancel("t4", "j") == "stopping"
    step("cancel", "running")
    client.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(walk(sys.argv[1])))
