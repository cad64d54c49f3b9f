"""A class that is held, and dispatchers of before holds: what they meet, and that no job is lost.

They read nothing of a hold. While the cluster refuses, they end jobs as they always did; once it
does not, the line goes on.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from celery.result import AsyncResult

from gpuqueue.errors import LaunchFailed
from gpuqueue.store import places
from gpuqueue.store.keys import class_key
from tests.support.waiting import PATIENCE, until
from tests.upgrade.previous import BEFORE_HOLDS, has_history, unpack
from tests.upgrade.stream import Versions, leave
from tests.upgrade.test_replicas import stopped

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]
JOBS = 6


@pytest.fixture(scope="session")
def before_holds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the last commit without holds lies."""
    if not has_history(BEFORE_HOLDS):
        pytest.skip(f"commit {BEFORE_HOLDS} is not here: a shallow clone, or no git")
    return unpack(tmp_path_factory.mktemp("before-holds"), BEFORE_HOLDS)


@pytest.fixture(params=["previous", "before_holds"])
def old(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def held(cluster: Versions) -> list[str]:
    return [each.name for each in places.set_aside(places.of(cluster.client, "t4"))]


def held_line(cluster: Versions, jobs: Sequence[int]) -> list[AsyncResult]:
    """Send jobs to a class that the cluster refuses; wait until it is held, and was tried again."""
    cluster.cluster.faults.policy("jobs", "no cost-center label")
    results = [cluster.send("work", number) for number in jobs]
    until(lambda: held(cluster) == ["launch:t4"], PATIENCE, "the class is held")

    def was_tried_again() -> bool:
        return any(each.pause >= 4 for each in places.of(cluster.client, "t4"))

    until(was_tried_again, PATIENCE, "it was tried again")
    return results


def states(cluster: Versions) -> collections.Counter[str]:
    return collections.Counter(record["state"] for record in cluster.records())


def ran(cluster: Versions) -> dict[str, int]:
    return collections.Counter(note for note in cluster.noted() if note.startswith("ran"))


def test_a_held_line_goes_on_with_an_older_dispatcher(
    versions: Callable[[str], Versions], old: Path
) -> None:
    cluster = versions("kubernetes")
    cluster.image(old)
    new = cluster.begin("new")
    cluster.ready(new)
    results = held_line(cluster, range(JOBS))
    leave(new)
    assert held(cluster) == ["launch:t4"] and states(cluster)["ended"] == 0
    tried = [record for record in cluster.records() if record.get("spared")]
    assert tried, "one job at least has the fields of a hold"

    cluster.cluster.faults.policy("jobs", None)
    former = cluster.begin("old", old)
    cluster.ready(former)
    assert [result.get(60) for result in results] == [2 * number for number in range(JOBS)]
    assert ran(cluster) == {f"ran {number}": 1 for number in range(JOBS)}
    until(cluster.is_idle, PATIENCE, "an idle queue")

    # The hold is still there, and one job of the next dispatcher that knows holds ends it.
    later = cluster.begin("later")
    cluster.ready(later)
    leave(former)
    assert cluster.send("work", 50).get(60) == 100
    until(
        lambda: held(cluster) == [], PATIENCE, "the class is not held", lambda: str(held(cluster))
    )
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert not cluster.client.exists(class_key("t4", "stopping"))


def test_every_job_of_a_held_class_ends_once_beside_an_older_dispatcher(
    versions: Callable[[str], Versions], old: Path
) -> None:
    cluster = versions("kubernetes")
    cluster.image(old)
    former = cluster.begin("old", old)
    cluster.ready(former)
    with stopped(former.container.pid):
        new = cluster.begin("new")
        cluster.ready(new)
        results = held_line(cluster, range(JOBS))
    results += [cluster.send("work", JOBS + number) for number in range(JOBS)]
    until(lambda: len(cluster.records()) == 2 * JOBS, PATIENCE, "all are accepted")
    leave(new)  # the former one leads, while the cluster still refuses
    until(lambda: cluster.reader.leader() == former.hostname(), PATIENCE, "it leads")
    cluster.cluster.faults.policy("jobs", None)
    later = cluster.begin("later")
    cluster.ready(later)

    def ended() -> bool:
        return all(result.ready() for result in results)

    until(ended, 90, "every job has ended", lambda: str(states(cluster)))
    done = {f"ran {n}": 1 for n, result in enumerate(results) if result.successful()}
    for number, result in enumerate(results):
        if result.successful():
            assert result.get() == 2 * number
        else:
            assert isinstance(result.result, LaunchFailed), result.result
    assert ran(cluster) == done, "what failed has not run, and the others once"
    until(cluster.is_idle, PATIENCE, "an idle queue")
    leave(former)
    assert cluster.send("work", 50).get(60) == 100
    until(lambda: held(cluster) == [], 75, "the class is not held", lambda: str(held(cluster)))
