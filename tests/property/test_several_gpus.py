"""Jobs of several GPUs: so many slots of one domain at once, and the promise that they start."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from tests.property.several import Several

pytestmark = pytest.mark.integration
A100 = GpuClass("t4", exclusive_slots=4)
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=2, exclusive_patience=1)
BY_NODE = GpuClass("t4", shared_slots=2, exclusive_slots=4, exclusive_patience=1, domain="node")


@pytest.fixture
def four(schedule_redis: redis.Redis) -> Several:
    """A machine of four GPUs that no job shares."""
    return Several(schedule_redis, A100, devices=4)


@pytest.fixture
def nodes(schedule_redis: redis.Redis) -> Several:
    return Several(schedule_redis, BY_NODE, nodes={"a": 4, "b": 2, "c": 1})


def test_a_job_takes_as_many_slots_and_gpus_as_it_asks_for(four: Several) -> None:
    assert four.send("one", 1) == ["one"]
    assert four.send("three", 3) == ["three"]
    assert four.running["three"]["all_devices"] == "1,2,3"
    four.check()
    assert four.send("next", 1) == []
    assert four.why("next") == "NO_FREE_SLOT"
    assert four.end("three") == ["next"]
    four.check()


def test_no_exclusive_job_overtakes_the_first_of_several_gpus(four: Several) -> None:
    for name in ("a", "b", "c"):
        four.send(name, 1)
    assert four.send("all", 4) == four.send("small", 1) == [], "one GPU is free"
    assert four.end("a") + four.end("b") == []
    assert four.end("c") == ["all"]
    assert four.end("all") == ["small"]
    four.check()


def test_all_slots_are_freed_once_however_often_an_end_is_told(four: Several) -> None:
    four.send("two", 2)
    attempt = Attempt.of(four.running["two"])
    four.end("two")
    assert not four.line.release(A100, attempt).freed
    assert four.zset("holders_further").keys() == {"."}
    assert four.send("all", 4) == ["all"]
    four.check()


def test_shared_jobs_stop_once_the_patience_of_one_is_used_up(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, T4, devices=2)
    queue.send("s1")
    assert queue.send("both", 2) == []
    assert queue.send("s2") == ["s2"], "its patience is 1"
    assert queue.end("s1") == []
    assert queue.send("s3") == []
    assert queue.why("s3") == "DRAINING_FOR_EXCLUSIVE"
    assert queue.end("s2") == ["both"]
    assert queue.end("both") == ["s3"]
    queue.check()


def test_it_takes_the_fullest_node_that_has_room_for_it(nodes: Several) -> None:
    nodes.send("s1")
    assert nodes.running["s1"]["domain"] == "a"
    assert nodes.send("two", 2) == ["two"]
    assert nodes.running["two"]["domain"] == "b"
    assert nodes.send("again", 2) == []
    assert nodes.why("again") == "SHARED_RUNNING"
    assert nodes.end("s1") == ["again"]
    assert nodes.send("third", 2) == ["third"], "two more GPUs of a"
    nodes.check()


def test_a_node_drains_that_has_as_many_slots_as_it_needs(nodes: Several) -> None:
    for name in ("s1", "s2", "s3"):
        nodes.send(name)
    assert [nodes.running[each]["domain"] for each in ("s1", "s2", "s3")] == ["a", "a", "b"]
    nodes.send("four", 4)
    nodes.end("s1")
    assert nodes.send("s4") == ["s4"]
    assert nodes.gate("drained") == "a", "b has fewer holders, and too few GPUs"
    assert nodes.end("s2") == []
    assert nodes.send("s5") == ["s5"]
    assert nodes.running["s5"]["domain"] != "a"
    nodes.check()
    ends = [name for name, each in nodes.running.items() if each["domain"] == "a"]
    assert [*itertools.chain.from_iterable(map(nodes.end, ends))] == ["four"]
    assert nodes.gate("drained") is None
    nodes.check()


def test_the_node_that_drains_changes_with_the_first_in_line(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, BY_NODE, nodes={"a": 4, "b": 2})
    for name, limit in (("s1", 100.0), ("s2", 100.0), ("s3", 10.0), ("s4", 10.0)):
        queue.send(name, time_limit=limit)
    queue.send("one", 1)
    queue.send("s5", time_limit=10.0)
    queue.end("s4")
    assert queue.gate("drained") == "b", "it is idle sooner"
    queue.send("four", 4)
    queue.line.cancel("t4", "one")
    queue.waiting.remove("one")
    assert queue.admit() == []
    assert queue.gate("drained") == "a", "b is too small"
    queue.check()


def test_nodes_of_an_older_version_serve_it_too(nodes: Several) -> None:
    assert nodes.gate("sizes") == "2 4"
    assert not nodes.client.exists(f"{nodes.key('domains')}:ends:1")
    nodes.client.hdel(nodes.key("gate"), "sizes")
    nodes.send("s1")
    assert nodes.send("four", 4) == []
    nodes.send("s2")
    assert nodes.gate("drained") is not None
    for name in list(nodes.running):
        nodes.end(name)
    assert list(nodes.running) == ["four"]
    nodes.check()


def test_many_small_nodes_hide_no_large_one(schedule_redis: redis.Redis) -> None:
    small = {f"small-{number:03}": 1 for number in range(70)}
    queue = Several(schedule_redis, BY_NODE, nodes={**small, "z": 4})
    queue.send("e", 1, time_limit=5.0)
    for number in range(2 * 69 + 1):
        queue.send(f"s{number}", time_limit=10.0 + number)
    last = f"s{2 * 69}"
    assert queue.running[last]["domain"] == "z"
    queue.send("four", 4)
    queue.end("s0")
    queue.send("s-later", time_limit=1.0)
    assert queue.gate("drained") == "z"
    assert queue.end(last) == ["four"]
    queue.check()


def test_one_that_no_node_can_hold_waits_and_holds_up_none(nodes: Several) -> None:
    assert nodes.send("eight", 8) == []
    assert nodes.send("small", 1, tenant="red") == ["small"]
    found = nodes.record("eight")
    assert (found["state"], nodes.why("eight")) == ("delayed", "UNSCHEDULABLE")
    assert "gpu.gpus=8 exceeds the 4 exclusive slots" in found["detail"]
    nodes.now += 40
    nodes.line.tick("t4")
    assert nodes.admit() == []
    assert nodes.why("eight") == "UNSCHEDULABLE"
    nodes.set_nodes({**nodes.nodes, "large": 8})
    nodes.now += 40
    nodes.line.tick("t4")
    assert nodes.admit() == ["eight"]
    assert nodes.running["eight"]["domain"] == "large"
    nodes.check()


def test_one_waits_for_the_slots_that_its_class_has_lost(four: Several) -> None:
    four.send("held", 4)
    four.send("three", 3)
    four.send("one", 1)
    four.gpu_class = GpuClass("t4", exclusive_slots=2)
    assert four.end("held") == ["one"]
    assert (four.record("three")["state"], four.why("three")) == ("delayed", "UNSCHEDULABLE")
    four.gpu_class = A100
    four.now += 40
    four.line.tick("t4")
    assert four.admit() == ["three"]
    four.check()


def test_one_that_expires_ends_while_no_node_can_hold_it(nodes: Several) -> None:
    nodes.send("eight", 8, expires=nodes.now + 10)
    nodes.now += 11
    nodes.line.tick("t4")
    assert nodes.record("eight")["reason"] == "EXPIRED"


# -- every order of small cases --------------------------------------------------------------------

#: Name → GPUs; 0: shared.
JOBS = {"W": 2, "e": 1, "f": 1, "s": 0, "t": 0}


def explore(queue: Several, jobs: str, judge: Callable[[Several], None]) -> int:
    """Visit each point of each schedule in which these jobs come and end, in any order. Return how
    many there are. Jobs of one kind come in alphabetical order: nothing else tells them apart.
    """
    seen = {(queue.point(), jobs)}
    open_points = [(queue.save(), jobs)]
    while open_points:
        start, left = open_points.pop()
        kinds = {JOBS[name]: name for name in sorted(left, reverse=True)}
        for name in (*kinds.values(), *sorted(start.here[0])):
            queue.restore(start)
            if name in left:
                queue.send(name, JOBS[name])
            else:
                queue.end(name)
            queue.check()
            judge(queue)
            point = (queue.point(), left.replace(name, ""))
            if point not in seen:
                seen.add(point)
                open_points.append((queue.save(), point[1]))
    return len(seen)


def first_in_line(queue: Several) -> bool:
    exclusive = [each for each in queue.waiting if queue.is_exclusive(each)]
    return exclusive[:1] == ["W"]


def judge_one_domain(queue: Several) -> None:
    """At most K later shared jobs overtake it, and no exclusive one; it starts once it can."""
    later = queue.overtaken["W"]
    assert not [name for name, _ in later if queue.is_exclusive(name)], later
    assert len(later) <= queue.gpu_class.exclusive_patience, later
    assert queue.running or not queue.waiting, "all slots are free, and a job waits"
    if first_in_line(queue) and not queue.taken()["shared"]:
        free = queue.gpu_class.exclusive_slots - queue.taken()["exclusive"]
        assert free < JOBS["W"], "its slots are free, and it waits"


def judge_domains(queue: Several) -> None:
    """The same by domain: one is reserved for it as long as it waits, and no exclusive job that
    comes later starts there; nor does a shared one beyond its patience. The other one goes on.
    """
    later = queue.overtaken["W"]
    assert not [name for name, domain in later if queue.is_exclusive(name) and domain == "a"]
    shared = [domain for name, domain in later if not queue.is_exclusive(name)]
    patience, waits = queue.gpu_class.exclusive_patience, first_in_line(queue)
    assert "a" not in shared[patience:], later
    assert queue.gate("reserved") == ("a" if waits else None), "the only one with two slots"
    if waits:
        assert queue.gate("drained") == ("a" if len(shared) >= patience else None)
    assert sum(queue.taken("a").values()) or not waits, "it is idle, and its job waits"
    others = [name for name in queue.waiting if name != "W"]
    assert sum(queue.taken("b").values()) or not others, "it is idle, and a job for it waits"


MORE = pytest.param("Wefst", id="five jobs", marks=pytest.mark.slow)


@pytest.mark.parametrize("jobs", [pytest.param("West", id="four jobs"), MORE])
def test_every_order_in_one_domain(schedule_redis: redis.Redis, jobs: str) -> None:
    queue = Several(schedule_redis, T4, devices=2)
    assert explore(queue, jobs, judge_one_domain) > 100


@pytest.mark.parametrize("jobs", [pytest.param("Wes", id="three jobs"), MORE])
def test_every_order_on_two_nodes(schedule_redis: redis.Redis, jobs: str) -> None:
    queue = Several(schedule_redis, BY_NODE, nodes={"a": 2, "b": 1})
    assert explore(queue, jobs, judge_domains) > 30
