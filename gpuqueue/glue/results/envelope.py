"""Messages of events in the form in which kombu sends them, for a sender with another connection to
the same Redis: an executor sends its events with what it writes anyway.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.events import event as celery_event
from celery.utils.time import utcoffset
from kombu.utils import json


@dataclass(frozen=True, slots=True)
class Envelope:
    """The form of the messages of events, as kombu has made one of :data:`SAMPLE`."""

    channel: str
    message: Mapping[str, Any]

    def pack(self, app: Celery, hostname: str, name: str, **fields: Any) -> tuple[str, str]:
        """Return the channel and the message of an event."""
        clock = app.clock.forward()
        event = celery_event.Event(
            name, hostname=hostname, utcoffset=utcoffset(), pid=os.getpid(), clock=clock, **fields
        )
        routing_key = name.replace("-", ".")
        properties = self.message["properties"]
        delivery = {**properties["delivery_info"], "routing_key": routing_key}
        message = {
            **self.message,
            "body": base64.b64encode(json.dumps(event).encode()).decode(),
            "headers": {**self.message["headers"], "hostname": hostname},
            "properties": {
                **properties,
                "delivery_info": delivery,
                "delivery_tag": str(uuid.uuid4()),
            },
        }
        return self.channel.replace(SAMPLE.replace("-", "."), routing_key), json.dumps(message)


#: The event whose message is the pattern of the others.
SAMPLE = "task-started"
#: The forms that are known.
_envelopes: dict[Celery, Envelope] = {}


def envelope_of(app: Celery) -> Envelope | None:
    """Return the envelope of the events of an application, if its form is known."""
    return _envelopes.get(app)


def learn(app: Celery, connection: Any) -> None:
    """Learn the form from kombu: what it would send on a connection, which is not used."""
    channel, sent = connection.default_channel, list[tuple[str, str]]()

    @contextmanager
    def caught() -> Iterator[Any]:
        yield SimpleNamespace(publish=lambda topic, payload: sent.append((topic, payload)))

    channel.conn_or_acquire = caught
    try:
        app.events.Dispatcher(connection, hostname="sample").send(SAMPLE, uuid="sample")
    finally:
        del channel.conn_or_acquire
    [(topic, payload)] = sent
    message = json.loads(payload)
    form = message["content-type"], message["content-encoding"]
    if (*form, message["properties"]["body_encoding"]) == ("application/json", "utf-8", "base64"):
        _envelopes[app] = Envelope(topic, message)
