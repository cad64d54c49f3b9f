"""Rules of an instance that asks for its next job, one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.keys import class_key
from gpuqueue.store.tenants import Tenants
from tests.property.going_on import HOST, POD, PROCESS, Instance
from tests.property.open_class import NOW

pytestmark = pytest.mark.integration
GPU = f"device:{HOST}/GPU-1"
APPLICATION = f"application:shop@{HOST}"


@pytest.fixture
def make(schedule_redis: redis.Redis) -> Callable[..., Instance]:
    def instance(me: WarmInstance = PROCESS, **more: Any) -> Instance:
        return Instance(schedule_redis, me, **more)

    return instance


@pytest.fixture
def here(make: Callable[..., Instance]) -> Instance:
    """A process."""
    return make()


# -- a question that comes again -------------------------------------------------------------------


def test_an_old_question_gets_no_job_after_two_others(here: Instance) -> None:
    old = here.start()
    here.submit("b", "c")
    assert here.ask() == "b"
    here.end()
    assert here.ask() == "c"
    here.asker = old
    assert here.ask() is None
    assert here.record("c")["state"] == "running"


def test_a_lost_answer_is_given_to_the_same_instance_alone(here: Instance) -> None:
    old = here.start()
    here.submit("b")
    assert here.ask() == "b"
    here.asker = old
    assert here.ask(instance="gpu-box:n:2") is None
    assert here.ask() == "b"


@pytest.mark.parametrize("what", ["reports", "message lost"])
def test_a_lost_answer_is_given_while_the_job_can_begin(here: Instance, what: str) -> None:
    old = here.start()
    here.submit("b")
    assert here.ask() == "b"
    if what == "reports":
        here.asker.report("SUCCEEDED")
    else:
        here.client.hdel(class_key("t4", "messages"), "b")
    here.asker = old
    assert here.ask() is None


# -- who asks --------------------------------------------------------------------------------------


def test_an_unknown_attempt_gets_no_job(here: Instance) -> None:
    here.asker = ExecutorAttempt(here.client, Attempt("t4", "gone", 1), "0" * 40)
    assert here.ask() is None


def test_an_attempt_with_the_token_of_another_ends_nothing(here: Instance) -> None:
    known = here.start(ends=False)
    here.submit("b")
    here.asker = ExecutorAttempt(here.client, known.attempt, "0" * 40)
    assert here.ask(reuses=False, ended=explain(1)) is None
    assert (here.record("a")["state"], here.holders()) == ("running", ["a#1"])


def test_an_attempt_that_has_no_process_gets_no_job(here: Instance) -> None:
    [granted] = here.submit("a")
    here.asker = ExecutorAttempt(here.client, Attempt.of(granted), granted["token"])
    assert here.ask(reuses=False, ended=explain(1)) is None
    assert here.record("a")["state"] == "launching"


def test_a_process_goes_on_after_its_own_word_alone(here: Instance) -> None:
    """One that has died cannot go on."""
    here.start(ends=False)
    here.submit("b")
    assert here.ask(reuses=True, ended=explain(1)) is None
    assert (here.record("a")["state"], here.holders()) == ("running", ["a#1"])


@pytest.mark.parametrize(
    ("without", "given"), [(["hvals", "hgetall"], "b"), (["info"], None)], ids=["gpus", "info"]
)
def test_only_rights_that_the_class_needs_are_asked_for(
    here: Instance, without: list[str], given: str | None
) -> None:
    here.start()
    here.submit("b")
    pool = here.client.connection_pool.connection_kwargs
    commands = ["+@all", *(f"-{each}" for each in without)]
    here.client.acl_setuser(
        "few", enabled=True, passwords="+x", keys=["*"], channels=["*"], commands=commands
    )
    try:
        with redis.Redis(
            host=pool["host"],
            port=pool["port"],
            username="few",
            password="x",
            decode_responses=True,
        ) as client:
            here.asker = ExecutorAttempt(client, here.asker.attempt, here.asker.token)
            assert here.ask() == given
    finally:
        here.client.acl_deluser("few")
    assert here.holders() == (["b#1"] if given else ["a#1"])


# -- by which terms --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "5", "{}", '{"spec": {}}', '{"spec": {}, "until": "soon"}'])
def test_no_job_is_given_by_terms_that_cannot_be_read(here: Instance, text: str) -> None:
    here.start()
    here.submit("b")
    here.client.hset(class_key("t4", "terms"), HOST, text)
    assert here.ask(application="") is None
    assert here.holders() == ["a#1"]


# -- which job fits --------------------------------------------------------------------------------


def test_a_process_without_a_gpu_gets_no_job_that_needs_one(here: Instance) -> None:
    here.start()
    here.submit("b")
    here.line.devices = {"t4": 2}
    here.announce()
    assert here.ask() is None


def test_a_gpu_that_the_class_does_not_use_any_more_gets_no_job(
    make: Callable[..., Instance],
) -> None:
    here = make(devices=2, slots=2)
    here.submit("other")
    here.start()
    assert here.record("a")["device"] == 1
    here.submit("b")
    here.line.devices = {"t4": 1}
    here.announce()
    assert here.ask() is None


def test_a_job_is_not_given_to_a_gpu_where_it_has_failed(make: Callable[..., Instance]) -> None:
    here = make(devices=1)
    here.start()
    here.submit("b", avoid=[GPU])
    assert here.ask() is None
    assert here.record("b")["state"] == "waiting"


@pytest.mark.parametrize(
    ("limit", "given"), [(60.0, "b"), (100.0, "b"), (101.0, None), (None, None)]
)
def test_a_pod_runs_no_job_that_its_own_deadline_could_end(
    make: Callable[..., Instance], limit: float | None, given: str | None
) -> None:
    here = make(POD)
    here.start()
    here.submit("b", **({"time_limit": limit} if limit else {}))
    assert here.ask(longest=100.0) == given


@pytest.mark.parametrize(("node", "given"), [("n1", None), ("n2", "b")])
def test_a_job_is_not_given_to_a_pod_on_a_node_that_it_avoids(
    make: Callable[..., Instance], node: str, given: str | None
) -> None:
    here = make(POD)
    here.start()
    here.submit("b", avoid=["n1"])
    assert here.ask(node=node) == given


@pytest.mark.parametrize(("node", "given"), [("n1", None), ("n2", "b")])
def test_no_job_is_given_to_a_pod_on_a_node_that_is_set_aside(
    make: Callable[..., Instance], node: str, given: str | None
) -> None:
    """The probe of a node is a cold start."""
    here = make(POD)
    here.start()
    here.fail("node:n1", until=here.now + 9, pause=9)
    here.submit("b")
    assert here.ask(node=node) == given


@pytest.mark.parametrize(("warm", "given"), [(60.0, "b"), (None, None)])
def test_a_pod_goes_on_with_jobs_that_allow_it(
    make: Callable[..., Instance], warm: float | None, given: str | None
) -> None:
    here = make(POD)
    here.start()
    here.submit("b", warm=warm)
    assert here.ask() == given


def test_a_pod_whose_executor_died_goes_on_with_another_job(
    make: Callable[..., Instance],
) -> None:
    here = make(POD)
    here.start(ends=False)
    here.submit("b", task="another")
    assert here.ask() is None, "a runs, and no end of it was seen"
    assert here.ask(ended=explain(1)) == "b"
    assert (here.record("a")["state"], here.record("a")["reason"]) == ("finishing", "ERROR")


def test_a_pod_runs_a_job_again_that_has_failed_in_it(make: Callable[..., Instance]) -> None:
    here = make(POD)
    here.start(ends=False)
    here.submit("b")
    assert here.ask(ended=End(EndReason.INFRA, "gone")) == "b"
    assert here.record("a")["state"] == "delayed"
    here.now += 5
    here.line.tick("t4")
    here.end()
    assert here.ask() == "a"
    record = here.record("a")
    assert (record["state"], record["attempt"], record["warm_of"]) == ("running", 2, "a#1")


def test_a_pod_frees_its_slot_when_no_job_waits(make: Callable[..., Instance]) -> None:
    here = make(POD)
    here.start()
    assert here.ask() is None
    assert here.holders() == []


# -- a place that has failed -----------------------------------------------------------------------


def test_the_probe_of_a_host_is_a_cold_start(here: Instance) -> None:
    here.start()
    here.submit("b")
    here.fail(f"host:{HOST}", until=here.now - 1, pause=2)
    assert here.ask(reuses=False) is None
    assert here.holders() == []
    [granted] = here.line.admit(here.gpu_class)
    assert granted["probes"] == [f"host:{HOST}"]


def test_the_probe_of_an_application_is_a_cold_start(here: Instance) -> None:
    """Also after an adopted attempt, which does not know its places."""
    found: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    found |= {"task": "t", "attempt": 1, "token": "x", "instance": PROCESS.instance}
    assert here.line.adopt("t4", found)
    here.asker = ExecutorAttempt(here.client, Attempt("t4", "a", 1), "x")
    here.end()
    here.submit("b")
    here.fail(APPLICATION, until=here.now - 1, pause=2)
    assert here.ask(reuses=False) is None
    [granted] = here.line.admit(here.gpu_class)
    assert granted["probes"] == [APPLICATION]


def test_a_pod_whose_last_job_runs_again_does_not_wait(make: Callable[..., Instance]) -> None:
    here = make(POD)
    here.start()
    here.submit("b")
    assert here.ask() == "b"
    assert here.ask(ended=End(EndReason.INFRA, "gone")) is None
    assert (here.record("a")["state"], here.record("b")["state"]) == ("ended", "delayed")
    assert here.called() is False


@pytest.mark.parametrize(
    ("kind", "until"),
    [("launch", 60), ("quota", 60), ("scheduling", 60), ("pods", 60), ("launch", -1)],
)
def test_a_pod_that_runs_meets_no_hold(
    make: Callable[..., Instance], kind: str, until: float
) -> None:
    here = make(POD)
    here.start(ends=False)
    here.submit("b", "c")
    here.fail(f"{kind}:t4", until=NOW + until, pause=60)
    here.end()
    assert here.ask() == "b"
    assert "probes" not in here.record("b")
    here.end()
    assert here.ask() == "c"
    key = class_key("t4", "places")
    assert here.client.hexists(key, f"{kind}:t4"), "it proves nothing about a launch"


def test_a_pod_that_runs_takes_a_job_that_has_waited_long_for_a_hold(
    make: Callable[..., Instance],
) -> None:
    here = make(POD)
    here.line.site = replace(here.line.site, held={"t4": 5.0})
    here.announce()
    here.start(ends=False)
    here.submit("b")
    here.fail("launch:t4", until=NOW + 60, pause=60)
    here.now += 10
    here.end()
    assert here.ask() == "b"


def test_a_pod_that_runs_has_its_image(make: Callable[..., Instance]) -> None:
    here = make(POD)
    here.start(ends=False, image="x:1")
    here.submit("b", image="x:1")
    here.fail("image:x:1", until=NOW + 60, pause=60)
    here.end()
    assert here.ask() == "b"


def test_a_quota_that_refuses_a_job_ends_a_pod_that_waits(make: Callable[..., Instance]) -> None:
    here = make(POD, slots=2)
    here.start()
    assert here.ask() is None and here.called() is True
    [granted] = here.submit("b", tenant="other")
    end = End(EndReason.QUOTA, "exceeded quota", blames=PlaceKind.QUOTA)
    here.line.release(here.gpu_class, Attempt.of(granted), end)
    assert here.called() is False, "it has the share that is missing"
    assert here.record("b")["state"] == "waiting"


@pytest.mark.parametrize("lost", ["", "tenant_running"])
def test_an_instance_goes_on_at_the_limit_of_its_tenant(
    schedule_redis: redis.Redis, lost: str
) -> None:
    """Its own slot does not count. Where the holders of tenants are lost, it ends."""
    here = Instance(schedule_redis)
    Tenants(here.client).set("t4", {"blue": TenantRule(max_running=1)})
    here.start("a", tenant="blue")
    here.submit("b", tenant="blue")
    if lost:
        here.client.delete(class_key("t4", lost))
    assert here.ask() == (None if lost else "b")
    running: Any = here.client.zrange(class_key("t4", "tenant_running"), 0, -1)
    assert running == ([] if lost else ["b#1"])
