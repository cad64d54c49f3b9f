"""Real Celery messages in any number, and a fast way to fill lines with them."""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu import Message

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.glue.messages.message import pack
from gpuqueue.glue.messages.parse import identify, parse
from gpuqueue.model.names import SHARED
from gpuqueue.model.record import Record
from gpuqueue.store.answers import BATCH
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.scripts import Scripts, source

#: Records and messages per pipeline: enough to fill packets, few enough to keep other clients
#: responsive.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Template:
    """One message that Celery has created; the others are copies with different ids."""

    id: str
    tag: str
    wire: str
    packed: dict[str, Any]

    def wires(self, count: int) -> list[str]:
        """Return messages in the format of the broker's list."""
        return [
            self.wire.replace(self.id, str(uuid.uuid4())).replace(self.tag, str(uuid.uuid4()))
            for _ in range(count)
        ]

    def copy(self, **headers: Any) -> dict[str, Any]:
        """Return another message, packed as for the dispatcher."""
        packed: dict[str, Any] = json.loads(
            json.dumps(self.packed).replace(self.id, str(uuid.uuid4()))
        )
        packed["headers"].update(headers)
        return packed


def template(
    app: Celery,
    queue: str,
    client: Redis,
    task: str = "bench.noop",
    args: tuple[Any, ...] = (1, "two"),
    **options: Any,
) -> Template:
    """Send one message with Celery to a queue without consumers, and remove it again."""
    sent = app.send_task(task, args, queue=queue, **options)
    wire = client.rpop(queue)
    assert isinstance(wire, str), "another process consumes the queue"
    raw = json.loads(wire)
    message = Message(
        body=base64.b64decode(raw["body"]),
        content_type=raw["content-type"],
        content_encoding=raw["content-encoding"],
        headers=raw["headers"],
        properties=raw["properties"],
        delivery_info=raw["properties"]["delivery_info"],
    )
    return Template(sent.id, raw["properties"]["delivery_tag"], wire, pack(message, None))


def record_of(packed: dict[str, Any], gpu_class: str, isolation: str = SHARED) -> Record:
    """Return the record that the dispatcher would keep."""
    return parse(packed, identify(packed)).job(GpuClass(gpu_class), isolation).record()


def fill(
    client: Redis,
    gpu_class: GpuClass,
    made: Template,
    count: int,
    fields: Callable[[int], dict[str, Any]] = lambda number: {},
) -> list[str]:
    """Put jobs in line with the two scripts of the dispatcher, many per round trip; return their
    deliveries. ``fields``: more of the record of each.

    Another job must keep the class busy, because admitted jobs are not launched.
    """
    record, message = json.dumps(record_of(made.packed, gpu_class.name)), json.dumps(made.packed)
    deliveries = [str(uuid.uuid4()) for _ in range(count)]
    line = Line(client)
    line.open(gpu_class.name)
    spec = line.spec(gpu_class)
    for verb in ("accept", "enqueue"):
        client.script_load(source(verb))
    for start in range(0, count, CHUNK):
        pipe = client.pipeline(transaction=False)
        scripts = Scripts(pipe)
        for number, each in enumerate(deliveries[start : start + CHUNK], start):
            now = time.time()
            scripts.call(
                "accept",
                gpu_class.name,
                message.replace(made.id, each),
                record=json.loads(record.replace(made.id, each)) | fields(number),
                now=now,
            )
            scripts.call(
                "enqueue",
                gpu_class.name,
                delivery=each,
                spec=spec,
                now=now,
                nonce=secrets.token_hex(16),
                by="bench",
                most=BATCH,
            )
        pipe.execute()
    return deliveries
