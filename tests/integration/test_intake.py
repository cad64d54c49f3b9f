"""The intake on a real Redis: woken, refused its rights, cut off, stopped; and any envelope."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Queue

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher import intake as loop
from gpuqueue.dispatcher.intake import IntakeLoop
from gpuqueue.dispatcher.this_process import has_ended, process_name
from gpuqueue.errors import InvalidJob, StateDamaged, StateUnavailable
from gpuqueue.glue.messages.message import encode
from gpuqueue.glue.messages.parse import identify
from gpuqueue.glue.worker.broker import Broker
from gpuqueue.store.dead_letters import DeadLetters
from gpuqueue.store.intake import BrokerKeys, Intake
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
QUEUE = "gpu.t4.shared"


class Taking:
    """An intake in this process. What it accepts is noted; what accept raises can be given."""

    def __init__(self, url: str, **options: Any) -> None:
        self.app = Celery("taking", broker=url, set_as_current=False)
        self.app.conf.broker_transport_options = options
        self.client: Any = redis.Redis.from_url(url)
        self.queues = [QUEUE]
        self.accepted: list[str] = []
        self.problems: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.ending: dict[str, bool] = {}
        self.tags: dict[str, str] = {}
        self.meanwhile: Callable[[str], object] = lambda job: None
        self.loop = IntakeLoop(lambda: Broker(self.app), self.accept, 60.0)

    def accept(
        self, packed: dict[str, Any], problem: InvalidJob | None = None, before_start: Any = None
    ) -> tuple[str, str]:
        found = identify(packed)
        job, self.tags[found.id] = found.id, found.tag
        self.meanwhile(job)
        if errors := self.errors.get(job):
            raise errors.pop(0)
        if self.ending.pop(job, None):
            return "ending", "t4"
        if problem:
            self.problems[job] = str(problem)
        self.accepted.append(job)
        return "accepted", "t4"

    def tell(self, outcome: str, gpu_class: str, headers: Mapping[str, Any]) -> None:
        self.told.append((headers["id"], outcome))

    def flush(self) -> None:
        """Events are told at once."""

    def close(self) -> None:
        """There is no connection."""

    def start(self) -> None:
        self.loop.start(lambda: self.queues, self)

    def send(self, *jobs: str, queue: str = QUEUE, **options: Any) -> None:
        for job in jobs:
            self.app.send_task("shop.add", (1, 2), task_id=job, queue=queue, **options)

    def push(self, text: str | bytes | Mapping[str, Any]) -> None:
        self.client.lpush(QUEUE, json.dumps(text) if isinstance(text, Mapping) else text)

    def has(self, *jobs: str) -> None:
        until(
            lambda: len(self.accepted) >= len(jobs),
            PATIENCE,
            "accepted",
            lambda: str(self.accepted),
        )
        assert self.accepted == list(jobs)

    def in_hand(self) -> int:
        return int(self.client.hlen(f"gpuqueue:1:{{{QUEUE}}}:texts"))

    def end(self) -> None:
        self.loop.stop()
        self.app.close()
        self.client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as running:
        yield running


@pytest.fixture
def taking(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Taking]:
    monkeypatch.setattr(loop, "POLL", 0.1)
    made = Taking(server.url)
    made.client.flushall()
    yield made
    made.end()


def test_a_new_message_wakes_the_intake(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL", 600.0)
    taking.start()
    taking.has()
    for number in range(5):  # each time after the list was read and found empty
        until(lambda: taking.loop.works() and not taking.client.llen(QUEUE), PATIENCE)
        taking.send(f"j{number}", priority=3 * number % 9)
        taking.has(*(f"j{each}" for each in range(number + 1)))
    assert taking.told == [(f"j{number}", "accepted") for number in range(5)]


def test_without_the_right_to_be_told_it_looks_for_messages(
    server: EmbeddedRedis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "POLL", 600.0)
    admin: Any = redis.Redis.from_url(server.url)
    admin.flushall()
    admin.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", "+@all", "-client")
    taking = Taking(server.url.replace("://", "://poor:pw@"))
    try:
        taking.start()
        taking.send("a")
        taking.has("a")
        taking.loop.stop()
        taking.start()
        taking.send("b")
        taking.has("a", "b")
    finally:
        taking.end()
        admin.execute_command("ACL", "DELUSER", "poor")
        admin.close()
    told = [each.getMessage() for each in caplog.records if "does not tell" in each.getMessage()]
    assert len(told) == 1
    assert "deploy/redis/users.acl" in told[0]


def test_a_state_that_is_away_costs_no_try_and_keeps_the_order(taking: Taking) -> None:
    taking.errors["b"] = [StateUnavailable("away")] * 7
    taking.send("a", "b", "c")
    taking.start()
    taking.has("a", "b", "c")
    until(lambda: not taking.in_hand(), PATIENCE, "no message in hand")
    assert not taking.client.exists(f"gpuqueue:1:{{{QUEUE}}}:tries")


def test_what_cannot_be_accepted_is_set_aside_and_the_next_taken(
    taking: Taking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpuqueue.store.intake.PAUSES", (0.0, 0.1, 0.1, 0.1))
    taking.errors["bad"] = [TypeError("odd " + "x" * 10_000)] * 99
    taking.errors["once"] = [TypeError("once"), redis.ResponseError("ERR not its fault")]
    taking.send("bad", "once", "good")
    taking.start()
    letters = DeadLetters(taking.client)
    until(lambda: letters.count() == 1, PATIENCE, "a dead letter")
    (letter,) = letters.all()
    assert (letter.tries, letter.queue) == (5, QUEUE)
    assert letter.error.startswith("TypeError: odd ")
    assert len(letter.error) < 3000
    until(lambda: sorted(taking.accepted) == ["good", "once"], PATIENCE, "the others")
    until(lambda: "set aside as dead letter" in caplog.text, PATIENCE, "a log line")
    assert letters.send(letter, QUEUE)
    taking.errors["bad"].clear()
    until(lambda: "bad" in taking.accepted, PATIENCE, "sent again")


def test_a_list_that_is_none_keeps_no_other_queue_from_its_turn(
    taking: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    taking.queues = ["gpu.a100", QUEUE]
    taking.client.set("gpu.a100", "x")
    taking.start()
    for number in range(3):
        taking.send(f"j{number}")
        taking.has(*(f"j{each}" for each in range(number + 1)))
    assert taking.loop.works()
    lines = [each.getMessage() for each in caplog.records if "queue gpu.a100" in each.getMessage()]
    assert len(lines) == 1
    assert "key=gpu.a100 is no list; RENAME it" in lines[0]
    taking.client.delete("gpu.a100")
    taking.send("other", queue="gpu.a100")
    taking.has("j0", "j1", "j2", "other")


def test_a_class_that_must_be_repaired_keeps_its_messages_and_no_other(
    taking: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind")
    taking.errors["waits"] = [StateDamaged(str(damaged))] * 7
    taking.send("waits", "a", "b")
    taking.start()
    taking.has("a", "b")
    assert taking.loop.works()
    until(lambda: taking.in_hand() == 1, PATIENCE, "the one that waits")
    assert not taking.client.exists(f"gpuqueue:1:{{{QUEUE}}}:tries")
    lines = [each for each in caplog.records if "WRONGTYPE" in each.getMessage()]
    assert len(lines) == 1
    taking.errors["waits"].clear()
    taking.has("a", "b", "waits")


def test_an_id_that_is_sent_again_waits_for_the_end_and_keeps_no_other(taking: Taking) -> None:
    taking.ending["again"] = True
    taking.send("again", "a", "b")
    taking.start()
    taking.has("a", "b", "again")
    assert taking.told == [(job, "accepted") for job in ("a", "b", "again")]


GOOD = {
    "body": base64.b64encode(b"[[1, 2], {}, {}]").decode(),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"id": "j", "task": "shop.add"},
    "properties": {
        "body_encoding": "base64",
        "delivery_tag": "t",
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
    },
}


def test_an_envelope_needs_no_tag_of_its_transport(taking: Taking) -> None:
    info = {"delivery_info": {"routing_key": QUEUE}}
    taking.push(GOOD | {"properties": {"body_encoding": "base64", **info}})
    taking.start()
    taking.has("j")
    assert taking.problems == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"body": "not base64!"},
        {"body": {"a": "list"}},
        {"properties": {"body_encoding": "rot13"}},
        {"properties": ["x"]},
        {"headers": {"id": "j", "task": "t", "compression": "application/x-none"}},
        {"headers": {"id": "j", "task": "t", "compression": "application/x-gzip"}},
        {"headers": {"id": "j", "task": "t", "compression": {"a": 1}}},
        {"properties": {"body_encoding": {"a": 1}}},
        {"properties": {"delivery_info": 7, "body_encoding": "base64"}, "body": 7},
    ],
    ids=str,
)
def test_an_envelope_that_cannot_be_read_is_refused_at_its_id(
    taking: Taking, wrong: dict[str, Any]
) -> None:
    taking.push(GOOD | wrong)
    taking.send("next")
    taking.start()
    taking.has("j", "next")
    assert "the envelope cannot be decoded: " in taking.problems["j"]
    assert taking.tags["j"] == ("t" if "delivery_tag" in (GOOD | wrong)["properties"] else "")


@pytest.mark.parametrize(
    "sent",
    [
        *({"__type__": "zz", "__value__": 7}, {"__type__": "decimal", "__value__": "abc"}),
        *({"__type__": "uuid", "__value__": 7}, {"__type__": ["a"], "__value__": 7}),
        *({"__type__": "uuid", "__value__": {"hex": "0" * 32}}, [{"__type__": 7}]),
        {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"},
    ],
    ids=str,
)
def test_a_header_in_a_form_of_kombu_is_kept_as_it_is_sent(taking: Taking, sent: Any) -> None:
    taking.push(GOOD | {"headers": {"id": "j", "task": "shop.add", "mine": sent}})
    kept: list[dict[str, Any]] = []

    def keep(
        packed: dict[str, Any], problem: InvalidJob | None = None, before_start: Any = None
    ) -> tuple[str, str]:
        kept.append(json.loads(encode(packed)))
        return ("accepted" if problem is None else "refused"), "t4"

    taking.loop._accept = keep
    taking.start()
    until(lambda: taking.told, PATIENCE, "accepted")
    assert taking.told == [("j", "accepted")]
    assert kept[0]["headers"]["mine"] == sent


@pytest.mark.parametrize(
    "garbage",
    [
        *("", "null", "[]", "7", '"text"', "{", "[" * 100_000, '{"a":' * 100_000, "{}", "\x00"),
        *(b"\xff\xfe", '{"headers": []}', '{"headers": {"id": 7}}', '{"headers": {"id": ""}}'),
        '{"headers": {"id": ["j"]}, "properties": {}}',
        '{"headers": null, "body": "[]", "properties": null}',
        json.dumps(GOOD | {"headers": {"task": "shop.add"}}),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_garbage_becomes_a_dead_letter_and_the_next_is_taken(
    taking: Taking, garbage: str | bytes
) -> None:
    taking.push(garbage)
    taking.send("next")
    taking.start()
    taking.has("next")
    letters = DeadLetters(taking.client)
    until(lambda: letters.count() == 1, PATIENCE, "a dead letter")
    (letter,) = letters.all()
    raw = garbage.encode() if isinstance(garbage, str) else garbage
    assert letter.message.encode(errors="surrogateescape") == raw
    assert letter.error


def test_it_goes_on_when_its_connections_are_closed(taking: Taking) -> None:
    taking.start()
    taking.send("a")
    taking.has("a")
    own = taking.client.client_id()
    for number in range(4):
        for each in taking.client.client_list():
            if int(each["id"]) != own and each["cmd"] in ("evalsha", "subscribe")[number % 2 :]:
                taking.client.client_kill_filter(_id=each["id"])
        taking.send(f"b{number}")
        taking.has("a", *(f"b{each}" for each in range(number + 1)))
    until(taking.loop.works, PATIENCE, "it works")


def test_it_is_told_of_messages_again_when_one_connection_was_closed(taking: Taking) -> None:
    def tracked() -> list[str]:
        return [each["id"] for each in taking.client.client_list() if "t" in each["flags"]]

    taking.start()
    taking.send("a")
    taking.has("a")
    [first] = until(tracked, PATIENCE)
    taking.client.client_kill_filter(_id=first)
    taking.send("b")
    taking.has("a", "b")
    until(lambda: tracked() not in ([], [first]), PATIENCE, "Redis tells of messages")


def test_it_goes_on_when_the_server_was_away() -> None:
    with EmbeddedRedis() as server:
        taking = Taking(server.url)
        taking.send("a")
        taking.start()
        taking.has("a")
        taking.client.client_pause(1500)
        taking.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        taking.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        taking.send("b")
        taking.has("a", "b")
        taking.end()


def test_stopped_within_a_batch_it_puts_the_rest_back_in_order(taking: Taking) -> None:
    taking.send(*"abcdef")

    def stop_at_c(job: str) -> None:
        if job == "c":
            taking.loop._stop.set()

    taking.meanwhile = stop_at_c
    taking.start()
    taking.has(*"abc")
    taking.loop.stop()
    assert taking.in_hand() == 0
    left = [json.loads(each)["headers"]["id"] for each in taking.client.lrange(QUEUE, 0, -1)]
    assert left == ["f", "e", "d"]
    taking.start()
    taking.has(*"abcdef")


def test_told_to_take_no_more_it_puts_the_rest_back_in_order(taking: Taking) -> None:
    taking.send(*"abcdef")

    def leave_at_c(job: str) -> None:
        if job == "c":
            taking.loop.take_no_more()

    taking.meanwhile = leave_at_c
    taking.start()
    taking.has(*"abc")
    until(lambda: not taking.in_hand(), PATIENCE, "no message in hand")

    def left() -> list[str]:
        return [json.loads(each)["headers"]["id"] for each in taking.client.lrange(QUEUE, 0, -1)]

    until(lambda: left() == ["f", "e", "d"], PATIENCE, "the rest on its list")
    taking.start()  # a connection is back while the dispatcher leaves
    taking.loop.stop()
    assert taking.accepted == list("abc")
    assert left() == ["f", "e", "d"]


def test_a_slow_batch_gives_the_rest_back_before_its_lease_ends(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SHARE", 0.0)
    taking.send(*"abc")
    taking.start()
    until(lambda: taking.in_hand() == 3, PATIENCE, "in hand")
    assert taking.accepted == []
    monkeypatch.setattr(loop, "SHARE", 0.5)
    until(lambda: len(taking.accepted) == 3, PATIENCE, "accepted")
    assert sorted(taking.accepted) == ["a", "b", "c"]


def test_queues_can_be_added_and_cancelled_while_it_runs(taking: Taking) -> None:
    taking.start()
    taking.send("a", queue="gpu.t4")
    taking.send("b")
    taking.has("b")
    assert taking.client.llen("gpu.t4") == 1
    taking.queues = ["gpu.t4"]
    taking.has("b", "a")
    taking.send("c")
    taking.send("d", queue="gpu.t4")
    taking.has("b", "a", "d")
    assert taking.client.llen(QUEUE) == 1
    taking.queues = []
    until(lambda: not taking.client.hlen("gpuqueue:1:{gpu.t4}:texts"), PATIENCE, "all is reported")
    taking.send("e", queue="gpu.t4")
    assert taking.loop.works()
    taking.queues = [QUEUE, "gpu.t4"]
    until(lambda: sorted(taking.accepted) == list("abcde"), PATIENCE, "all are taken")


def test_the_lists_have_the_names_that_the_broker_gives_them(server: EmbeddedRedis) -> None:
    options = {"global_keyprefix": "mine:", "sep": ":", "priority_steps": [0, 5]}
    taking = Taking(server.url, **options)
    taking.client.flushall()
    taking.send("low", priority=7)
    taking.send("high", priority=1)
    assert taking.client.keys("mine:gpu*") and taking.client.llen(f"mine:{QUEUE}:5") == 1
    taking.start()
    taking.has("high", "low")
    taking.loop.stop()
    own = [each for each in taking.client.keys("*") if not each.startswith(b"mine:")]
    assert [each for each in own if b"gpu" in each] == []
    taking.end()


def test_what_an_older_dispatcher_had_in_hand_is_taken_over(server: EmbeddedRedis) -> None:
    options = {
        "unacked_key": "gpuqueue.unacked",
        "unacked_index_key": "gpuqueue.unacked_index",
        "unacked_mutex_key": "gpuqueue.unacked_mutex",
        "visibility_timeout": 60,
    }
    taking = Taking(server.url, **options)
    taking.client.flushall()
    taking.send("old", "young")
    older = Connection(server.url, transport_options=options)
    channel = older.channel()
    got: list[Any] = []
    with Consumer(channel, [Queue(QUEUE)], on_message=got.append):
        while len(got) < 2:
            older.drain_events(timeout=PATIENCE)
    # It is killed: its process puts nothing back.
    assert taking.client.hlen("gpuqueue.unacked") == 2
    tags = taking.client.zrange("gpuqueue.unacked_index", 0, -1)
    (old,) = [tag for tag in tags if b'"old"' in taking.client.hget("gpuqueue.unacked", tag)]
    taking.client.zadd("gpuqueue.unacked_index", {old: time.time() - 61})
    taking.start()
    taking.has("old")
    assert taking.client.hlen("gpuqueue.unacked") == 1, "another dispatcher may be about to accept"
    taking.end()
    channel.qos._delivered.clear()
    older.release()


def test_messages_of_a_process_that_ended_here_are_taken_at_once(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking.send("a")
    gone = process_name().split(" ")
    gone[3] = "1"  # the PID is given again: it started at another time
    Intake(taking.client, BrokerKeys(), " ".join(gone), 3600).take([QUEUE])
    taking.send("b")
    taking.start()
    until(lambda: sorted(taking.accepted) == ["a", "b"], PATIENCE, "both are taken")


def test_only_a_process_that_ran_beside_this_one_is_known_to_have_ended() -> None:
    host, place, pid, start = process_name().split(" ")
    assert not has_ended(f"{host} {place} {pid} {start}")
    assert has_ended(f"another-name {place} {pid} 1")
    assert has_ended(f"{host} {place} {2**22 + 1} {start}")
    assert not has_ended(f"{host} another:pid:[1] {pid} 1")
    assert not has_ended(f"{host} - {pid} 1")
    assert not has_ended("of another version")
    assert not has_ended(f"{host} {place} x 1")
