"""Commands of remote control arrive in the form in which their application sends its tasks, and are
answered in it. None of them runs code that it names.
"""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker.consumer.control import Control as CeleryControl
from kombu import Message
from kombu.serialization import dumps

from gpuqueue.glue.worker.commands import Commands
from tests.support.trap import Trap

COMMAND: dict[str, Any] = {
    "method": "revoke",
    "arguments": {"task_id": ["one"], "terminate": True, "signal": "SIGTERM"},
    "destination": None,
    "pattern": None,
    "matcher": None,
}
ASKS = {**COMMAND, "ticket": "t", "reply_to": {"exchange": "replies", "routing_key": "me"}}
PICKLE = "application/x-python-serialize"


class Worker:
    """The mailbox of a worker, and what it was told and has answered."""

    def __init__(self) -> None:
        app = Celery("of-a-dispatcher", broker="memory://", set_as_current=False)
        consumer = SimpleNamespace(
            app=app, pool=None, hostname="one", controller=SimpleNamespace(use_eventloop=True)
        )
        box = CeleryControl(consumer).box
        self.told: list[dict[str, Any]] = []
        self.answers: list[tuple[Any, str]] = []
        box.node.handlers = {"revoke": self.revoke}
        self.commands = Commands(box)
        self.mailbox = box.node.mailbox
        self.mailbox._publish_reply = self.answer
        self.shared = app.control.mailbox

    def revoke(self, state: Any, **arguments: Any) -> dict[str, str]:
        self.told.append(arguments)
        return {"ok": "revoked"}

    def answer(self, reply: Any, *_: Any, serializer: str, **__: Any) -> None:
        self.answers.append((reply, serializer))

    def receive(self, body: Any, content_type: str) -> bool:
        return self.commands.receive(Message(body=body, content_type=content_type))


def encoded(command: Any, serializer: str) -> tuple[bytes, str]:
    content_type, _, content = dumps(command, serializer=serializer)
    return content.encode() if isinstance(content, str) else content, content_type


@pytest.mark.parametrize("serializer", ["msgpack", "yaml", "pickle"])
def test_a_command_runs_and_is_answered_in_its_form(serializer: str) -> None:
    worker = Worker()
    assert worker.receive(*encoded(COMMAND, serializer))
    assert worker.told == [COMMAND["arguments"]]
    assert worker.answers == []
    assert worker.receive(*encoded(ASKS, serializer))
    assert worker.answers == [({"one": {"ok": "revoked"}}, serializer)]
    assert worker.mailbox.serializer == worker.shared.serializer == "json"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("where", ["command", "argument", "key"])
def test_a_pickle_that_names_code_is_no_command(protocol: int, where: str) -> None:
    arguments = {"task_id": Trap()} if where == "argument" else {Trap(): "one"}
    command = Trap() if where == "command" else {**COMMAND, "arguments": arguments}
    worker, before = Worker(), Trap.read
    assert not worker.receive(pickle.dumps(command, protocol), PICKLE)
    assert (worker.told, Trap.read) == ([], before)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", PICKLE),
        (b"\x80\x04]r\xff\xff\xff\x7f.", PICKLE),  # a memo of two thousand million places
        (b"garbage", "application/x-msgpack"),
        (b"\xc1", "application/x-msgpack"),
        (b"\x90", "application/x-msgpack"),
        (b"{", "application/x-yaml"),
        (b"!!python/object/apply:os.putenv [a, b]", "application/x-yaml"),
        (b"- 1", "application/x-yaml"),
        (7, "application/x-yaml"),
        (b"{}", "text/plain"),
        (b"{}", None),
        (b"{}", ["json"]),
    ],
    ids=str,
)
def test_what_is_no_command_is_left_to_celery(body: Any, content_type: Any) -> None:
    worker = Worker()
    assert not worker.receive(body, content_type)
    assert worker.told == []


def test_a_command_that_names_one_part_many_times_is_none() -> None:
    part: list[Any] = ["x"]
    for _ in range(40):
        part = [part, part]
    worker = Worker()
    command = {**COMMAND, "arguments": {"task_id": part}}
    assert not worker.receive(pickle.dumps(command), PICKLE)
    assert worker.told == []


def test_a_pickle_takes_no_more_memory_than_it_has_bytes() -> None:
    worker = Worker()
    length = (1 << 40).to_bytes(8, "little")
    assert not worker.receive(b"\x80\x05\x96" + length + b".", PICKLE)
