"""Each verb, called for a job in each state, by the right attempt and by others: a call that must
not change anything is refused and changes nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.model.reasons import EndReason
from gpuqueue.store.keys import class_key, class_keys
from gpuqueue.store.scripts import UnstorableText
from tests.property.one_job import T4, World

pytestmark = pytest.mark.integration
#: Verb → the states in which the right caller is heard.
HEARD = {
    "launched": {"launching"},
    "relaunch": {"launching"},
    # A result may be there before the end of the process that holds the slot.
    "observed": {"launching", "running", "reporting", "ended"},
    "give_up": {"launching"},
    "claim": {"launching", "running"},
    "loaded": {"running"},
    "not_loaded": {"running"},
    "sampled": {"running", "reporting"},
    # Redis may have lost the claim, and the report: the token proves both.
    "report": {"launching", "running", "reporting"},
    "reported": {"launching", "running", "reporting"},
    "finish_claim": {"finishing"},
    "finished": {"finishing"},
}
#: Verbs that prove themselves by the token, and by the claim of a finish.
BY_TOKEN = ("claim", "loaded", "not_loaded", "sampled", "report", "reported")
BY_FINISHER = ("finish_claim", "finished")
STATES = ("unknown", "launching", "running", "reporting", "delayed", "finishing", "ended")


def heard(answer: Any) -> bool:
    """Whether a verb did what it was asked."""
    if isinstance(answer, list):
        return bool(answer[0] == "ok")
    return (
        answer == "ok" if isinstance(answer, str) and not answer.startswith("{") else bool(answer)
    )


def binary(client: redis.Redis) -> redis.Redis:
    """The same server, answering bytes: a dump is no text."""
    pool = client.connection_pool.connection_kwargs
    return redis.Redis(host=pool["host"], port=pool["port"], db=pool.get("db", 0))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", HEARD)
def test_a_verb_is_heard_in_its_states_alone(world: World, verb: str, state: str) -> None:
    world.bring(state)
    before = dumped(world)
    answer = world.call(verb)
    assert heard(answer) is (state in HEARD[verb]), answer
    if state not in HEARD[verb]:
        assert dumped(world) == before


def dumped(world: World) -> dict[str, Any]:
    with binary(world.client) as client:
        return {key: client.dump(key) for key in class_keys("t4")}


@pytest.mark.parametrize("verb", [each for each in HEARD if each not in BY_FINISHER])
def test_another_attempt_is_refused(world: World, verb: str) -> None:
    refused(world, verb, attempt=2)


@pytest.mark.parametrize("verb", BY_TOKEN)
def test_another_token_is_refused(world: World, verb: str) -> None:
    refused(world, verb, token="1" * 40)


@pytest.mark.parametrize("verb", BY_FINISHER)
def test_another_finisher_is_refused(world: World, verb: str) -> None:
    refused(world, verb, finisher="g")


def refused(world: World, verb: str, **wrong: Any) -> None:
    for state in sorted(HEARD[verb]):
        world.begin()
        world.bring(state)
        before = dumped(world)
        answer = world.call(verb, **wrong)
        assert not heard(answer), (state, answer)
        assert dumped(world) == before, state


@pytest.mark.parametrize("verb", ["claim", "relaunch"])
@pytest.mark.parametrize("what", ["cancelled", "given up"])
def test_an_unwanted_attempt_does_not_start(world: World, verb: str, what: str) -> None:
    world.bring("launching")
    if what == "cancelled":
        world.line.cancel("t4", "a")
    else:
        world.call("give_up")
    assert not heard(world.call(verb))
    assert world.state() == "launching"
    assert world.client.zscore(class_key("t4", "launching"), "a#1") is not None


def test_a_process_with_the_token_of_another_that_runs_is_refused(world: World) -> None:
    world.bring("running")
    assert world.call("claim", instance="h:n:2") == ["refused", "state running"]


def test_a_sample_keeps_the_highest_memory_and_the_last_gpu(world: World) -> None:
    world.bring("running")
    assert world.call("sampled", sample={"gpu": "0", "gpu_memory_peak": 7, "gpu_memory_own": 5})
    assert world.call("sampled", sample={"gpu": "1", "gpu_memory_peak": 6})
    assert world.call("report", sample={"gpu_error": "no driver"})
    record = world.record()
    assert record is not None
    shown = [record.get(each) for each in ("gpu", "gpu_memory_peak", "gpu_memory_own", "gpu_error")]
    assert shown == ["1", 7, 5, "no driver"]


def test_a_report_of_the_launcher_changes_no_deadline_of_a_run(world: World) -> None:
    world.bring("running")
    before = world.client.zrange(class_key("t4", "deadlines"), 0, -1, withscores=True)
    assert world.call("observed", launch_in=5)
    assert world.client.zrange(class_key("t4", "deadlines"), 0, -1, withscores=True) == before
    assert not world.client.exists(class_key("t4", "launching"))


@pytest.mark.parametrize("state", ["unknown", "running", "ended", "launching"])
def test_a_launch_that_is_left_over_is_forgotten(world: World, state: str) -> None:
    """A launch of attempt 1 is noted though the job has gone on, or is unknown."""
    world.bring(state)
    world.now += 1000
    name = "a#2" if state == "launching" else "a#1"
    world.client.zadd(class_key("t4", "launching"), {name: world.now - 500})
    assert not heard(world.call("relaunch", attempt=int(name[-1])))
    left = world.client.zrange(class_key("t4", "launching"), 0, -1)
    assert left == (["a#1"] if state == "launching" else [])


def test_an_older_executor_that_has_loaded_has_no_deadline_without_a_limit(world: World) -> None:
    world.bring("launching")
    assert heard(world.call("claim", loads_within=5))
    assert world.client.exists(class_key("t4", "deadlines"))
    assert world.call("loaded", seconds=None)
    assert not world.client.exists(class_key("t4", "deadlines"))


def test_a_confirmed_launch_is_not_repeated(world: World) -> None:
    world.bring("launching")
    assert world.call("launched")
    world.now += 1000
    assert not heard(world.call("relaunch"))


def test_a_confirmation_without_its_outcome_needs_the_report(world: World) -> None:
    world.bring("running")
    assert not world.call("reported", outcome=None)
    world.call("report")
    assert world.call("reported", outcome=None)


def test_a_report_of_another_outcome_is_refused(world: World) -> None:
    world.bring("reporting")
    assert world.call("report", outcome="ERROR") == "reported SUCCEEDED"


def test_a_report_of_a_cancelled_run_is_refused(world: World) -> None:
    world.bring("running")
    world.line.cancel("t4", "a")
    assert world.call("report") == "cancelled"


def test_the_first_reason_to_give_up_stays(world: World) -> None:
    world.bring("launching")
    assert world.call("give_up", reason="IMAGE")
    assert world.call("give_up", reason="QUOTA")
    record = world.record()
    assert record is not None
    assert record.get("doomed") == "IMAGE"


def test_a_second_cancel_keeps_the_time_and_signal_of_the_first(world: World) -> None:
    world.bring("running")
    world.line.cancel("t4", "a", signal="INT")
    asked = world.client.zscore(class_key("t4", "stopping"), "a#1")
    world.now += 5
    assert world.line.cancel("t4", "a", signal="KILL") == "stopping"
    record = world.record()
    assert record is not None
    assert record.get("cancel") == "INT"
    assert world.client.zscore(class_key("t4", "stopping"), "a#1") == asked


def test_a_cancel_without_terminate_stops_a_launch_and_no_run(world: World) -> None:
    world.bring("launching")
    assert world.line.cancel("t4", "a", terminate=False) == "stopping"
    world.begin()
    world.bring("running")
    assert world.line.cancel("t4", "a", terminate=False) == "running"
    assert world.client.zscore(class_key("t4", "stopping"), "a#1") is None


def test_a_cancel_of_an_ended_job_leaves_no_mark(world: World) -> None:
    world.bring("ended")
    assert world.line.cancel("t4", "a") == "ended"
    assert not world.client.exists(class_key("t4", "revoked"))


@pytest.mark.parametrize("wrong", ["attempt", "token"])
def test_another_attempt_is_not_adopted_for_a_known_job(world: World, wrong: str) -> None:
    world.bring("running")
    record = world.record()
    assert record is not None
    stray: Any = {**record, wrong: 2 if wrong == "attempt" else "1" * 40}
    assert world.line.adopt("t4", record)
    assert not world.line.adopt("t4", stray)


def test_a_free_finish_can_be_taken_and_a_held_one_cannot(world: World) -> None:
    world.bring("finishing")
    assert world.call("finish_claim", finisher="g") == ["busy"]
    world.now += 61
    assert heard(world.call("finish_claim", finisher="g"))


def test_a_stray_that_ends_frees_no_slot(world: World) -> None:
    world.bring("running")
    assert world.release(EndReason.ERROR, "h:n:2").freed is False
    assert world.state() == "running"


def test_a_second_release_changes_nothing(world: World) -> None:
    for state in ("running", "reporting", "launching"):
        world.begin()
        world.bring(state)
        world.release(EndReason.ERROR)
        before = dumped(world)
        world.now += 1
        world.release(EndReason.INFRA)
        assert dumped(world) == before, state


def test_a_released_holder_leaves_every_key(world: World) -> None:
    for state in ("launching", "running", "reporting", "ended"):
        world.begin()
        world.bring(state)
        world.line.cancel("t4", "a")
        world.release(EndReason.ERROR)
        for key in ("holders_shared", "launching", "deadlines", "stopping"):
            assert world.client.zrange(class_key("t4", key), 0, -1) == [], (state, key)


def test_a_record_that_cannot_be_kept_leaves_nothing(world: World) -> None:
    before = dumped(world)
    record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "eta": float("inf")}
    with pytest.raises(UnstorableText):
        world.line.take_in(T4, record, "{}")
    assert dumped(world) == before


def test_a_cancel_reaches_the_retry_that_its_task_has_sent(world: World) -> None:
    world.bring("running")
    retry: Any = {"delivery": "a~1", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    world.line.take_in(T4, retry | {"retries": 1, "eta": world.now + 60}, "{}")
    assert world.call("report", outcome="RETRIED") == "ok"
    assert world.call("reported")
    assert world.line.cancel("t4", "a") == "cancelled"
    record = world.reader.record("t4", "a~1")
    assert record is not None
    assert (record["state"], record["reason"]) == ("finishing", "CANCELLED")


def test_a_cancel_of_a_retried_job_stops_the_retry_that_comes_later(world: World) -> None:
    world.bring("running")
    world.call("report", outcome="RETRIED")
    world.call("reported")
    assert world.line.cancel("t4", "a") == "unknown"
    retry: Any = {"delivery": "a~1", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    assert world.line.take_in(T4, retry | {"retries": 1}, "{}").outcome == "finishing"


@pytest.mark.parametrize("verb", ["loaded", "sampled", "report", "reported"])
def test_the_process_of_another_claim_is_refused(world: World, verb: str) -> None:
    world.bring("running")
    before = dumped(world)
    other = {"instance": "h:n:2", "worker": "w", "started": world.now}
    assert not heard(world.call(verb, claimed=other))
    assert dumped(world) == before
