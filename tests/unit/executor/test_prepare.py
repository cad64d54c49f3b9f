"""What a runner makes before it forks: channels without connections, and the form of events."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.utils import json

from gpuqueue.executor import waiting
from gpuqueue.glue.results.envelope import envelope_of
from gpuqueue.glue.results.events import Events
from gpuqueue.store.client import connect

#: Nothing listens there.
URL = "redis://:secret@127.0.0.1:1/3"
FIELDS: dict[str, dict[str, Any]] = {
    "task-started": {},
    "task-succeeded": {"result": "'ä'", "runtime": 0.25},
    "task-failed": {"exception": "ValueError('\ud800')", "traceback": "Traceback…"},
    "task-retried": {"exception": "Retry()", "traceback": ""},
}


def prepared(url: str = URL, state: str = URL, **settings: Any) -> Celery:
    app = Celery("shop", broker=url, backend=URL)
    app.conf.update(settings)
    waiting.prepare(app, connect(state))
    return app


def sent_by_kombu(app: Celery, event: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    sent: list[tuple[str, str]] = []

    @contextmanager
    def caught() -> Iterator[Any]:
        yield SimpleNamespace(publish=lambda *message: sent.append(message))

    with app.connection_for_write() as connection:
        connection.default_channel.conn_or_acquire = caught
        hostname = "gpu-t4@gpuqueue-t4"
        app.events.Dispatcher(connection, hostname=hostname).send(event, **fields)
    [(channel, message)] = sent
    return channel, json.loads(message)


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what differs from one event to the next."""
    body = json.loads(base64.b64decode(message.pop("body")))
    assert body.pop("timestamp") > 0 and body.pop("clock") > 0
    assert len(message["properties"].pop("delivery_tag")) == 36
    return {**message, "body": body}


@pytest.mark.parametrize("event", FIELDS)
@pytest.mark.parametrize("settings", [{}, {"event_exchange": "other"}], ids=["usual", "exchange"])
def test_a_packed_event_is_what_kombu_would_send(event: str, settings: dict[str, Any]) -> None:
    app = prepared(**settings)
    [(channel, message)] = Events(app, "t4").packed(event, "job", **FIELDS[event])
    expected_channel, expected = sent_by_kombu(app, event, **FIELDS[event], uuid="job")
    assert channel == expected_channel
    assert comparable(json.loads(message)) == comparable(expected)


@pytest.mark.parametrize(
    ("url", "state"),
    [
        (URL, "redis://:secret@127.0.0.1:1/0"),
        (URL, "redis://:secret@127.0.0.1:2/3"),
        (URL, "redis://:other@127.0.0.1:1/3"),
        (URL, "unix:///tmp/redis.sock"),
        ("memory://", URL),
    ],
)
def test_events_for_another_server_are_not_packed(url: str, state: str) -> None:
    app = prepared(url, state)
    assert envelope_of(app) is None
    assert Events(app, "t4").packed("task-started", "job") == []


@pytest.mark.parametrize(
    "settings",
    [{"event_serializer": "yaml"}, {"broker_transport_options": {"global_keyprefix": "p"}}],
    ids=["serializer", "prefix"],
)
def test_events_of_another_form_are_not_packed(settings: dict[str, Any]) -> None:
    assert envelope_of(prepared(**settings)) is None


def test_what_no_json_holds_is_left_to_the_sender() -> None:
    events = Events(prepared(), "t4")
    assert events.packed("task-succeeded", "job", result={object(): 1}) == []
