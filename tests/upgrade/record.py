"""Record what a version leaves in Redis: from the root of the repository,
``PYTHONPATH=tests/support/apps python -m tests.upgrade.record COMMIT FILE``.

Dispatchers and executors of that commit run for it, and are killed at the steps that the crash
tests know, so that a job is left in every state. Nothing is written by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.crash_stack import CLOCKS, INJECTION
from tests.support.nodes import APPS, WorkerNode
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.upgrade.previous import unpack
from tests.upgrade.state import Kept, dump

SHARED, EXCLUSIVE = "gpu.t4.shared", "gpu.t4.exclusive"
#: Five shared jobs hold a slot when all is recorded: every other has to wait.
SLOTS = "5"


class Recorder(Stack):
    """A Redis, and dispatchers of one commit."""

    def __init__(self, directory: Path, code: Path) -> None:
        path = ":".join(map(str, (code, INJECTION, APPS)))
        super().__init__(directory, CLOCKS | {"PYTHONPATH": path, "T4_SHARED_SLOTS": SLOTS})
        self.jobs: dict[str, str] = {}

    def start(self, name: str, crash: str = "", *, leads: bool = False) -> WorkerNode:
        """Start a dispatcher; one that leads would repair what those before it have left."""
        env = {"CRASH_AT": crash, "CRASH_MARK": str(self.directory / name)} if crash else {}
        return self.dispatcher(name, env=env, arguments=() if leads else ("--no-gpu-watch",))

    def send(self, name: str, task: str, *args: Any, queue: str = SHARED, **options: Any) -> str:
        """Send a job, and keep its id under a name."""
        self.jobs[name] = self.app.send_task(f"shop.{task}", args, queue=queue, **options).id
        return self.jobs[name]

    def until(self, name: str, *states: str) -> None:
        self.in_state(self.jobs[name], *states)

    def dies(self, node: WorkerNode) -> None:
        until(lambda: node.container.exit_code is not None, 30.0, "it dies", node.logs)

    def cancel(self, job_id: str) -> None:
        """Cancel as the command line of that commit does."""
        command = (
            "import sys; from gpuqueue.cli.view.state import open_state; from gpuqueue.store.line"
            " import Line; "
        )
        command += "Line(open_state().client).cancel('t4', sys.argv[1])"
        node = self.workers[0].container
        subprocess.run(
            [sys.executable, "-c", command, job_id],
            env=node.environment,
            cwd=self.directory,
            check=True,
        )


def record(stack: Recorder) -> Kept:
    """Leave a job in every state."""
    # What has ended.
    first = stack.start("first", leads=True)
    stack.send("done", "tell_of", "done", 1)
    stack.send("failed", "fail")
    stack.send("retried", "try_until", 1)
    for name in ("done", "failed", "retried"):
        stack.until(name, "ended")
    stack.idle()
    first.kill("SIGTERM")
    # Four that run. Their dispatcher dies; one executor dies as it has claimed its end, one ends.
    running = stack.start(
        "running", "gpuqueue.store.attempts:ExecutorAttempt.report:after", leads=True
    )
    for name in ("running", "running, to be stopped", "reporting", "ended, not released"):
        stack.send(name, "hold", name)
        stack.until(name, "running")
    stack.send("exclusive", "tell_of", "exclusive", 1, queue=EXCLUSIVE, priority=3)
    stack.until("exclusive", "waiting")
    running.kill()
    stack.go("reporting")
    stack.until("reporting", "reporting")
    stack.go("ended, not released")
    stack.until("ended, not released", "ended")
    # One whose executor dies before it claims: it is due again after a pause. It has bypassed the
    # exclusive one.
    pausing = stack.start("pausing", "gpuqueue.store.attempts:ExecutorAttempt.claim:before")
    stack.send("delayed by a pause", "tell_of", "paused", 1)
    stack.until("delayed by a pause", "delayed")
    pausing.kill()
    # One that is admitted, and not launched: the fifth slot.
    launching = stack.start(
        "launching", "gpuqueue.launchers.local.launcher:LocalLauncher.start:before"
    )
    stack.send("launching", "tell_of", "launching", 1)
    stack.dies(launching)
    # One that is kept, not in line, and not acknowledged.
    accepting = stack.start("accepting", "gpuqueue.glue.results.states:ResultStates.store:after")
    stack.send("accepted", "tell_of", "accepted", 1)
    stack.dies(accepting)
    # In line.
    lining = stack.start("lining")
    for name, queue, priority in (
        ("shared 6", SHARED, 6),
        ("shared 3", SHARED, 3),
        ("exclusive 0", EXCLUSIVE, 0),
        ("shared 3 later", SHARED, 3),
        ("cancelled", SHARED, 0),
    ):
        stack.send(name, "tell_of", name, 1, queue=queue, priority=priority)
        stack.until(name, "waiting")
    stack.send("expiring", "tell_of", "expiring", 1, expires=1)
    stack.until("expiring", "waiting")
    stack.send("delayed by eta", "tell_of", "eta", 1, countdown=8)
    stack.until("delayed by eta", "delayed")
    lining.kill()
    # To be finished: one that is not taken up yet, one whose finisher died.
    stack.cancel(stack.jobs["cancelled"])
    stack.cancel(stack.jobs["running, to be stopped"])
    refusing = stack.start("refusing", "gpuqueue.store.line:Line.finish_claim:after")
    stack.send(
        "refused", "tell_of", "refused", 1, queue="gpu.auto", headers={"gpu": {"memory": "9TiB"}}
    )
    stack.dies(refusing)
    # Revoked before it came, and one that no dispatcher has taken.
    stack.jobs["revoked before it came"] = "5f3a2b14-0000-4000-8000-000000000000"
    stack.cancel(stack.jobs["revoked before it came"])
    stack.send("in the broker", "tell_of", "broker", 1)
    for executor in stack.executors():
        executor.kill()
    paths = {
        str(stack.directory.parent): "DIRECTORY",
        str(Path(__file__).parents[2]): "ROOT",
        sys.base_prefix: "PYTHON",
    }
    return {"jobs": stack.jobs, **dump(stack.client, paths)}


def main(commit: str, file: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stack = Recorder(Path(directory) / "stack", unpack(Path(directory) / "code", commit))
        try:
            found = {"commit": commit, **record(stack)}
        finally:
            stack.close()
    Path(file).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
