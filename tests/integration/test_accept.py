"""What accepting a message writes beside the job: states, wake-ups, log lines and events."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.events.state import State
from kombu import Message

from gpuqueue.classes.gpu_class import GpuClass, chords_class
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.dispatcher.shown import ShownClasses
from gpuqueue.errors import StateDamaged
from gpuqueue.glue.messages.message import pack
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.glue.worker.events import MessageEvents
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import CHORDS, REFUSED, UNLOCK, delivery_name, worker_name
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.answers import Granted
from gpuqueue.store.client import Redis, connect
from gpuqueue.store.keys import NAMES, class_keys, wake_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

pytestmark = pytest.mark.integration
CLASSES = {
    "t4": GpuClass("t4", shared_slots=1),
    "a100": GpuClass("a100", shared_slots=1, image="a100:1"),
}
CHORDS_CLASS = chords_class(CLASSES.values())


class Dispatcher:
    """Accept, with notes of what it asks of the other parts."""

    def __init__(self, client: Redis) -> None:
        client.flushall()
        self.client, self.line = client, Line(client)
        for name in (*CLASSES, CHORDS):
            self.line.open(name)
        self.launched: list[str] = []
        self.states: list[tuple[str, str]] = []
        self.finished: list[str] = []
        self.gpu_class = ""
        parts: Any = self
        self.accept = Accept(
            *(client, self.line, Reader(client), CLASSES, UNSIGNED, parts, parts, parts, parts),
            chords=CHORDS_CLASS,
            shown=ShownClasses(client, CLASSES, CHORDS_CLASS),
            limit_of=lambda task, image: None,
        )

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Any job may be launched."""

    def launch(self, gpu_class: GpuClass, granted: Granted) -> None:
        self.launched += [each["delivery"] for each in granted]

    def store(self, record: Record, state: str, *_: Any, **__: Any) -> None:
        self.states.append((record["delivery"], state))

    def submit(self, gpu_class: str, delivery: str) -> None:
        self.finished.append(delivery)

    def take(self, job: str, queue: str = "gpu.t4.shared", tag: str = "", **headers: Any) -> str:
        sent = Message(
            body=json.dumps([[], {}, {}]),
            content_type="application/json",
            content_encoding="utf-8",
            headers={"id": job, "task": "shop.train", **headers},
            properties={"priority": 0, "delivery_tag": tag},
            delivery_info={"exchange": "", "routing_key": queue},
        )
        outcome, self.gpu_class = self.accept(pack(sent, None))
        return outcome

    def cancel(self, job: str) -> None:
        """End a job that waits."""
        self.line.cancel("t4", job)
        for delivery, _ in Reader(self.client).todo("t4", time.time() + 1).finishing:
            self.line.finish_claim("t4", delivery, "f", 60)
            self.line.finished("t4", delivery, "f", "CANCELLED")
        self.client.delete("gpuqueue:1:{t4}:revoked")

    def wakes(self, gpu_class: str) -> int:
        return self.client.llen(wake_key(gpu_class))


@pytest.fixture(scope="module")
def redis_client() -> Iterator[Redis]:
    with EmbeddedRedis() as server:
        client = connect(server.url)
        yield client
        client.close()


@pytest.fixture
def dispatcher(redis_client: Redis) -> Dispatcher:
    return Dispatcher(redis_client)


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_job_that_starts_at_once_is_launched_and_never_queued(dispatcher: Dispatcher) -> None:
    assert [dispatcher.take(job) for job in "ab"] == ["accepted"] * 2
    assert dispatcher.launched == ["a"]
    assert dispatcher.states == [("b", "QUEUED")]


def test_a_retry_in_line_and_a_known_message_store_no_state(dispatcher: Dispatcher) -> None:
    dispatcher.take("a")
    assert dispatcher.take("b", retries=2) == "accepted"
    assert dispatcher.take("b", retries=2) == dispatcher.take("a") == "known"
    assert (dispatcher.launched, dispatcher.states) == (["a"], [])


def test_the_leader_of_its_class_alone_wakes_for_the_next_due_job(dispatcher: Dispatcher) -> None:
    dispatcher.take("runs")
    dispatcher.take("waits")
    assert dispatcher.wakes("t4") == 0
    dispatcher.take("c", expires=ahead(100))
    assert (dispatcher.wakes("t4"), dispatcher.wakes("a100")) == (1, 0)
    dispatcher.take("d", expires=ahead(200))
    dispatcher.take("e", eta=ahead(150))
    assert dispatcher.wakes("t4") == 1
    dispatcher.take("f", eta=ahead(50))
    assert (dispatcher.wakes("t4"), dispatcher.wakes("a100")) == (2, 0)


def test_a_job_that_starts_at_once_wakes_no_leader(dispatcher: Dispatcher) -> None:
    assert dispatcher.take("a", expires=ahead(100)) == "accepted"
    assert (dispatcher.launched, dispatcher.wakes("t4")) == (["a"], 0)


@pytest.mark.parametrize("headers", [{}, {"gpu": 7}], ids=["accepted", "refused"])
def test_a_known_message_is_dropped_with_a_line_and_an_event(
    dispatcher: Dispatcher, headers: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    first = dispatcher.take("a", **headers)
    before = dispatcher.client.hgetall("gpuqueue:1:{t4}:jobs")
    finished = list(dispatcher.finished)
    caplog.clear()
    with caplog.at_level(logging.INFO, "gpuqueue"):
        assert dispatcher.take("a", **headers) == "known"
    assert [record.getMessage() for record in caplog.records] == [
        f"a dropped: it was {first} before"
    ]
    assert dispatcher.client.hgetall("gpuqueue:1:{t4}:jobs") == before
    assert dispatcher.finished == finished


def test_an_id_that_is_sent_again_after_the_end_gets_another_delivery(
    dispatcher: Dispatcher,
) -> None:
    dispatcher.take("runs")
    dispatcher.take("a", tag="first")
    dispatcher.cancel("a")
    assert dispatcher.take("a", tag="second") == "accepted"
    delivery = delivery_name("a", tag="second")
    assert dispatcher.states == [("a", "QUEUED"), (delivery, "QUEUED")]
    assert dispatcher.take("a", tag="second") == dispatcher.take("a", tag="first") == "known"
    dispatcher.cancel("a")
    dispatcher.line.release(CLASSES["t4"], Attempt("t4", "runs", 1), End(EndReason.ERROR, "gone"))
    assert dispatcher.take("a", tag="third") == "accepted"
    assert dispatcher.launched == ["runs", delivery_name("a", tag="third")]
    assert len(dispatcher.states) == 2, "it has started"


@pytest.mark.parametrize("headers", [{}, {"gpu": 7}], ids=["accepted", "refused"])
def test_an_id_that_is_sent_again_too_soon_is_dropped_with_a_warning(
    dispatcher: Dispatcher, headers: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert dispatcher.take("a", tag="first", **headers) in ("accepted", "refused")
    finished = list(dispatcher.finished)
    caplog.clear()
    again = dispatcher.take("a", tag="second", **headers)
    assert dispatcher.finished == finished
    if headers:  # the refusal is about to be delivered
        assert (again, caplog.records) == ("ending", [])
        return
    assert again == "known"
    [line] = caplog.records
    assert line.levelname == "WARNING"
    assert line.getMessage().endswith(
        " dropped: its id was sent again before the job with that id has ended"
    )


def test_a_refusal_that_is_sent_again_is_finished_again(dispatcher: Dispatcher) -> None:
    assert dispatcher.take("a", tag="first", gpu=7) == "refused"
    dispatcher.line.finish_claim(REFUSED, "a", "f", 60)
    dispatcher.line.finished(REFUSED, "a", "f", "REJECTED")
    assert dispatcher.take("a", tag="second", gpu=7) == "refused"
    assert dispatcher.finished == ["a", delivery_name("a", tag="second")]


@pytest.mark.parametrize("tag", [7, None, "x" * 600, "\0"])
def test_a_tag_that_cannot_be_kept_is_none(dispatcher: Dispatcher, tag: Any) -> None:
    assert dispatcher.take("a", tag=tag) == "accepted"
    assert dispatcher.take("a", tag="other") == "known"


class Eventer:
    """Notes events."""

    hostname = "not said"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.flushed = 0

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append({"type": kind, "hostname": self.hostname, **fields})

    def flush(self) -> None:
        self.flushed += 1


def test_the_event_of_a_known_message_leaves_the_state_in_flower() -> None:
    eventer, seen = Eventer(), State()
    events = MessageEvents(lambda: eventer, lambda: True)
    headers = {"id": "a", "task": "shop.train", "retries": 1}
    events.tell("accepted", "t4", headers)
    events.tell("known", "t4", headers)
    events.flush()
    received, known = eventer.sent
    assert (received["type"], eventer.flushed) == ("task-received", 1)
    assert known == {
        "type": "gpuqueue-known",
        "uuid": "a",
        "name": "shop.train",
        "retries": 1,
        "hostname": worker_name("t4"),
    }
    common = {"timestamp": 1.0, "local_received": 1.0, "clock": 1, "hostname": "gpu-t4@gpuqueue-t4"}
    seen.event({**received, **common})
    seen.event({**common, "type": "task-succeeded", "uuid": "a", "result": "1", "runtime": 1.0})
    seen.event({**known, **common})
    assert seen.tasks["a"].state == "SUCCESS"


def test_an_event_that_cannot_be_sent_costs_nothing_else() -> None:
    eventer = Eventer()
    events = MessageEvents(lambda: eventer, lambda: True)
    for outcome in ("accepted", "known"):
        events.tell(outcome, "t4", {"id": "a", "task": object()})
    assert eventer.sent == []
    events.tell("accepted", "t4", {"id": "b", "task": "shop.train"})
    assert [each["uuid"] for each in eventer.sent] == ["b"]


def test_a_broker_that_is_away_costs_only_the_events() -> None:
    eventer, away = Eventer(), [True]

    def make() -> Eventer:
        if away:
            raise ConnectionError("away")
        return eventer

    events = MessageEvents(make, lambda: True)
    events.tell("accepted", "t4", {"id": "a", "task": "shop.train"})
    away.clear()
    events.tell("accepted", "t4", {"id": "b", "task": "shop.train"})
    assert [each["uuid"] for each in eventer.sent] == ["b"]


def test_no_event_is_sent_while_they_are_off() -> None:
    eventer = Eventer()
    MessageEvents(lambda: eventer, lambda: False).tell("accepted", "t4", {"id": "a", "task": "t"})
    assert eventer.sent == []


@pytest.mark.parametrize("key", NAMES)
def test_a_class_with_a_key_of_a_wrong_type_keeps_its_messages(
    dispatcher: Dispatcher, key: str
) -> None:
    client, name = dispatcher.client, class_keys("t4")[list(NAMES).index(key)]
    dispatcher.take("before")
    if client.exists(name):
        client.rename(name, "moved")
    wrong = client.rpush if client.type("moved") == "string" else client.set
    wrong(name, "x")
    try:
        outcome = dispatcher.take("j")
    except StateDamaged as exc:
        assert "wrong type" in str(exc)
        outcome = "waits"
    assert dispatcher.take("other", "gpu.a100.shared") == "accepted"
    client.delete(name)
    if client.exists("moved"):
        client.rename("moved", name)
    if outcome == "waits":  # known: it was put in line before the script came to that key
        assert dispatcher.take("j") in ("accepted", "known")
    end = End(EndReason.SUCCEEDED, "")
    granted = dispatcher.line.release(CLASSES["t4"], Attempt("t4", "before", 1), end).granted
    assert [each["delivery"] for each in granted] == ["j"]


# -- unlocks ---------------------------------------------------------------------------------------


def record(dispatcher: Dispatcher, job: str) -> Record:
    found = Reader(dispatcher.client).find(job, [*CLASSES, CHORDS])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("queue", "image"),
    [
        ("gpu.t4.shared", None),
        ("gpu.a100", "a100:1"),
        ("gpu.auto", "a100:1"),
        ("gpu.no-such-class", None),
    ],
)
def test_an_unlock_needs_no_slot_of_the_class_of_its_queue(
    dispatcher: Dispatcher, queue: str, image: str | None
) -> None:
    dispatcher.take("runs")
    assert Reader(dispatcher.client).classes() == {}
    assert dispatcher.take("u", queue, task=UNLOCK, retries=3, ignore_result=True) == "accepted"
    assert (dispatcher.gpu_class, dispatcher.launched) == (CHORDS, ["runs", "u~3"])
    kept = record(dispatcher, "u")
    assert (kept.get("image"), kept["needs_app"]) == (image, True)
    assert list(Reader(dispatcher.client).classes()) == [CHORDS], "commands show it from now on"


def test_an_unlock_asks_for_nothing_that_its_body_asks_for(dispatcher: Dispatcher) -> None:
    asked = {"memory": "9GiB", "reuse": 5, "tenant": "vision", "image": "mine:2"}
    assert dispatcher.take("u", "gpu.t4.exclusive", task=UNLOCK, gpu=asked) == "accepted"
    kept = record(dispatcher, "u")
    assert "reuse" not in kept
    assert (kept["tenant"], kept["image"]) == ("vision", "mine:2")
    assert dispatcher.take("body", "gpu.t4.exclusive", gpu=asked) == "refused", "its caller sees it"


def test_an_unlock_of_an_older_dispatcher_stays_one_job(dispatcher: Dispatcher) -> None:
    older: Record = {
        "id": "u",
        "delivery": "u~1",
        "retries": 1,
        "gpu_class": "t4",
        "isolation": "shared",
        "task": UNLOCK,
    }
    dispatcher.line.take_in(CLASSES["t4"], older, "{}")
    assert dispatcher.take("u", task=UNLOCK, retries=1) == "known"
    assert dispatcher.gpu_class == "t4"
    assert dispatcher.take("u", task=UNLOCK, retries=2) == "accepted"
    assert dispatcher.gpu_class == CHORDS


def test_another_dispatcher_shows_the_class_once_it_has_been_used(dispatcher: Dispatcher) -> None:
    other = ShownClasses(dispatcher.client, CLASSES, CHORDS_CLASS)
    other.look()
    assert list(other) == list(CLASSES)
    dispatcher.take("u", task=UNLOCK)
    other.look()
    assert list(other) == [*CLASSES, CHORDS]
    assert other[CHORDS] == CHORDS_CLASS


def test_a_job_for_any_class_keeps_away_from_one_that_is_held(dispatcher: Dispatcher) -> None:
    """One whose jobs could not start looks idle, and would take all that find no slot elsewhere."""
    place = {"failures": 1, "jobs": {}, "since": 0, "last": time.time(), "error": "a policy"}
    place |= {"pause": 60, "until": time.time() + 60}
    dispatcher.client.hset("gpuqueue:1:{t4}:places", "launch:t4", json.dumps(place))
    for each in ("one", "two", "three"):
        dispatcher.take(each, "gpu.auto", gpu={"classes": ["t4", "a100"]})
        assert dispatcher.gpu_class == "a100"
    dispatcher.client.delete("gpuqueue:1:{t4}:places")
    dispatcher.client.set("gpuqueue:1:{t4}:waiting_shared", "a wrong type")
    dispatcher.take("damaged", "gpu.auto", gpu={"classes": ["t4", "a100"]})
    assert dispatcher.gpu_class == "a100"
    dispatcher.client.delete("gpuqueue:1:{t4}:waiting_shared")
    dispatcher.take("four", "gpu.auto", gpu={"classes": ["t4", "a100"]})
    assert dispatcher.gpu_class == "t4"
