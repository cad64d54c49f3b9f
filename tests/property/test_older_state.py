"""Redis comes back with a state from a moment ago, and what has run since then runs on: an attempt
is told by token and instance, since its number can be given twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import StaleAttempt
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End, explain
from gpuqueue.model.names import SHARED
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.states import JobState
from gpuqueue.store.keys import class_key
from tests.property.older_state import KEEP, T4, OlderState, finish

pytestmark = pytest.mark.integration


GATE = class_key("t4", "gate")


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> OlderState:
    return OlderState(schedule_redis)


#: The steps of a job that waits behind another one, in order.
STEPS = ("waiting", "granted", "launched", "claimed", "reported", "written", "freed")


def walk(queue: OlderState, older: str, newer: str) -> dict[str, bytes]:
    """Take a job to a step; return the state of an earlier one."""
    states: dict[str, dict[str, bytes]] = {}

    def at(step: str) -> bool:
        states[step] = queue.keep()
        return step == newer

    [before] = queue.launch(queue.submit("before"))
    queue.submit("a")
    finish(before)
    queue.machine.living.remove(before)
    released = queue.line.release(
        GpuClass("t4"), before.live.running.attempt, explain(0), before.instance
    )
    assert released.granted == []
    if at("waiting"):
        return states[older]
    [granted] = queue.line.admit(T4)
    if at("granted"):
        return states[older]
    process = queue.machine.start(granted)
    queue.line.launched(Attempt.of(granted), process.instance, 60.0)
    if at("launched"):
        return states[older]
    process.executor.claim(process.instance, "w")
    if at("claimed"):
        return states[older]
    process.executor.report("SUCCEEDED")
    if at("reported"):
        return states[older]
    process.written = True
    process.executor.reported(KEEP)
    if at("written"):
        return states[older]
    queue.ends(process)
    at("freed")
    return states[older]


def drain(queue: OlderState) -> None:
    """Turns of the watcher, and the ends of processes, until the job has ended."""
    for _ in range(12):
        queue.line.tick("t4")
        queue.admit()
        queue.look(2)
        assert len(queue.machine.of("a")) <= 1, "two processes of one exclusive job stay"
        for process in queue.machine.of("a"):
            try:
                process.executor.claim(process.instance, "w")
            except StaleAttempt as exc:
                if "state reporting" not in str(exc) and "state ended" not in str(exc):
                    queue.ends(process, 76)
                    continue
            finish(process)
            queue.ends(process)
        complete(queue)
        if queue.record("a")["state"] == JobState.ENDED and not queue.holders():
            return
    pytest.fail(f"not ended: {queue.record('a')}")


def complete(queue: OlderState) -> None:
    """A finisher, to which the stored result counts, as in ``glue.results.completion``."""
    answer, record, _ = queue.line.finish_claim("t4", "a", "finisher", 10.0)
    if answer == "ok" and record is not None:
        written = any(each.written for each in queue.machine.started if each.record["id"] == "a")
        counts = written and record.get("outcome")
        reason = "SUCCEEDED" if counts else record["reason"]
        assert queue.line.finished("t4", "a", "finisher", reason)


PAIRS = [(older, newer) for last, newer in enumerate(STEPS) for older in STEPS[:last]]


@pytest.mark.parametrize(("older", "newer"), PAIRS)
def test_the_job_ends_with_one_process_at_a_time(queue: OlderState, older: str, newer: str) -> None:
    queue.come_back_with(walk(queue, older, newer))
    drain(queue)
    assert queue.record("a")["reason"] == "SUCCEEDED"
    assert queue.machine.living == []


RUNNING = [(older, newer) for older, newer in PAIRS if newer in ("claimed", "reported")]


@pytest.mark.parametrize(("older", "newer"), RUNNING)
def test_the_work_of_the_running_process_is_not_repeated(
    queue: OlderState, older: str, newer: str
) -> None:
    """The leader compares before a slot is given, as after a restart of Redis."""
    state = walk(queue, older, newer)
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    queue.look()
    queue.admit()
    queue.look(3)
    assert queue.machine.of("a") == [process] and queue.machine.stopped == []
    assert process.executor.reported(KEEP) if newer == "reported" else finish(process)
    assert queue.record("a")["reason"] == "SUCCEEDED"
    queue.ends(process)
    assert queue.holders() == []
    assert len(queue.machine.started) == 2, "the job before it, and it, once each"


def test_a_stray_is_stopped_when_its_number_is_given_again(queue: OlderState) -> None:
    queue.come_back_with(walk(queue, "waiting", "claimed"))
    [stray] = queue.machine.of("a")
    queue.admit()
    [_, again] = queue.machine.of("a")
    assert (again.record["attempt"], again.record["token"] == stray.record["token"]) == (1, False)
    queue.repair.run(queue.now)
    assert queue.machine.stopped == [stray.instance]
    assert not finish(stray)
    again.executor.claim(again.instance, "w")
    assert finish(again)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_jump_of_the_clock_of_redis_does_not_hasten_or_delay_a_repair(
    queue: OlderState, jump: float
) -> None:
    [process] = queue.launch(queue.submit("a"))
    process.executor.claim(process.instance, "w")
    queue.client.flushdb()
    queue.line.open("t4")
    queue.repair.run(queue.now)
    queue.repair.run(queue.now + jump)
    assert queue.holders() == [], "no difference has persisted yet"
    queue.now += 2.0
    queue.repair.run(queue.now + jump)
    assert queue.holders() == ["a#1"]


def test_a_strays_end_does_not_free_the_slot_that_has_its_number(queue: OlderState) -> None:
    queue.come_back_with(walk(queue, "waiting", "claimed"))
    [stray] = queue.machine.of("a")
    [granted] = queue.line.admit(T4)
    queue.ends(stray, 76)
    assert queue.holders() == ["a#1"]
    record = queue.record("a")
    assert (record["state"], record["token"]) == (JobState.LAUNCHING, granted["token"])


def test_an_observation_of_a_stray_changes_nothing(queue: OlderState) -> None:
    queue.come_back_with(walk(queue, "waiting", "granted"))
    stale = Attempt("t4", "a", 1, token="lost")
    queue.line.admit(T4)
    before = queue.record("a")
    assert not queue.line.launched(stale, "h:stray:1", 60.0)
    assert queue.line.observed([Observation(stale, WaitReason.PULLING_IMAGE, "slow")]) == [False]
    assert not queue.line.give_up(stale, End(EndReason.IMAGE, "no image"))
    assert queue.line.relaunch(stale, 0.0) is None
    assert not queue.line.release(T4, stale, End(EndReason.INFRA, "gone")).freed
    assert queue.record("a") == before
    assert queue.line.relaunch(Attempt.of(before), 0.0) is not None


def test_a_lost_claim_is_made_again_by_the_report(queue: OlderState) -> None:
    state = walk(queue, "granted", "claimed")
    [process] = queue.machine.of("a")
    started = queue.record("a")["started"]
    queue.come_back_with(state)
    queue.now += 30
    process.executor.report("SUCCEEDED")
    record = queue.record("a")
    assert (record["state"], record["started"]) == (JobState.REPORTING, started)
    assert (record["instance"], record["worker"]) == (process.instance, "w")


@pytest.mark.parametrize("verb", ["sampled", "loaded"])
def test_a_lost_claim_is_made_again_by_each_word_of_it(queue: OlderState, verb: str) -> None:
    state = walk(queue, "launched", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    said: dict[str, Callable[[], bool]] = {
        "sampled": lambda: process.executor.sampled({}),
        "loaded": lambda: process.executor.loaded(5.0),
    }
    assert said[verb]()
    assert queue.record("a")["state"] == JobState.RUNNING
    queue.now += 61  # past the time to claim
    queue.line.tick("t4")
    stopping = queue.reader.todo("t4", queue.now).stopping
    assert bool(stopping) == (verb == "loaded"), "its own limit counts, from its start"


def test_finished_work_counts_though_its_start_was_timed_out(queue: OlderState) -> None:
    state = walk(queue, "launched", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    queue.now += 61
    queue.line.tick("t4")
    assert queue.record("a")["timed_out"] == "start"
    assert finish(process)
    assert queue.record("a")["reason"] == "SUCCEEDED"


def test_a_cancel_wins_over_a_report_after_a_lost_claim(queue: OlderState) -> None:
    state = walk(queue, "launched", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    assert queue.line.cancel("t4", "a") == "stopping"
    before = queue.record("a")
    with pytest.raises(StaleAttempt, match="cancelled"):
        process.executor.report("SUCCEEDED")
    assert queue.record("a") == before
    queue.ends(process, 143)
    assert queue.record("a")["reason"] == "CANCELLED"


def test_a_written_result_counts_though_its_report_was_lost(queue: OlderState) -> None:
    """Else the watcher would write FAILURE over SUCCESS."""
    for older in ("granted", "launched", "claimed"):
        queue = OlderState(queue.client)
        state = walk(queue, older, "reported")
        [process] = queue.machine.of("a")
        queue.come_back_with(state)
        assert process.executor.reported(KEEP), older
        queue.ends(process)
        assert (queue.record("a")["reason"], queue.holders()) == ("SUCCEEDED", [])


def test_another_process_with_the_token_can_report_nothing(queue: OlderState) -> None:
    state = walk(queue, "granted", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    other = queue.machine.start(queue.record("a"))
    other.executor.claim(other.instance, "w")
    with pytest.raises(StaleAttempt, match="another process"):
        process.executor.report("SUCCEEDED")
    assert finish(other)
    queue.look(2)
    assert process.instance in queue.machine.stopped


def test_a_lost_job_is_adopted_from_its_process(queue: OlderState) -> None:
    empty = queue.keep()
    [process] = queue.launch(queue.submit("a"))
    process.executor.claim(process.instance, "w")
    queue.come_back_with(empty)
    queue.look(2)
    assert (queue.holders(), queue.record("a")["state"]) == (["a#1"], JobState.RUNNING)
    assert finish(process)


def test_a_message_that_comes_again_belongs_to_the_adopted_attempt(queue: OlderState) -> None:
    empty = queue.keep()
    [process] = queue.launch(queue.submit("a"))
    process.executor.claim(process.instance, "w")
    queue.come_back_with(empty)
    queue.look(2)
    assert queue.submit("a") == []
    queue.ends(process, None)
    assert queue.record("a")["state"] == JobState.DELAYED, "a new attempt has what it needs"


def test_an_attempt_ahead_of_its_record_takes_its_slot_back(queue: OlderState) -> None:
    """The first attempt was evicted and the second granted within the lost moment."""
    [first] = queue.launch(queue.submit("a"))
    first.executor.claim(first.instance, "w")
    state = queue.keep()
    queue.ends(first, None)
    queue.now += 2
    queue.line.tick("t4")
    queue.admit()
    [second] = queue.machine.of("a")
    second.executor.claim(second.instance, "w")
    queue.come_back_with(state)
    queue.look()
    assert (queue.holders(), queue.record("a")["token"]) == (["a#2"], second.record["token"])
    assert finish(second)
    queue.ends(second)
    assert queue.machine.stopped == [] and queue.holders() == []


def test_the_attempt_that_has_the_slot_wins_over_a_lost_later_one(queue: OlderState) -> None:
    before = queue.keep()
    [first] = queue.launch(queue.submit("a"))
    queue.ends(first, None)
    queue.now += 2
    queue.line.tick("t4")
    queue.admit()
    [second] = queue.machine.of("a")
    assert second.record["attempt"] == 2
    queue.come_back_with(before)
    [again] = queue.launch(queue.submit("a"))
    queue.look()
    assert queue.machine.stopped == [second.instance]
    assert queue.holders() == ["a#1"] and queue.machine.of("a") == [again]


def test_a_lost_grant_is_not_restored_beside_the_other_isolation(queue: OlderState) -> None:
    state = walk(queue, "waiting", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    urgent = queue.submit("urgent", SHARED, priority=-1)  # it takes the class meanwhile
    assert [record["delivery"] for record in urgent] == ["urgent"]
    queue.launch(urgent)
    queue.look()
    assert queue.machine.stopped == [process.instance]
    assert queue.holders() == ["urgent#1"]
    assert queue.record("a")["state"] == JobState.WAITING, "it runs when its turn comes"


def test_a_retry_that_comes_again_after_its_loss_runs_in_one_process(queue: OlderState) -> None:
    [first] = queue.launch(queue.submit("a"))
    first.executor.claim(first.instance, "w")
    first.executor.report("RETRIED")
    first.executor.reported(KEEP)
    queue.ends(first)
    state = queue.keep()
    [retry] = queue.launch(queue.submit("a~1"))
    retry.executor.claim(retry.instance, "w")
    queue.come_back_with(state)
    [again] = queue.launch(queue.submit("a~1"))
    queue.look(2)
    assert queue.machine.of("a~1") == [again] and queue.machine.stopped == [retry.instance]
    again.executor.claim(again.instance, "w")
    assert finish(again)


def test_a_retry_that_does_not_come_again_is_adopted(queue: OlderState) -> None:
    [first] = queue.launch(queue.submit("a"))
    first.executor.claim(first.instance, "w")
    first.executor.report("RETRIED")
    state = queue.keep()
    first.executor.reported(KEEP)
    queue.ends(first)
    [retry] = queue.launch(queue.submit("a~1"))
    retry.executor.claim(retry.instance, "w")
    queue.come_back_with(state)
    queue.look(3)
    assert finish(retry) and queue.record("a~1")["reason"] == "SUCCEEDED"
    assert queue.line.finish_claim("t4", "a", "f", 10.0)[0] == "superseded"


def test_a_job_whose_tombstone_was_lost_runs_again(queue: OlderState) -> None:
    """The documented window: Redis has lost its last second."""
    queue.come_back_with(walk(queue, "claimed", "freed"))
    queue.look(2)
    assert queue.record("a")["state"] == JobState.DELAYED
    drain(queue)
    assert len(queue.machine.started) == 3


def test_an_isolation_is_told_apart_after_a_restore(queue: OlderState) -> None:
    """Two shared jobs, one of them lost: the known one keeps its slot."""
    [known] = queue.launch(queue.submit("a", SHARED))
    known.executor.claim(known.instance, "w")
    state = queue.keep()
    [lost] = queue.launch(queue.submit("b", SHARED))
    lost.executor.claim(lost.instance, "w")
    queue.come_back_with(state)
    queue.look(2)
    assert sorted(queue.holders()) == ["a#1", "b#1"] and queue.machine.stopped == []
    assert finish(known) and finish(lost)


def test_no_job_starts_on_another_server_before_the_leader_has_looked(queue: OlderState) -> None:
    state = walk(queue, "waiting", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    restarted(queue)
    assert queue.submit("other") == [], "it would run beside an exclusive job that Redis has lost"
    why = queue.reader.why(T4, "other")
    assert why is not None and why.reason == "REPAIRING"
    assert not queue.reader.todo("t4", queue.now).opened
    queue.repair.run(queue.now, adopt_at_once=["t4"])
    assert queue.line.open("t4")
    queue.admit()
    assert queue.holders() == ["a#1"] and queue.machine.stopped == []
    assert finish(process)
    queue.ends(process)
    assert queue.holders() == ["other#1"]


def test_a_closed_class_waits_until_the_ended_holder_has_made_room(queue: OlderState) -> None:
    [before] = queue.launch(queue.submit("before"))
    before.executor.claim(before.instance, "w")
    queue.submit("a")
    state = queue.keep()
    finish(before)
    queue.ends(before)
    [process] = queue.machine.of("a")
    process.executor.claim(process.instance, "w")
    queue.come_back_with(state)  # the slot is that of the job before it, which has ended
    restarted(queue)
    assert queue.line.admit(T4) == []
    queue.client.hdel(GATE, "opened")
    queue.repair.run(queue.now, adopt_at_once=["t4"])
    assert queue.repair.unsettled == {"t4"} and queue.machine.stopped == []
    queue.now += 1
    queue.repair.run(queue.now, adopt_at_once=["t4"])
    assert queue.repair.unsettled == set() and queue.machine.stopped == []
    assert queue.holders() == ["a#1"] and finish(process)


def test_a_closed_class_does_not_wait_for_ever_for_room(queue: OlderState) -> None:
    state = walk(queue, "waiting", "claimed")
    [process] = queue.machine.of("a")
    queue.come_back_with(state)
    queue.launch(queue.submit("urgent", SHARED, priority=-1))
    for _ in range(3):
        queue.repair.run(queue.now, adopt_at_once=["t4"])
        queue.now += 1.5
    assert queue.machine.stopped == [process.instance] and queue.repair.unsettled == set()


def test_a_class_that_an_older_leader_has_opened_starts_jobs(queue: OlderState) -> None:
    restarted(queue)
    queue.client.hset(GATE, "opened", "1764338079.5")  # it writes no server
    assert [record["delivery"] for record in queue.submit("a")] == ["a"]
    assert not queue.reader.todo("t4", queue.now).opened, "a newer leader looks, and marks it"
    assert not queue.line.open("t4")
    assert queue.reader.todo("t4", queue.now).opened


def restarted(queue: OlderState) -> None:
    """As if the class had been opened on another server."""
    opened = cast(str, queue.client.hget(GATE, "opened"))
    queue.client.hset(GATE, "opened_on", f"{opened} another")


def test_nothing_is_repaired_in_a_class_of_which_nothing_is_known(queue: OlderState) -> None:
    queue.submit("a", SHARED)  # granted, and its launch is never confirmed
    [process] = queue.launch(queue.submit("b", SHARED))
    queue.machine.living.clear()
    queue.machine.unknown = {"t4"}
    queue.look(5)
    assert queue.repair.unsettled == {"t4"}, "a closed class stays closed"
    assert queue.machine.started == [process] and len(queue.reader.holders("t4")) == 2
    queue.machine.unknown = ()
    queue.look(5)
    assert queue.repair.unsettled == set()
    assert process.record["delivery"] not in [
        each.delivery for each, _ in queue.reader.holders("t4")
    ]
