"""The way of messages into the hands of dispatchers: none is lost, and each keeps its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.store.dead_letters import KEPT, MOST_LETTERS, DeadLetters
from gpuqueue.store.intake import (
    BATCH,
    BATCH_BYTES,
    PAUSES,
    TRIES,
    BrokerKeys,
    Intake,
    Report,
    Taken,
    Verdict,
)
from tests.support.model_time import KEY, Timed
from tests.support.script_times import Times

pytestmark = pytest.mark.integration
QUEUE = "gpu.t4"
LEASE = 60.0


class Broker(Timed):
    """Lists of messages, and processes that take them."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.client.flushall()
        self.now = 1_000_000.0
        self.keys = BrokerKeys(prefix)
        self.letters = DeadLetters(self.client, prefix)

    def process(self, name: str) -> Intake:
        return Intake(self.client, self.keys, name, LEASE)

    def push(self, *texts: str | bytes, queue: str = QUEUE, step: int = 0) -> None:
        self.client.lpush(self.keys.list_of(queue, step), *texts)

    def waiting(self, queue: str = QUEUE) -> list[bytes]:
        """The messages on the lists, the next one first."""
        return [
            text
            for each in self.keys.lists(queue)
            for text in self.client.lrange(each, 0, -1)[::-1]
        ]

    def in_hand(self, queue: str = QUEUE) -> int:
        name = f"{self.keys.prefix}gpuqueue:1:{{{self.keys.prefix}{queue}}}"
        found: int = self.client.hlen(f"{name}:texts")
        assert self.client.zcard(f"{name}:leases") == found, "each message has a lease"
        return found


@pytest.fixture
def broker(schedule_redis: redis.Redis) -> Iterator[Broker]:
    kwargs = schedule_redis.connection_pool.connection_kwargs
    where = kwargs.get("path")
    url = f"unix://{where}" if where else f"redis://{kwargs['host']}:{kwargs['port']}/0"
    made = Broker(url)
    yield made
    made.client.close()


def texts(taken: Taken) -> list[bytes]:
    return [each.text for each in taken.messages]


def all_as(taken: Taken, verdict: Verdict, error: str = "") -> list[Report]:
    return [Report(each, verdict, error) for each in taken.messages]


def test_messages_are_taken_by_priority_then_in_their_order(broker: Broker) -> None:
    broker.push("b1", "b2", step=3)
    broker.push("c1", step=9)
    broker.push("a1", "a2", b"\xff\x00")
    taken = broker.process("p").take([QUEUE])
    assert texts(taken) == [b"a1", b"a2", b"\xff\x00", b"b1", b"b2", b"c1"]
    assert (taken.more, broker.waiting(), broker.in_hand()) == (False, [], 6)


def test_a_message_that_is_done_is_gone_and_only_then(broker: Broker) -> None:
    broker.push("a", "b")
    process = broker.process("p")
    taken = process.take([QUEUE])
    assert texts(process.take([QUEUE])) == []
    assert broker.in_hand() == 2
    assert texts(process.take([QUEUE], all_as(taken, Verdict.DONE))) == []
    assert broker.in_hand() == 0
    process.take([QUEUE], all_as(taken, Verdict.DONE))  # may be repeated


@pytest.mark.parametrize(("verdict", "pause"), [(Verdict.SOON, 0.5), (Verdict.WAITS, 5.0)])
def test_a_message_that_must_wait_is_taken_after_its_pause(
    broker: Broker, verdict: Verdict, pause: float
) -> None:
    broker.push("a")
    process = broker.process("p")
    taken = process.take([QUEUE])
    for _ in range(2 * TRIES):  # it costs no try
        assert texts(process.take([QUEUE], all_as(taken, verdict))) == []
        broker.now += pause - 0.1
        assert texts(process.take([QUEUE])) == []
        broker.now += 0.2
        taken = process.take([QUEUE])
        assert texts(taken) == [b"a"]


def test_one_call_takes_a_bounded_number_and_size(broker: Broker) -> None:
    broker.push(*(str(number) for number in range(BATCH + 1)))
    process = broker.process("p")
    first = process.take([QUEUE])
    assert (len(first.messages), first.more) == (BATCH, True)
    assert texts(process.take([QUEUE])) == [str(BATCH).encode()]
    broker.push("x" * BATCH_BYTES, "y" * BATCH_BYTES)
    assert [len(text) for text in texts(process.take([QUEUE]))] == [BATCH_BYTES]
    assert [len(text) for text in texts(process.take([QUEUE]))] == [BATCH_BYTES]


def test_only_the_queues_that_are_asked_for_are_taken(broker: Broker) -> None:
    broker.push("a")
    broker.push("b", queue="gpu.a100")
    process = broker.process("p")
    taken = process.take(["gpu.a100"])
    assert [(each.queue, each.text) for each in taken.messages] == [("gpu.a100", b"b")]
    # Its queue was cancelled meanwhile: the report arrives all the same.
    broker.push("c", queue="gpu.a100")
    assert texts(process.take([QUEUE], all_as(taken, Verdict.DONE))) == [b"a"]
    assert broker.in_hand("gpu.a100") == 0


def test_the_messages_of_a_call_without_an_answer_are_taken_again(broker: Broker) -> None:
    broker.push("a", "b")
    process = broker.process("p")
    call, answers = process._scripts.call_on, [redis.ConnectionError("gone")]

    def loses_an_answer(*args: Any, **context: Any) -> Any:
        found = call(*args, **context)
        if answers:
            raise answers.pop()
        return found

    process._scripts.call_on = loses_an_answer  # type: ignore[method-assign]
    with pytest.raises(redis.ConnectionError):
        process.take([QUEUE])
    assert texts(broker.process("q").take([QUEUE])) == []
    taken = process.take([QUEUE])
    assert texts(taken) == [b"a", b"b"]
    assert [each.tries for each in taken.messages] == [0, 0]


def test_a_holder_that_does_not_report_loses_its_messages_one_by_one(broker: Broker) -> None:
    broker.push("a", "b", "c")
    broker.process("dead").take([QUEUE])
    other = broker.process("other")
    broker.now += LEASE - 1
    assert texts(other.take([QUEUE])) == []
    broker.now += 2
    broker.push("new")
    found, reports = [], list[Report]()
    for _ in range(4):  # if one of them ended its holder, the others are not to blame
        taken = other.take([QUEUE], reports)
        assert len(taken.messages) == 1
        found += texts(taken)
        reports = all_as(taken, Verdict.DONE)
    assert found == [b"a", b"b", b"c", b"new"]
    other.take([QUEUE], reports)
    assert (broker.in_hand(), broker.letters.count()) == (0, 0)


def test_the_messages_of_a_process_that_has_ended_are_taken_at_once(broker: Broker) -> None:
    broker.push("a", "b")
    broker.process("dead").take([QUEUE])
    other = broker.process("other")
    assert other.take([QUEUE], others=True).processes == ["dead"]
    assert texts(other.take([QUEUE], gone=["deadly", "d"])) == []
    assert texts(other.take([QUEUE], gone=["dead"])) == [b"a"]


def test_a_late_report_does_not_touch_the_next_holder(broker: Broker) -> None:
    broker.push("a")
    late = broker.process("late")
    first = late.take([QUEUE])
    broker.now += LEASE + 1
    second = broker.process("next").take([QUEUE])
    assert texts(second) == [b"a"]
    for verdict in Verdict:
        late.take([QUEUE], all_as(first, verdict, "late"))
        assert (broker.in_hand(), broker.letters.count()) == (1, 0)


def test_messages_that_were_not_tried_wait_and_cost_no_try(broker: Broker) -> None:
    broker.push("a", "b")
    process = broker.process("p")
    taken = process.take([QUEUE])
    for _ in range(3 * TRIES):
        taken = process.take([QUEUE], all_as(taken, Verdict.BACK))
        assert texts(taken) == [b"a", b"b"]
        assert [each.tries for each in taken.messages] == [0, 0]


def test_a_process_that_leaves_puts_its_messages_back_onto_their_lists(broker: Broker) -> None:
    broker.push("a", "b")
    broker.push("low1", "low2", step=6)
    process = broker.process("p")
    taken = process.take([QUEUE])
    broker.push("new")
    process.take([], all_as(taken, Verdict.RETURNED)[::-1], most=0)
    assert broker.in_hand() == 0
    assert broker.waiting() == [b"a", b"b", b"new", b"low1", b"low2"]


def test_a_message_that_has_failed_is_returned_with_its_count_of_tries(broker: Broker) -> None:
    broker.push("a")
    process = broker.process("p")
    taken = process.take([QUEUE], all_as(process.take([QUEUE]), Verdict.FAILED, "no"))
    process.take([], all_as(taken, Verdict.RETURNED), most=0)
    assert (broker.waiting(), broker.in_hand()) == ([], 1)
    assert [each.tries for each in process.take([QUEUE]).messages] == [1]


def test_a_message_returns_to_its_priority_when_the_steps_have_changed(broker: Broker) -> None:
    """They are learnt from the application while messages are in hand."""
    broker.push("high", step=0)
    broker.push("middle", step=3)
    broker.push("low", step=9)
    taken = broker.process("p").take([QUEUE])
    broker.keys = BrokerKeys(steps=(0, 1, 2, 3))
    process = broker.process("p")
    process.take([], all_as(taken, Verdict.RETURNED), most=0)
    lists = [broker.client.lrange(each, 0, -1) for each in broker.keys.lists(QUEUE)]
    assert lists == [[b"high"], [], [], [b"middle"]]
    assert broker.in_hand() == 1, "no list has the step of the last"
    assert sorted(texts(process.take([QUEUE]))) == [b"high", b"low", b"middle"]


def test_a_message_that_an_older_version_numbered_is_returned_here(broker: Broker) -> None:
    broker.push("a")
    process = broker.process("p")
    (message,) = process.take([QUEUE]).messages
    older = message.number.partition("=")[0] + "-1"
    for name in ("texts", "hands"):
        key = f"gpuqueue:1:{{{QUEUE}}}:{name}"
        broker.client.hset(key, older, broker.client.hget(key, message.number))
        broker.client.hdel(key, message.number)
    broker.client.zadd(f"gpuqueue:1:{{{QUEUE}}}:leases", {older: broker.now + LEASE})
    broker.client.zrem(f"gpuqueue:1:{{{QUEUE}}}:leases", message.number)
    process.take([], [Report(replace(message, number=older), Verdict.RETURNED)], most=0)
    assert broker.in_hand() == 1
    assert texts(process.take([QUEUE])) == [b"a"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_message_whose_text_is_gone_stops_nothing(broker: Broker, verdict: Verdict) -> None:
    broker.push("a", "b")
    process = broker.process("p")
    first, second = process.take([QUEUE]).messages
    broker.client.hdel(f"gpuqueue:1:{{{QUEUE}}}:texts", first.number)
    reports = [Report(first, verdict, "no"), Report(second, Verdict.DONE)]
    broker.push("c")
    assert texts(process.take([QUEUE], reports)) == [b"c"]
    broker.now += LEASE
    process.take([QUEUE])
    assert (broker.letters.count(), broker.in_hand()) == (0, 1)


def test_returned_messages_of_all_queues_are_within_the_bounds_of_one_call(broker: Broker) -> None:
    other, large = "gpu.a100", "x" * BATCH_BYTES
    process = broker.process("p")
    for bodies, most, sizes in ((["1", "2"], 3, [3, 1]), ([large, "2"], 9, [1, 2, 1])):
        back: list[Report] = []
        for queue in (QUEUE, other):
            broker.push(*bodies, queue=queue)
            while (taken := process.take([queue])).messages:
                back += all_as(taken, Verdict.BACK)
        taken, seen = process.take([QUEUE, other], back, most=most), []
        while taken.messages:
            seen.append(len(taken.messages))
            assert taken.more == (sum(seen) < 4)
            taken = process.take([QUEUE, other], all_as(taken, Verdict.DONE), most=most)
        assert seen == sizes


def test_a_failed_message_is_tried_after_pauses_then_set_aside(broker: Broker) -> None:
    broker.push("bad", "good")
    process = broker.process("p")
    taken = process.take([QUEUE])
    bad, good = taken.messages
    reports = [Report(bad, Verdict.FAILED, "error 1"), Report(good, Verdict.DONE)]
    for tries, pause in enumerate(PAUSES, 1):
        if pause:
            assert texts(process.take([QUEUE], reports)) == []
            broker.now += pause
            reports = []
        taken = process.take([QUEUE], reports)
        assert [(each.text, each.tries) for each in taken.messages] == [(b"bad", tries)]
        reports = all_as(taken, Verdict.FAILED, f"error {tries + 1}")
    last = process.take([QUEUE], reports)
    (letter,) = broker.letters.all()
    assert last.set_aside == {letter.id: f"error {TRIES}"}
    assert (letter.queue, letter.message, letter.tries) == (QUEUE, "bad", TRIES)
    assert (letter.first, letter.last) == (1_000_000.0, broker.now)
    assert broker.in_hand() == 0


def test_a_failing_message_keeps_no_other_from_its_turn(broker: Broker) -> None:
    broker.push("bad")
    process = broker.process("p")
    reports = all_as(process.take([QUEUE]), Verdict.FAILED, "no")
    reports = all_as(process.take([QUEUE], reports), Verdict.FAILED, "no")
    broker.push("good")
    assert texts(process.take([QUEUE], reports)) == [b"good"]


@pytest.mark.parametrize("name", ["texts", "leases", "hands", "tries", "last", "list"])
def test_a_key_of_a_wrong_type_stops_no_other_queue(broker: Broker, name: str) -> None:
    other = "gpu.a100"
    key = other if name == "list" else f"gpuqueue:1:{{{other}}}:{name}"
    process = broker.process("p")
    broker.push("held", queue=other)
    verdict = Verdict.FAILED if name == "tries" else Verdict.BACK
    reports = all_as(process.take([other]), verdict, "no")
    if name == "last":
        broker.client.set(key, "x")
    else:
        if broker.client.exists(key):
            broker.client.rename(key, "moved")
        broker.client.hset(key, "a", "b") if name == "leases" else broker.client.set(key, "x")
    if name != "list":
        broker.push("waits", queue=other)
    seen = []
    for text in (b"one", b"two"):
        broker.push(text)
        taken = process.take([other, QUEUE], reports, others=True)
        assert text in texts(taken)
        assert f"key={key} is no " in taken.problems.get(other, "") or text == b"two"
        reports = all_as(taken, Verdict.DONE)
        seen += texts(taken)
    if name != "tries":  # which new messages do not need
        assert b"waits" not in seen
        assert name == "list" or broker.waiting(other) == [b"waits"]
    process.take([QUEUE], reports)
    assert broker.in_hand() == 0

    if broker.client.exists("moved"):
        broker.client.rename("moved", key)
    else:
        broker.client.delete(key)
    for _ in range(4):
        broker.now += LEASE + max(PAUSES) + 1
        taken = process.take([other])
        assert not taken.problems
        seen += texts(taken)
        process.take([other], all_as(taken, Verdict.DONE), most=0)
    assert sorted(each for each in seen if each not in (b"one", b"two")) == (
        [b"held"] if name == "list" else [b"held", b"waits"]
    )


def test_an_answer_that_cannot_be_read_costs_no_try(broker: Broker) -> None:
    broker.push("a")
    process = broker.process("p")
    hands, tries = (f"gpuqueue:1:{{{QUEUE}}}:{each}" for each in ("hands", "tries"))
    broker.client.hset(hands, "1", b"\xff\xfe/x")
    for _ in range(2):
        with pytest.raises(UnicodeDecodeError):
            process.take([QUEUE], others=True)
    broker.client.hdel(hands, "1")
    assert texts(process.take([QUEUE])) == [b"a"]
    assert not broker.client.exists(tries)


def test_a_damaged_count_of_tries_starts_again(broker: Broker) -> None:
    process = broker.process("p")
    broker.push("a")
    (message,) = process.take([QUEUE]).messages
    for damaged in ("garbage", "[]", "7", '{"tries": "x"}'):
        broker.client.hset(f"gpuqueue:1:{{{QUEUE}}}:tries", message.number, damaged)
        taken = process.take([QUEUE], [Report(message, Verdict.FAILED, "no")])
        (message,) = taken.messages
        assert message.tries == 1


def test_what_ends_each_holder_is_set_aside(broker: Broker) -> None:
    broker.push("poison", "good")
    seen = []
    for number in range(TRIES):
        seen.append(texts(broker.process(f"p{number}").take([QUEUE])))
        broker.now += LEASE + max(PAUSES) + 1
        # An expired lease is first of all a failed try with its pause.
        broker.process("idle").take([QUEUE], most=0)
    assert seen[0] == [b"poison", b"good"]
    for _ in range(3 * TRIES):
        broker.now += LEASE + max(PAUSES) + 1
        taken = broker.process("last").take([QUEUE])
        if texts(taken) == [b"good"]:
            broker.process("last").take([QUEUE], all_as(taken, Verdict.DONE))
    assert [each.message for each in broker.letters.all()] == ["poison"]
    (letter,) = broker.letters.all()
    assert "ended with it in hand" in letter.error


def test_garbage_is_set_aside_at_once_with_every_byte(broker: Broker) -> None:
    garbage = bytes(range(256)) + b'"\\ud800" \x00'
    broker.push(garbage)
    process = broker.process("p")
    process.take([QUEUE], all_as(process.take([QUEUE]), Verdict.DEAD, "not JSON"))
    (letter,) = broker.letters.all()
    assert letter.message.encode(errors="surrogateescape") == garbage
    assert (letter.tries, letter.error) == (1, "not JSON")
    assert broker.letters.get(letter.id) == letter
    assert broker.letters.send(letter, broker.keys.list_of(QUEUE, 0))
    assert broker.waiting() == [garbage]
    assert not broker.letters.send(letter, broker.keys.list_of(QUEUE, 0)), "once"
    assert (broker.letters.count(), list(broker.letters.all())) == (0, [])


def test_a_letter_that_is_dropped_is_gone(broker: Broker) -> None:
    broker.push("a")
    process = broker.process("p")
    process.take([QUEUE], all_as(process.take([QUEUE]), Verdict.DEAD, "bad"))
    (letter,) = broker.letters.all()
    assert broker.letters.drop(letter.id)
    assert not broker.letters.drop(letter.id)
    assert broker.letters.get(letter.id) is None
    assert (broker.letters.count(), broker.waiting()) == (0, [])


def test_dead_letters_are_bounded_in_number_and_age(broker: Broker) -> None:
    process = broker.process("p")

    def bury(number: int) -> None:
        broker.push(*(f"{at}" for at in range(number)))
        left = number
        while left:
            taken = process.take([QUEUE])
            left -= len(taken.messages)
            process.take([QUEUE], all_as(taken, Verdict.DEAD, "bad"), most=0)

    bury(MOST_LETTERS + 30)
    assert broker.letters.count() == MOST_LETTERS
    assert next(broker.letters.all()).message == "30"
    broker.now += KEPT + 1
    bury(1)
    before = broker.letters.count()
    assert before < MOST_LETTERS
    bury(MOST_LETTERS // 16)
    assert {each.last for each in broker.letters.all()} == {broker.now}


def test_a_prefix_of_the_broker_is_before_every_key(broker: Broker) -> None:
    broker.keys = BrokerKeys("mine:")
    broker.letters = DeadLetters(broker.client, "mine:")
    broker.push("a", "bad")
    process = broker.process("p")
    first, second = process.take([QUEUE]).messages
    process.take(
        [QUEUE], [Report(first, Verdict.BACK), Report(second, Verdict.DEAD, "bad")], most=0
    )
    assert broker.letters.count() == 1
    own: list[Any] = broker.client.keys()
    own.remove(KEY.encode())
    assert all(key.startswith(b"mine:") for key in own)


def test_an_idle_call_costs_two_commands_within_its_script(broker: Broker) -> None:
    process = broker.process("p")
    process.take([QUEUE])
    broker.client.config_resetstat()
    process.take([f"gpu.class{number}" for number in range(60)])
    stats: dict[str, Any] = broker.client.info("commandstats")
    calls = {name: each["calls"] for name, each in stats.items()}
    assert calls.pop("cmdstat_evalsha") == 1
    assert sum(number for name, number in calls.items() if "config" not in name) <= 2


@pytest.mark.parametrize("queues", [1, 60, 120])
def test_a_queue_that_is_idle_costs_a_message_no_command(broker: Broker, queues: int) -> None:
    process = broker.process("p")
    process.take([QUEUE])  # loads the script
    broker.push("m")
    names = [*(f"gpu.class{number}" for number in range(queues - 1)), QUEUE]
    broker.client.config_resetstat()
    taken = process.take(names)
    assert [each.queue for each in taken.messages] == [QUEUE]
    done = [Report(each, Verdict.DONE) for each in taken.messages]
    assert process.take(names, done).messages == []
    stats: dict[str, Any] = broker.client.info("commandstats")
    calls = {name: each["calls"] for name, each in stats.items() if "config" not in name}
    assert calls.pop("cmdstat_evalsha") == 2
    # To find one of n keys takes as many commands as n has digits in base 2.
    assert sum(calls.values()) <= 20 + math.log2(queues)


def test_messages_of_many_queues_come_in_the_order_of_their_queues(broker: Broker) -> None:
    names = [f"gpu.class{number}" for number in range(30)]
    expected = []
    for number in (3, 4, 17, 29):
        for step in (9, 0, 3):
            broker.push(f"{number}-{step}", queue=names[number], step=step)
        expected += [(names[number], f"{number}-{step}".encode()) for step in (0, 3, 9)]
    process = broker.process("p")
    found = process.take(names).messages
    assert [(each.queue, each.text) for each in found] == expected
    # Tried before, and given back: before what is new.
    broker.push("new", queue=names[4])
    back = [Report(each, Verdict.BACK) for each in found]
    broker.push("first", queue=names[2])
    again = [(each.queue, each.text) for each in process.take(names, back).messages]
    at = len([each for each in expected if each[0] in names[:5]])
    first, new = (names[2], b"first"), (names[4], b"new")
    assert again == [first, *expected[:at], new, *expected[at:]]


def test_one_call_stays_short_with_many_messages_and_letters(broker: Broker) -> None:
    process = broker.process("p")
    queues = [f"gpu.class{number}" for number in range(60)]
    for queue in queues:
        broker.push(*(json.dumps({"n": number}) for number in range(500)), queue=queue)
    longest: list[float] = []
    for _ in range(3):
        times = Times(broker.client)
        taken = times(process.take, queues)
        for _ in range(15):
            reports = [
                Report(each, Verdict.FAILED if number % 2 else Verdict.DEAD, "e" * 2000)
                for number, each in enumerate(taken.messages)
            ]
            taken = times(process.take, queues, reports, others=True, gone=["none"])
            broker.now += 20
        assert taken.messages
        longest.append(times.longest)
        if times.longest < 0.01:
            break
    assert min(longest) < 0.01
