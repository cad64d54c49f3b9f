"""Kill the process that takes a step, at every step of dispatch, run, watch and finish: each job
ends once, no slot leaks.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gpuqueue import gpu
from tests.support.crash_stack import CrashStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]

LAUNCHERS = {
    "local": "gpuqueue.launchers.local.launcher:LocalLauncher",
    "kubernetes": "gpuqueue.launchers.kubernetes.launcher:KubernetesLauncher",
}
#: The steps of one job, in their order; see crash_injection for the form.
DISPATCH = {
    "1 messages in hand": "gpuqueue.store.intake:Intake.take:after:messages",
    "2 before the job is kept": "gpuqueue.store.line:Line.take_in:before",
    "3 kept and admitted, not launched": "gpuqueue.store.line:Line.take_in:after",
    "4 launch under way, its state not stored": "gpuqueue.dispatcher.slots:Slots._submit:after",
    "5 state stored": "gpuqueue.glue.results.states:ResultStates.store:after",
    "6 accepted, its message still in hand": (
        "gpuqueue.dispatcher.intake:IntakeLoop._accept_one:after"
    ),
    "7 before the process starts": "LAUNCHER.start:before",
    "8 process started, launch not noted": "LAUNCHER.start:after",
    "9 launch noted": "gpuqueue.store.line:Line.launched:after",
    "10 process ended, slot not freed": "gpuqueue.store.line:Line.release:before",
    "11 slot freed, the next not launched": "gpuqueue.store.line:Line.release:after",
}
#: The steps of a turn that moves or admits jobs: nothing is launched yet.
TURN = {
    "14 moved what is due": "gpuqueue.store.turn:Turns.take:after:moved",
    "15 admitted by the watcher": "gpuqueue.store.turn:Turns.take:after:granted",
}
WATCH = {
    "12 elected": "gpuqueue.store.lease:Lease.hold:after",
    "13 class opened": "gpuqueue.store.line:Line.open:after",
    **TURN,
    "16 compared holders and processes": "gpuqueue.dispatcher.repair:Repair.run:after",
}
EXECUTOR = {
    "17 before it claims": ("gpuqueue.store.attempts:ExecutorAttempt.claim:before", "SUCCESS"),
    # The code of the task has not run: another attempt follows.
    "18 claimed": ("gpuqueue.store.attempts:ExecutorAttempt.claim:after", "SUCCESS"),
    "19 application loaded": ("gpuqueue.store.attempts:ExecutorAttempt.loaded:after", "FAILURE"),
    "20 task done, finish not claimed": (
        "gpuqueue.store.attempts:ExecutorAttempt.report:before",
        "FAILURE",
    ),
    "21 finish claimed, nothing written": (
        "gpuqueue.store.attempts:ExecutorAttempt.report:after",
        "FAILURE",
    ),
    "22 all written, not confirmed": (
        "gpuqueue.store.attempts:ExecutorAttempt.reported:before",
        "SUCCESS",
    ),
    "23 confirmed": ("gpuqueue.store.attempts:ExecutorAttempt.reported:after", "SUCCESS"),
}
RUNNER = {
    "before the fork": "gpuqueue.runner.attempts:Attempts.start:before",
    "forked, not answered": "gpuqueue.runner.attempts:Attempts.start:after",
    "attempt ended, not noted": "gpuqueue.runner.attempts:Attempts.exited:before",
    "end read, not kept": "gpuqueue.runner.attempts:Attempts._end:before",
    "end kept, not told": "gpuqueue.runner.attempts:Attempts._end:after",
    "before it listens": "gpuqueue.runner.attempts:Attempts.adopt:before",
}
#: The steps of process 1 of a pod.
POD = {
    "claimed, nothing imported": "gpuqueue.executor.process:Executor.claim:after",
    "imported, not forked": "gpuqueue.runner.parent:settle:after",
    "executor ended, not reaped": "gpuqueue.runner.child:reap:before",
    "executor reaped, what it left not ended": "gpuqueue.runner.pod:Pod.sweep:before",
    "nothing left": "gpuqueue.runner.pod:Pod.sweep:after",
}
#: The steps of a process that goes on with another job.
NEXT = {
    "before it asks": "gpuqueue.store.attempts:ExecutorAttempt.take_next:before",
    "given, not noted": "gpuqueue.store.attempts:ExecutorAttempt.take_next:after",
    "noted, its output not parted": "gpuqueue.launchers.local.runtime:Runtime.go_on:after",
    "it runs": "gpuqueue.executor.reuse:Reuse.take_next:after",
    "the second reported": "gpuqueue.store.attempts:ExecutorAttempt.reported:after",
}
#: The steps of process 1 of a pod that goes on with another job, or waits for one.
WARM = {
    "the first has ended": "gpuqueue.executor.warm:Warm.next:before",
    "its log kept, nothing asked": "gpuqueue.executor.process:Executor.keep_log:after",
    "asked, the answer not read": "gpuqueue.store.attempts:ExecutorAttempt.take_next:after",
    "turned to the next": "gpuqueue.executor.process:Executor.goes_on:after",
    "the next is claimed": "gpuqueue.executor.warm:Warm.next:after",
    "it waits": "gpuqueue.executor.process:Executor.called:after",
    "it looks for its job": "gpuqueue.executor.process:Executor.sleep:after",
}
FINISH = {
    "24 finish claimed": "gpuqueue.store.line:Line.finish_claim:after",
    "25 written, not confirmed": "gpuqueue.store.line:Line.finished:before",
    "26 confirmed": "gpuqueue.store.line:Line.finished:after",
}


@pytest.mark.parametrize("step", [*DISPATCH, *WATCH])
def test_every_job_ends_once_when_the_dispatcher_dies_at_step(
    cluster: CrashStack, step: str, kind: str
) -> None:
    if step in TURN:
        cluster.env["GPUQUEUE_WARM_SECONDS"] = "0"  # a pod that waits begins without a launch
    results = [cluster.send("work", number) for number in range(3)]
    results.append(cluster.send("work", 3, queue="gpu.t4.exclusive"))
    results.append(cluster.send("work", 4, countdown=0.5))
    doomed = cluster.start(
        "doomed", crash={**DISPATCH, **WATCH}[step].replace("LAUNCHER", LAUNCHERS[kind])
    )
    # A slot is free and this one not yet due when it is accepted, so that a turn admits it.
    until(
        lambda: doomed.container.exit_code is not None or all(each.ready() for each in results),
        PATIENCE,
        "the first results, or the dispatcher's death",
    )
    results.append(cluster.send("work", 5, countdown=1))
    assert cluster.died(doomed) == -signal.SIGKILL
    if step in TURN:
        assert "launching" in {record["state"] for record in cluster.records()}
    cluster.start("heir")
    assert [result.get(timeout=45) for result in results] == [0, 2, 4, 6, 8, 10]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == [f"ran {number}" for number in range(6)]
    assert [record["reason"] for record in cluster.records()] == ["SUCCEEDED"] * 6


@pytest.mark.local_only("runners")
@pytest.mark.parametrize("step", RUNNER)
def test_every_job_ends_once_when_its_runner_dies_at_step(cluster: CrashStack, step: str) -> None:
    results = [cluster.send("work", number) for number in range(3)]
    results.append(cluster.send("work", 3, queue="gpu.t4.exclusive"))
    cluster.start("one", crash=RUNNER[step])
    assert [result.get(timeout=45) for result in results] == [0, 2, 4, 6]
    assert cluster.mark.exists(), "the runner has died"
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == [f"ran {number}" for number in range(4)]
    assert [record["reason"] for record in cluster.records()] == ["SUCCEEDED"] * 4


@pytest.mark.parametrize("kind", ["kubernetes"])
@pytest.mark.parametrize("step", POD)
def test_every_job_ends_once_when_process_1_of_its_pod_dies_at_step(
    cluster: CrashStack, step: str
) -> None:
    results = [cluster.send("work", number) for number in range(2)]
    results.append(cluster.send("work", 2, queue="gpu.t4.exclusive"))
    cluster.start("one", crash=POD[step])
    assert [result.get(timeout=45) for result in results] == [0, 2, 4]
    assert cluster.mark.exists(), "process 1 has died"
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == [f"ran {number}" for number in range(3)]
    assert [record["reason"] for record in cluster.records()] == ["SUCCEEDED"] * 3


@pytest.mark.parametrize("kind", ["kubernetes"])
@pytest.mark.parametrize("step", WARM)
def test_every_job_ends_once_when_its_warm_pod_dies_as_it_goes_on(
    cluster: CrashStack, step: str
) -> None:
    alone = gpu("t4", isolation="exclusive", warm=30)
    results = [cluster.send("work", number, **alone) for number in range(3)]
    cluster.start("one", crash=WARM[step])
    assert [result.get(timeout=45) for result in results] == [0, 2, 4]
    until(cluster.mark.exists, PATIENCE, "process 1 has died")
    results.append(cluster.send("work", 3, **alone))
    assert results[-1].get(timeout=45) == 6
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == [f"ran {number}" for number in range(4)]
    assert [record["reason"] for record in cluster.records()] == ["SUCCEEDED"] * 4


@pytest.mark.parametrize("step", EXECUTOR)
def test_a_job_ends_once_when_its_executor_dies_at_step(cluster: CrashStack, step: str) -> None:
    crash, state = EXECUTOR[step]
    cluster.start("one", crash=crash)
    result = cluster.send(
        "work", 1, link_error=cluster.sender.signature("crashshop.errback", queue="gpu.t4.shared")
    )
    until(cluster.mark.exists, PATIENCE, "the executor's death")
    until(result.ready, PATIENCE, "a result")
    assert result.state == state
    if state == "SUCCESS":
        assert result.get() == 2
        assert cluster.noted().count("ran 1") == 1
    else:
        assert type(result.result).__name__ == "ExecutorDied"
        assert "SIGKILL" in str(result.result)
        until(lambda: "errback ExecutorDied" in cluster.noted(), PATIENCE, "the errback")
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.noted().count("errback ExecutorDied") == (state == "FAILURE")


@pytest.mark.local_only("reuse")
@pytest.mark.parametrize("step", NEXT)
def test_every_job_ends_once_when_its_process_dies_as_it_goes_on(
    cluster: CrashStack, step: str
) -> None:
    told = gpu("t4", isolation="exclusive", reuse=9)
    del told["queue"]
    results = [
        cluster.send("work", number, queue="gpu.t4.exclusive", **told) for number in range(4)
    ]
    cluster.start("one", crash=NEXT[step])
    assert [result.get(timeout=45) for result in results] == [0, 2, 4, 6]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.mark.exists(), "the process has died"
    assert sorted(cluster.noted()) == [f"ran {number}" for number in range(4)]
    assert [record["reason"] for record in cluster.records()] == ["SUCCEEDED"] * 4
    assert any(record.get("warm_turn") for record in cluster.records())


@pytest.mark.parametrize("step", FINISH)
def test_a_cancelled_job_is_revoked_when_the_finisher_dies_at_step(
    cluster: CrashStack, step: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    doomed = cluster.start("doomed", crash=FINISH[step])
    first = cluster.send("hold", str(gate), queue="gpu.t4.exclusive")
    until(lambda: "holding" in cluster.noted(), PATIENCE, "the first job")
    waiting = cluster.send("work", 1, queue="gpu.t4.exclusive")
    until(lambda: waiting.state == "QUEUED", PATIENCE, "the second job in line")
    waiting.revoke()
    assert cluster.died(doomed) == -signal.SIGKILL
    cluster.start("heir")
    until(lambda: waiting.state == "REVOKED", PATIENCE, "REVOKED")
    gate.touch()
    assert first.get(timeout=30) == "held"
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert "ran 1" not in cluster.noted()
