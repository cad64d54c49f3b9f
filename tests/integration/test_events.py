"""The events that a dispatcher sends beside the path: what a message has, what a failure costs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.events.state import State

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.glue.results import events as module
from gpuqueue.glue.results.events import Event, EventSender
from gpuqueue.glue.worker.class_worker import HEARTBEAT, ONLINE, goodbye, sign_of_life

pytestmark = pytest.mark.integration
T4 = "gpu-t4@gpuqueue-t4"


class Broker:
    """Notes what is published on each connection, and fails on demand."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, dict[str, Any], Any]] = []
        self.made = self.released = 0
        self.fails = False
        self.app = Celery("dispatcher", broker=url, set_as_current=False)
        monkeypatch.setattr(module, "_connection", self._connection)

    def _connection(self, app: Celery) -> Any:
        self.made += 1
        connection = app.connection_for_write()
        connection.default_channel.conn_or_acquire = self._caught
        close = connection.release

        def release() -> None:
            self.released += 1
            close()

        connection.release = release
        return connection

    @contextmanager
    def _caught(self) -> Iterator[Any]:
        yield SimpleNamespace(publish=self._publish)

    def _publish(self, channel: str, text: str) -> None:
        if self.fails:
            raise ConnectionError("away")
        message = json.loads(text)
        body = json.loads(base64.b64decode(message["body"]))
        self.sent.append((channel, message["headers"], body))


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as made:
        yield made


@pytest.fixture
def broker(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(server.url, monkeypatch)


def test_events_of_jobs_are_one_message_and_those_of_workers_one_each(broker: Broker) -> None:
    jobs = [
        Event("t4", "task-started", "a", timestamp=5.0),
        Event("a100", "task-failed", "b", {"exception": "E()"}),
        *(Event("t4", "task-succeeded", f"j{number}", {"runtime": 1.0}) for number in range(50)),
    ]
    with EventSender(broker.app) as sender:
        sender.send([sign_of_life(ONLINE, "t4", 5.0, 2, 3), *jobs, goodbye("a100")])
        sender.send([Event("t4", "task-started", "c")])
    assert [channel for channel, *_ in broker.sent] == [
        f"/0.celeryev/{key}"
        for key in ("worker.online", "worker.offline", "task.multi", "task.multi")
    ]
    online, offline, several, one = [body for *_, body in broker.sent]
    # A gossip of Celery's workers reads one event, and its sender in the header.
    assert (online["hostname"], online["active"], online["processed"]) == (T4, 2, 3)
    assert broker.sent[0][1]["hostname"] == T4 and "uuid" not in online
    assert offline["hostname"] == broker.sent[1][1]["hostname"] == "gpu-a100@gpuqueue-a100"
    assert [each["uuid"] for each in several] == [each.job_id for each in jobs]
    assert [each["hostname"] for each in several[:2]] == [T4, "gpu-a100@gpuqueue-a100"]
    assert (several[0]["timestamp"], several[1]["exception"]) == (5.0, "E()")
    assert one[0]["uuid"] == "c"
    assert (broker.made, broker.released) == (1, 1)


def test_a_failure_is_raised_and_the_next_call_connects_again(broker: Broker) -> None:
    sender = EventSender(broker.app)
    broker.fails = True
    for event in (Event("t4", "task-started", "a"), sign_of_life(HEARTBEAT, "t4", 5.0, 0, 0)):
        with pytest.raises(ConnectionError):
            sender.send([event])
    broker.fails = False
    sender.send([Event("t4", "task-started", "a")])
    assert [body[0]["uuid"] for *_, body in broker.sent] == ["a"], "once"
    assert (broker.made, broker.released) == (3, 2)
    sender.close()
    assert broker.released == 3


def test_celery_sees_one_worker_with_its_counts(broker: Broker) -> None:
    seen = State()
    with EventSender(broker.app) as sender:
        sender.send([sign_of_life(HEARTBEAT, "t4", 5.0, 8, 29), Event("t4", "task-started", "a")])
    for *_, body in broker.sent:
        for each in body if isinstance(body, list) else [body]:
            seen.event({**each, "local_received": each["timestamp"]})
    [worker] = seen.workers.values()
    assert (worker.hostname, worker.active, worker.processed, worker.freq) == (T4, 8, 29, 5.0)
    assert seen.tasks["a"].worker is worker
