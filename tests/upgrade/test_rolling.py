"""Dispatchers are replaced by those of another version while jobs wait, run and come: each runs
once, and no result is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gpuqueue.store.keys import LAYOUT, class_key
from tests.support.waiting import PATIENCE, until
from tests.upgrade.stream import EXCLUSIVE, NEW, SHARED, Stream, Versions, leave, probe

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("direction", ["upgrade", "roll back"])
def test_every_job_runs_once_during_a_rolling_upgrade(
    versions: Callable[[str], Versions], kind: str, direction: str, previous: Path, tmp_path: Path
) -> None:
    before, after = (previous, NEW) if direction == "upgrade" else (NEW, previous)
    cluster = versions(kind)
    cluster.image(before)  # it does not change with the dispatchers
    gate = tmp_path / "gate"
    old = [cluster.begin(f"old{number}", before) for number in range(2)]
    for node in old:
        cluster.ready(node)
    # Every state that lasts: running, in line behind it, and not yet due.
    running = [cluster.send("hold", str(gate)) for _ in range(2)]
    until(lambda: cluster.noted().count("holding") == 2, PATIENCE, "two running jobs")
    behind = cluster.send("work", 10_000, queue=EXCLUSIVE)
    later = cluster.send("work", 10_001, countdown=6)
    until(lambda: behind.state == later.state == "QUEUED", PATIENCE, "one in line and one delayed")
    instances = {
        record["id"]: record["instance"]
        for record in cluster.records()
        if record["state"] == "running"
    }
    with Stream(cluster) as stream:
        # As a Deployment with maxSurge 1 and maxUnavailable 0 does it: one more, and when that is
        # ready, one less.
        for number, node in enumerate(old):
            fresh = cluster.begin(f"new{number}", after)
            cluster.ready(fresh)
            assert after is not NEW or probe(fresh, "/healthz")[0] == 200
            leave(node)
        until(lambda: (cluster.reader.leader() or "").startswith("new"), PATIENCE, "a new leader")
        now = {
            record["id"]: record["instance"]
            for record in cluster.records()
            if record["id"] in instances
        }
        assert now == instances  # those that ran were left alone
        gate.touch()
        until(lambda: len(stream.sent) > 25, PATIENCE, "some more jobs")
    assert [result.get(timeout=60) for result in running] == ["held", "held"]
    assert [behind.get(timeout=60), later.get(timeout=60)] == [20_000, 20_002]
    stream.sent |= {10_000: behind, 10_001: later}
    stream.check()
    assert cluster.noted().count("holding") == 2
    assert cluster.client.get(LAYOUT) == "1"


@pytest.mark.parametrize("old", ["executors", "dispatchers"])
def test_executors_of_one_version_serve_dispatchers_of_another(
    versions: Callable[[str], Versions], old: str, previous: Path, tmp_path: Path
) -> None:
    cluster = versions("kubernetes")  # where the image has its own gpuqueue
    image, dispatcher = (previous, NEW) if old == "executors" else (NEW, previous)
    cluster.image(image)
    cluster.ready(cluster.begin("one", dispatcher))
    errback = cluster.sender.signature("crashshop.errback", queue=SHARED)

    assert cluster.send("code").get(timeout=30) == str(image)
    assert cluster.send("work", 1).get(timeout=30) == 2
    assert cluster.send("again", 2).get(timeout=30) == 4
    failed = cluster.send("fail", link_error=errback)
    with pytest.raises(ValueError, match="as asked"):
        failed.get(timeout=30)
    # Stopped, out of time, and killed: who finishes these for their executor is an executor too,
    # for the sake of the errback.
    stopped = cluster.send("hold", str(tmp_path / "never"))
    overdue = cluster.send("hold", str(tmp_path / "never"), time_limit=1, link_error=errback)
    killed = cluster.send("hold", str(tmp_path / "never"), link_error=errback)
    until(lambda: cluster.noted().count("holding") == 3, PATIENCE, "three running jobs")
    stopped.revoke(terminate=True)
    (record,) = [each for each in cluster.records() if each["id"] == killed.id]
    os.kill(cluster.process_of(record).pid, 9)
    until(lambda: stopped.state == "REVOKED", PATIENCE, "REVOKED")
    for result, error in ((overdue, "TimeLimitExceeded"), (killed, "ExecutorDied")):
        until(result.ready, PATIENCE, error)
        assert type(result.result).__name__ == error
    for error in ("ValueError", "TimeLimitExceeded", "ExecutorDied"):
        until(
            partial(_is_noted, cluster, f"errback {error}"),
            PATIENCE,
            f"the errback of {error}",
        )
    until(cluster.is_idle, PATIENCE, "an idle queue")
    # An older version counts nothing of what it does itself; jobs are accepted by dispatchers, and
    # end by their executors.
    counts = cluster.client.hgetall(class_key("t4", "counts"))
    assert ("accepted:shared" in counts) == (old == "executors")
    assert ("ended:shared:SUCCEEDED" in counts) == (old == "dispatchers")
    assert sorted(note for note in cluster.noted() if not note.startswith("holding")) == [
        "errback ExecutorDied", "errback TimeLimitExceeded", "errback ValueError",
        "failed", "ran 1", "try 0 of 2", "try 1 of 2",
    ]  # fmt: skip


def test_an_old_dispatcher_ends_a_job_that_its_task_rejects(
    versions: Callable[[str], Versions], previous: Path
) -> None:
    cluster = versions("kubernetes")
    cluster.image(NEW)
    cluster.ready(cluster.begin("one", previous))
    rejected = cluster.send("put_off")
    until(rejected.ready, PATIENCE, "an end")
    assert (rejected.state, type(rejected.result).__name__) == ("FAILURE", "ExecutorDied")
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.noted() == ["put off"]


def _is_noted(cluster: Versions, note: str) -> bool:
    return note in cluster.noted()
