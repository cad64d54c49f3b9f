"""Rules of several pods that wait, of a state that is not as it was, and of those who end them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_OK, End, explain
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import bell_key, class_key
from gpuqueue.store.line import Line
from tests.property.going_on import POD, Instance

pytestmark = pytest.mark.integration
#: What another pod can run.
OTHER: dict[str, Any] = {"last": "z#1", "site": POD.site, "application": "shop", "name": "z"}
OTHER |= {"isolation": "shared"}
LOST = End(EndReason.INFRA, "gone")


class Pods(Instance):
    """A class of pods. ``me`` waits, beside others."""

    def __init__(self, client: redis.Redis, slots: int = 1, **more: Any) -> None:
        super().__init__(client, POD, slots, **more)

    def wait(self) -> None:
        """It has run a job, and waits for another one, for 90 s at most."""
        self.start()
        assert (self.ask(), self.called()) == (None, True)

    def put(self, instance: str, seconds: float = 60, **more: Any) -> None:
        """Let another pod wait. ``more``: of what it can run."""
        self.write(instance, json.dumps(OTHER | more), seconds)

    def write(self, instance: str, text: str, seconds: float = 60) -> None:
        self.client.hset(class_key("t4", "warm"), instance, text)
        self.client.zadd(class_key("t4", "warm_until"), {instance: self.now + seconds})

    def waiting(self) -> list[str]:
        """The instances that wait, in both keys alike."""
        known: Any = self.client.zrange(class_key("t4", "warm_until"), 0, -1)
        assert sorted(known) == sorted(self.reader.waiting_pods("t4"))
        return list(known)

    def told(self, instance: str) -> bool:
        return bool(self.client.zcard(bell_key("t4", instance)))

    def launched(self, name: str = "b", **more: Any) -> bool:
        """Whether a job that comes now is launched, and not given to a pod."""
        return [each["delivery"] for each in self.submit(name, **more)] == [name]

    def release(self, attempt: str, end: End = LOST, instance: str = POD.instance) -> Any:
        named = Attempt.parse("t4", attempt)
        assert named
        return self.line.release(self.gpu_class, named, end, instance)


@pytest.fixture
def make(schedule_redis: redis.Redis) -> Callable[..., Pods]:
    def pods(**more: Any) -> Pods:
        return Pods(schedule_redis, **more)

    return pods


@pytest.fixture
def here(make: Callable[..., Pods]) -> Pods:
    return make()


# -- when it waits ---------------------------------------------------------------------------------


def test_a_pod_that_has_an_assigned_gpu_does_not_wait(make: Callable[..., Pods]) -> None:
    here = make(devices=1)
    here.start()
    assert (here.answer(), here.waiting(), here.holders()) == ("none", [], [])


def test_a_pod_does_not_wait_while_its_first_job_may_run_again(here: Pods) -> None:
    here.start(ends=False)
    here.submit("b")
    assert here.ask(ended=LOST) == "b"
    here.end()
    assert here.answer() == "none"
    assert (here.record("a")["state"], here.waiting()) == ("delayed", [])


def test_a_pod_does_not_wait_after_a_job_that_runs_again(here: Pods) -> None:
    here.start()
    here.submit("b")
    assert here.ask() == "b"
    assert here.answer(ended=LOST.context() | {"tried": "always"}) == "none"
    assert (here.record("b")["state"], here.waiting()) == ("delayed", [])


def test_a_pod_that_was_sent_away_gets_no_other_answer(here: Pods) -> None:
    here.wait()
    assert here.line.send_away(["t4"], 1) == 1
    assert (here.answer(), here.called(), here.waiting()) == ("none", False, [])
    assert here.told(POD.instance)


def test_a_pod_that_asks_again_waits_no_longer(here: Pods) -> None:
    here.wait()
    until = here.client.zscore(class_key("t4", "warm_until"), POD.instance)
    here.now += 5
    assert here.answer() == "waits"
    assert here.client.zscore(class_key("t4", "warm_until"), POD.instance) == until


@pytest.mark.parametrize(("seconds", "waits"), [(89, True), (91, False)])
def test_a_pod_that_fell_silent_is_forgotten(here: Pods, seconds: float, waits: bool) -> None:
    here.wait()
    here.now += seconds
    here.line.tick("t4")
    assert here.waiting() == ([POD.instance] if waits else [])


# -- which job it is given -------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["shared", "exclusive"])
def test_a_pod_is_given_jobs_of_its_isolation(here: Pods, isolation: str) -> None:
    here.wait()
    assert here.launched(isolation=isolation) is (isolation == "exclusive")


@pytest.mark.parametrize(
    ("limits", "given"),
    [
        ({"time_limit": 60.0}, True),
        ({"time_limit": 100.0}, True),
        ({"time_limit": 101.0}, False),
        ({}, False),
        # What its task declares counts before the default of the class; 0: that is not known.
        ({"time_limit": 60.0, "planned_limit": 101.0}, False),
        ({"time_limit": 101.0, "planned_limit": 60.0}, True),
        ({"time_limit": 60.0, "planned_limit": 0}, False),
        ({"time_limit": 60.0, "planned_limit": 0, "max_time_limit": 100.0}, True),
    ],
)
def test_a_pod_that_waits_is_given_no_job_beyond_its_deadline(
    here: Pods, limits: dict[str, Any], given: bool
) -> None:
    here.start()
    assert here.ask(longest=100.0) is None
    assert here.launched(**limits) is not given


@pytest.mark.parametrize(("node", "given"), [("n1", False), ("n2", True)])
def test_a_pod_that_waits_is_given_no_job_that_avoids_its_node(
    here: Pods, node: str, given: bool
) -> None:
    here.start()
    assert here.ask(node=node) is None
    assert here.launched(avoid=["n1"]) is not given
    assert here.record("b").get("node") == (node if given else None)


@pytest.mark.parametrize(("node", "given"), [("n1", False), ("n2", True)])
def test_a_pod_that_waits_is_given_no_job_while_its_node_is_set_aside(
    here: Pods, node: str, given: bool
) -> None:
    here.start()
    assert here.ask(node=node) is None
    here.fail("node:n1", until=here.now + 9, pause=9)
    assert here.launched() is not given


def test_the_pod_that_began_to_wait_last_is_given_the_job(make: Callable[..., Pods]) -> None:
    here = make(slots=3)
    here.wait()
    for name, seconds in (("old", 80), ("new", 100)):
        here.put(f"gpu/{name}/u", seconds, last="a#1")
    assert not here.launched("b", task="any")
    assert here.record("b")["instance"] == "gpu/new/u"
    assert here.waiting() == ["gpu/old/u", POD.instance]
    assert (here.told("gpu/new/u"), here.told("gpu/old/u")) == (True, False)


def test_an_older_pod_is_given_a_job_that_the_newest_cannot_run(make: Callable[..., Pods]) -> None:
    here = make(slots=2)
    here.wait()
    here.put("gpu/new/u", 100, last="a#1", tenant="red")
    assert not here.launched()
    assert here.record("b")["instance"] == POD.instance
    assert (here.waiting(), here.told("gpu/new/u")) == (["gpu/new/u"], False)


def test_a_pod_has_twenty_seconds_to_claim_its_job(here: Pods) -> None:
    here.wait()
    here.submit("b")
    deadlines = here.client.zrange(class_key("t4", "deadlines"), 0, -1, withscores=True)
    assert deadlines == [("b#1", here.now + 20)]
    here.now += 21
    here.line.tick("t4")
    assert here.record("b")["timed_out"] == "start"


def test_a_job_that_its_pod_did_not_claim_is_launched_and_not_given_to_it(here: Pods) -> None:
    here.wait()
    here.submit("b")
    here.now += 21
    here.line.tick("t4")
    assert here.release("a#1").state == "delayed"
    here.now += 5
    here.line.tick("t4")
    [granted] = here.line.admit(here.gpu_class)
    assert (granted["delivery"], granted["attempt"]) == ("b", 2)
    assert here.called() is False


def test_a_pod_goes_whose_job_is_over_or_forgotten(here: Pods) -> None:
    here.wait()
    here.submit("b")
    here.line.cancel("t4", "b", terminate=True)
    assert here.release("a#1", explain(EXIT_OK)).state == "finishing"
    assert here.called() is False
    here.client.hdel(class_key("t4", "jobs"), "b")
    assert here.called() is False


def test_a_pod_that_asks_shows_that_it_lives(here: Pods) -> None:
    here.wait()
    for _ in range(3):
        here.now += 9
        assert here.called() is True
    assert not here.launched(), "it has the job"


def test_no_pod_waits_in_a_class_that_is_closed(here: Pods) -> None:
    here.wait()
    here.client.hdel(class_key("t4", "gate"), "opened")
    assert (here.called(), here.waiting()) == (False, [])


def test_a_class_that_opens_knows_no_pod_that_waits(here: Pods) -> None:
    here.wait()
    here.line.open("t4")
    assert here.waiting() == [POD.instance], "it was open"
    here.client.hdel(class_key("t4", "gate"), "opened")
    here.line.open("t4")
    assert here.waiting() == []


def test_a_pod_goes_when_nothing_starts_such_pods(here: Pods) -> None:
    here.wait()
    here.line.site = replace(here.line.site, settings="v2")
    here.announce()
    assert (here.called(), here.waiting()) == (False, [])


# -- a state that is not as it was -----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "5",
        "[]",
        json.dumps(OTHER | {"last": 5}),
        json.dumps(OTHER | {"last": "z"}),
        json.dumps(OTHER | {"site": {}}),
        json.dumps(OTHER | {"application": None}),
        json.dumps(OTHER | {"name": {}}),
        json.dumps(OTHER | {"node": {}}),
        json.dumps(OTHER | {"longest": "9"}),
    ],
)
def test_a_pod_whose_entry_is_damaged_goes_and_the_job_is_launched(here: Pods, text: str) -> None:
    here.start("z")
    assert here.ask(stays=None) is None
    here.write("gpu/z/u", text)
    assert here.launched()
    assert (here.waiting(), here.told("gpu/z/u")) == ([], True)


@pytest.mark.parametrize("what", ["silence", "no dispatcher", "settings", "last", "first", "again"])
def test_a_pod_that_could_not_be_found_goes_and_the_job_is_launched(
    make: Callable[..., Pods], what: str
) -> None:
    here = make(slots=2)  # its share is not needed
    here.wait()
    if what == "first":  # `a` is its second job
        known = json.dumps(here.record("a") | {"warm_of": "gone#1"})
        here.client.hset(class_key("t4", "jobs"), "a", known)
    elif what == "silence":
        here.now += 10
    elif what == "no dispatcher":
        here.now += 601
        entry = json.loads(here.client.hget(class_key("t4", "warm"), POD.instance) or "")
        here.client.hset(
            class_key("t4", "warm"), POD.instance, json.dumps(entry | {"seen": here.now})
        )
        here.client.zadd(class_key("t4", "warm_until"), {POD.instance: here.now + 9})
    elif what == "settings":
        here.line.site = replace(here.line.site, settings="v2")
        here.announce()
    elif what == "last":
        here.client.hdel(class_key("t4", "jobs"), "a")
    elif what == "again":  # forgotten, and delivered once more
        here.client.hdel(class_key("t4", "jobs"), "a")
        here.line.accept("t4", {"delivery": "a", "id": "a", "isolation": "shared"}, "{}")
    assert here.launched()
    assert (here.waiting(), here.told(POD.instance)) == ([], True)


@pytest.mark.parametrize("waits", [True, False])
def test_a_pod_of_another_cluster_is_left_to_its_dispatchers(
    make: Callable[..., Pods], waits: bool
) -> None:
    """``waits``: they live."""
    here = make(slots=2)
    here.wait()
    if not waits:
        here.now += 601
        here.client.zadd(class_key("t4", "warm_until"), {POD.instance: here.now + 9})
    other = Line(here.client, by="d2", owner="cluster-2", site=here.line.site)
    record: Any = {"delivery": "b", "id": "b", "isolation": "shared", "warm": 60.0}
    granted = other.take_in(here.gpu_class, record, "{}").granted
    assert [each["delivery"] for each in granted] == ["b"]
    assert here.waiting() == [POD.instance]


def test_a_host_gives_its_jobs_to_no_pod_and_sends_none_away(here: Pods) -> None:
    here.wait()
    host = Line(here.client, by="d2", owner=POD.site, site=Site("h", "shop"))
    record: Any = {"delivery": "b", "id": "b", "isolation": "shared", "warm": 60.0}
    [granted] = host.take_in(here.gpu_class, record, "{}").granted
    assert here.waiting() == [POD.instance]
    host.release(here.gpu_class, Attempt.of(granted), LOST, POD.instance)
    assert here.waiting() == [POD.instance], "its processes are no pods"


def test_an_older_state_in_which_a_pod_waits_gives_it_one_job(here: Pods) -> None:
    here.start()
    here.submit("b")
    here.put(POD.instance)
    assert here.ask() == "b"
    assert here.waiting() == []


def test_a_pod_that_is_found_at_work_does_not_wait(here: Pods) -> None:
    """Redis came back with a state from before its job."""
    here.wait()
    found: Any = {"delivery": "b", "id": "b", "isolation": "shared", "gpu_class": "t4"}
    found |= {"attempt": 1, "token": "x", "instance": POD.instance, "warm_of": "a#1"}
    assert here.line.adopt("t4", found)
    assert here.waiting() == []


# -- when it goes ----------------------------------------------------------------------------------


def test_the_pod_that_would_go_first_makes_room(make: Callable[..., Pods]) -> None:
    here = make(slots=3)
    for name, seconds in (("c", 50), ("a", 30), ("b", 40)):
        here.put(f"gpu/{name}/u", seconds)
    assert here.launched("x", warm=None)
    assert here.waiting() == ["gpu/b/u", "gpu/c/u"]
    assert here.line.send_away(["t4"], 1) == 1
    assert here.waiting() == ["gpu/c/u"]


def test_pods_that_have_a_share_stay_when_a_job_is_launched(make: Callable[..., Pods]) -> None:
    here = make(slots=4)
    for name in ("a", "b"):
        here.put(f"gpu/{name}/u")
    assert here.launched("x", warm=None)
    assert here.waiting() == ["gpu/a/u", "gpu/b/u"]


def test_the_end_of_a_pod_that_waits_is_no_end_of_its_last_job(here: Pods) -> None:
    here.wait()
    released = here.release("a#1", explain(-9))
    assert (released.freed, released.state, here.waiting()) == (False, "ended", [])
    assert here.record("a")["reason"] == "SUCCEEDED"


@pytest.mark.parametrize("named", ["a#1", "c#1"])
def test_the_end_of_a_pod_before_its_claim_has_its_job_launched(here: Pods, named: str) -> None:
    here.start()
    here.submit("b")
    assert here.ask() == "b"
    here.end()
    assert here.ask() is None
    assert not here.launched("c")
    released = here.release(named, explain(-9))
    assert (released.freed, released.state, here.holders()) == (True, "delayed", [])
    here.now += 5
    here.line.tick("t4")
    [granted] = here.line.admit(here.gpu_class)
    assert (granted["delivery"], "warm_of" in granted) == ("c", False)


def test_a_launch_that_fails_ends_no_pod(make: Callable[..., Pods]) -> None:
    here = make(slots=2)
    here.wait()
    assert here.launched(warm=None)
    assert here.release("b#1", instance="").freed
    assert here.waiting() == [POD.instance]


def test_a_pod_that_leaves_takes_no_other_pod_with_it(make: Callable[..., Pods]) -> None:
    here = make(slots=2)
    here.wait()
    here.put("gpu/other/u")
    assert here.called(leaves=True) is False
    assert here.waiting() == ["gpu/other/u"]


def test_a_pod_claims_the_job_that_it_is_given(here: Pods) -> None:
    here.wait()
    here.submit("b", time_limit=5.0)
    record: Any = here.asker.called(POD.instance, "a#1")
    assert here.asker.called(POD.instance, "a#1") == record, "an answer may be lost"
    executor = ExecutorAttempt(here.client, Attempt.of(record), record["token"])
    claimed, _ = executor.claim(POD.instance, "w")
    assert (claimed["state"], claimed["node"], claimed["pod"]) == ("running", "n1", POD.host)
    assert not {"warm_most", "reused"} & set(claimed), "in a process that runs no other job"
    assert here.called() is False, "it runs"
    deadlines = here.client.zrange(class_key("t4", "deadlines"), 0, -1, withscores=True)
    assert deadlines == [("b#1", here.now + 5)]
