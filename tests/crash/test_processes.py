"""Whole processes die: dispatchers, the leader, executors, Redis; messages come twice; Redis loses
everything.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.errors import ExecutorDied
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import CHORDS
from gpuqueue.store.keys import leader_key
from gpuqueue.store.lease import Lease, group_of
from gpuqueue.store.line import Line
from tests.support.crash_stack import CrashStack
from tests.support.nodes import WorkerNode
from tests.support.processes import is_running
from tests.support.runners import end_runners
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]


def holding(cluster: CrashStack, count: int = 1) -> None:
    until(lambda: cluster.noted().count("holding") == count, PATIENCE, f"{count} running jobs")


def _is_known(cluster: CrashStack, dispatcher: WorkerNode) -> bool:
    return dispatcher.hostname() in cluster.reader.dispatchers(0)


def test_running_and_waiting_jobs_outlive_their_dispatcher(
    cluster: CrashStack, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = cluster.start("one")
    running = cluster.send("hold", str(gate), queue="gpu.t4.exclusive")
    holding(cluster)
    waiting = [cluster.send("work", number) for number in range(3)]
    until(lambda: all(each.state == "QUEUED" for each in waiting), PATIENCE, "three in line")
    first.kill()
    cluster.start("two")
    until(lambda: cluster.reader.leader() == "two@test", PATIENCE, "the new leader")
    assert running.state == "STARTED"
    gate.touch()
    assert running.get(timeout=PATIENCE) == "held"
    assert [each.get(timeout=PATIENCE) for each in waiting] == [0, 2, 4]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.noted().count("holding") == 1


def test_another_watcher_leads_within_seconds_of_the_leaders_death(cluster: CrashStack) -> None:
    cluster.start("one")
    cluster.start("two")
    leader = until(
        lambda: len(cluster.reader.dispatchers(0)) == 2 and cluster.reader.leader(),
        PATIENCE,
        "a leader of two",
    )
    cluster.workers[["one@test", "two@test"].index(leader)].kill()
    died = time.monotonic()
    until(lambda: cluster.reader.leader() not in (None, leader), PATIENCE, "another leader")
    assert time.monotonic() - died < 10
    result = cluster.send("work", 1)
    assert result.get(timeout=PATIENCE) == 2


def test_two_dispatchers_run_each_job_once(cluster: CrashStack) -> None:
    cluster.start("one")
    cluster.start("two")
    results = [
        cluster.send("work", number, queue=f"gpu.t4.{('shared', 'exclusive')[number % 4 == 3]}")
        for number in range(24)
    ]
    assert [each.get(timeout=60) for each in results] == [2 * number for number in range(24)]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == sorted(f"ran {number}" for number in range(24))


def test_the_same_message_delivered_three_times_is_one_job(cluster: CrashStack) -> None:
    result = cluster.send("work", 7)
    raw: Any = until(
        lambda: cluster.client.lindex("gpu.t4.shared", 0), PATIENCE, "the message in the broker"
    )
    for number in range(2):
        copy = json.loads(raw)
        copy["properties"]["delivery_tag"] += f"-copy{number}"
        cluster.client.lpush("gpu.t4.shared", json.dumps(copy))
    cluster.start("one")
    assert result.get(timeout=PATIENCE) == 14
    until(lambda: not cluster.client.llen("gpu.t4.shared"), PATIENCE, "an empty queue")
    until(cluster.is_idle, PATIENCE, "an idle queue")
    cluster.client.lpush("gpu.t4.shared", raw)  # and once more, long after it has ended
    probe = cluster.send("work", 8)
    assert probe.get(timeout=PATIENCE) == 16
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == ["ran 7", "ran 8"]


def test_nothing_is_lost_when_redis_is_killed_and_comes_back(
    cluster: CrashStack, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    cluster.start("one")
    running = cluster.send("hold", str(gate))
    holding(cluster)
    waiting = cluster.send("work", 1, queue="gpu.t4.exclusive")
    until(lambda: len(cluster.records()) == 2, PATIENCE, "two records")
    cluster.redis.kill()
    gate.touch()  # the job ends while Redis is away
    cluster.redis.restart()
    until(lambda: running.state == "SUCCESS", PATIENCE, "the first result")
    assert (
        until(lambda: waiting.state == "SUCCESS" and waiting.result, PATIENCE, "the second result")
        == 2
    )
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.noted() == ["holding", "ran 1"]


def test_the_end_of_an_orphan_is_kept_for_the_next_dispatcher(
    cluster: CrashStack, tmp_path: Path
) -> None:
    first = cluster.start("one")
    result = cluster.send("hold", str(tmp_path / "never"))
    holding(cluster)
    first.kill()
    (record,) = cluster.records()
    cluster.process_of(record).kill()
    cluster.start("two")
    with pytest.raises(ExecutorDied, match="signal 9"):
        result.get(timeout=PATIENCE)
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert len(cluster.noted()) == 1


@pytest.mark.local_only("a kubelet sees an end that no runner is there to see")
def test_an_orphan_killed_after_its_runner_is_tried_again(
    cluster: CrashStack, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = cluster.start("one")
    result = cluster.send("hold", str(gate))
    holding(cluster)
    first.kill()
    end_runners(cluster.url)
    (record,) = cluster.records()
    cluster.process_of(record).kill()
    cluster.start("two")
    holding(cluster, 2)
    gate.touch()
    assert result.get(timeout=PATIENCE) == "held"
    until(cluster.is_idle, PATIENCE, "an idle queue")


@pytest.mark.parametrize("kind", ["kubernetes"])
def test_a_job_ends_with_process_1_of_its_pod(cluster: CrashStack, tmp_path: Path) -> None:
    cluster.start("one")
    result = cluster.send("hold", str(tmp_path / "never"))
    holding(cluster)
    (record,) = cluster.records()
    executor = cluster.process_of(record)
    runner = executor.parent()
    assert runner and runner.environ()["GPUQUEUE_TOKEN"] == record["token"]
    runner.kill()
    with pytest.raises(ExecutorDied, match=r"signal 9.*exit code 137"):
        result.get(timeout=PATIENCE)
    assert not is_running(executor.pid)
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.noted() == ["holding"]


@pytest.mark.local_only("runners")
def test_a_job_goes_on_when_its_runner_is_killed(cluster: CrashStack, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.start("one")
    result = cluster.send("hold", str(gate))
    holding(cluster)
    end_runners(cluster.url)
    assert cluster.send("work", 1).get(timeout=PATIENCE) == 2, "a new runner starts attempts"
    (record,) = [each for each in cluster.records() if each["id"] == result.id]
    assert (record["state"], record["attempt"]) == ("running", 1)
    gate.touch()
    assert result.get(timeout=PATIENCE) == "held"
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == ["holding", "ran 1"]


def test_running_jobs_are_adopted_when_redis_has_lost_everything(
    cluster: CrashStack, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    cluster.start("one")
    cluster.send("hold", str(gate), queue="gpu.t4.exclusive")
    holding(cluster)
    (before,) = cluster.records()
    cluster.client.flushall()
    early = cluster.send("work", 0)
    record = until(
        lambda: [each for each in cluster.records() if each["id"] == before["id"]],
        PATIENCE,
        "the job adopted",
    )[0]
    assert (record["state"], record["instance"]) == ("running", before["instance"])
    assert cluster.reader.holders("t4")[0][0] == Attempt("t4", before["delivery"], 1)
    blocked = cluster.send("work", 1)
    until(lambda: blocked.state == "QUEUED", PATIENCE, "a job that waits for the adopted one")
    assert len(cluster.holders()) == 1
    assert cluster.noted() == ["holding"]
    gate.touch()
    assert [early.get(timeout=PATIENCE), blocked.get(timeout=PATIENCE)] == [0, 2]
    until(cluster.is_idle, PATIENCE, "an idle queue")


def test_one_process_of_an_exclusive_job_stays_when_redis_comes_back_older(
    cluster: CrashStack, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    cluster.env["GPUQUEUE_WARM_SECONDS"] = "0"  # processes are told apart by what they began with
    cluster.start("one")
    cluster.send("hold", str(first), queue="gpu.t4.exclusive")
    holding(cluster)
    result = cluster.send("hold", str(second), queue="gpu.t4.exclusive")
    until(lambda: result.state == "QUEUED", PATIENCE, "the second job in line")
    keys = list(cluster.client.scan_iter("gpuqueue:1:{t4}:*"))
    older = {key: cluster.client.dump(key) for key in keys}
    first.touch()
    holding(cluster, 2)
    pipe = cluster.client.pipeline(transaction=True)
    for key in cluster.client.scan_iter("gpuqueue:1:{t4}:*"):
        pipe.delete(key)
    for key, value in older.items():
        pipe.restore(key, 0, value)  # type: ignore[arg-type]
    pipe.execute()  # the first job has the slot again, and the second one runs
    until(
        lambda: any(
            record["id"] == result.id and record["state"] == "running"
            for record in cluster.records()
        ),
        PATIENCE,
        "the second job with its slot",
    )
    assert len(cluster.holders()) == 1
    until(
        lambda: (
            {process.environ()["GPUQUEUE_TOKEN"] for process in cluster.executors()}
            == {record.get("token") for record in cluster.records() if record["id"] == result.id}
        ),
        PATIENCE,
        "the process that has the slot, alone",
    )
    second.touch()
    assert result.get(timeout=PATIENCE) == "held"
    until(cluster.is_idle, PATIENCE, "an idle queue")


def test_a_job_cancelled_while_no_dispatcher_ran_is_stopped(
    cluster: CrashStack, tmp_path: Path
) -> None:
    first = cluster.start("one")
    result = cluster.send("hold", str(tmp_path / "never"))
    holding(cluster)
    first.kill()
    assert Line(cluster.client).cancel("t4", result.id) == "stopping"
    (record,) = cluster.records()
    pid = cluster.process_of(record).pid
    cluster.start("two")
    until(lambda: result.state == "REVOKED", PATIENCE, "REVOKED")
    assert not is_running(pid)
    until(cluster.is_idle, PATIENCE, "an idle queue")


def test_a_watcher_that_lost_its_lease_does_no_harm(cluster: CrashStack) -> None:
    cluster.start("one")
    until(cluster.reader.leader, PATIENCE, "a leader")
    usurper = Lease(cluster.client, "usurper", 2, group_of("", ["t4", CHORDS]))
    cluster.client.delete(leader_key(group_of("", ["t4", CHORDS])))
    assert usurper.hold()
    result = cluster.send("work", 1, countdown=0.2)  # it is due while no dispatcher leads
    assert result.get(timeout=PATIENCE) == 2


def test_jobs_go_on_when_dispatchers_are_replaced_one_by_one_under_load(
    cluster: CrashStack,
) -> None:
    cluster.start("d0")
    results = [cluster.send("work", number) for number in range(30)]
    for number in range(1, 4):
        fresh = cluster.start(f"d{number}")
        until(
            partial(_is_known, cluster, fresh),
            PATIENCE,
            "the new dispatcher",
        )
        cluster.workers[number - 1].container.kill("SIGTERM")
        results += [cluster.send("work", 100 * number + each) for each in range(5)]
    assert sum(result.get(timeout=60) for result in results) == 2 * (
        sum(range(30)) + 5 * 600 + 3 * 10
    )
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert len(cluster.noted()) == len(set(cluster.noted())) == 45
