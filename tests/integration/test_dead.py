"""The command `gpuqueue dead`, and what the doctor says of dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.intake import BrokerKeys, Intake, Report, Verdict
from tests.support.command_line import run_command
from tests.support.dev_command import clean_env

pytestmark = pytest.mark.integration
QUEUE = "gpu.t4.shared"


class Broker:
    """A broker with messages that are set aside."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory = url, directory
        self.client: Any = redis.Redis.from_url(url)
        self.client.flushall()
        self.app = Celery("sender", broker=url, set_as_current=False)

    def set_aside(self, text: str | bytes | None = None, **options: Any) -> bytes:
        """Have a message set aside; return its text."""
        if text is None:
            self.app.send_task("shop.add", (1, 2), queue=QUEUE, **options)
        else:
            self.client.lpush(QUEUE, text)
        intake = Intake(self.client, BrokerKeys(), "process", 60)
        (message,) = intake.take([QUEUE]).messages
        intake.take([QUEUE], [Report(message, Verdict.DEAD, "no task id\nin it")], most=0)
        return message.text

    def call(self, *words: str, status: int = 0, **env: str) -> str:
        found = run_command(
            words,
            cwd=self.directory,
            env=clean_env(**{"CELERY_BROKER_URL": self.url, "GPUQUEUE_APP": "shop"} | env),
        )
        assert found.returncode == status, found.stdout + found.stderr
        return found.stdout if status in (0, 1) else found.stderr

    def json(self, *words: str, **more: Any) -> Any:
        return json.loads(self.call(*words, "--json", **more))


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as running:
        yield running


@pytest.fixture
def broker(server: EmbeddedRedis, tmp_path: Path) -> Iterator[Broker]:
    made = Broker(server.url, tmp_path)
    yield made
    made.app.close()
    made.client.close()


def test_messages_are_listed_and_shown_as_they_were_sent(broker: Broker) -> None:
    assert broker.call("dead") == "no message was set aside\n"
    assert broker.json("dead") == []
    text = broker.set_aside(task_id="job-1")
    garbage = broker.set_aside(b"\xff not JSON")
    first, second = broker.json("dead")
    assert (first["task_id"], first["task"], first["queue"]) == ("job-1", "shop.add", QUEUE)
    assert (first["tries"], first["error"]) == (1, "no task id\nin it")
    assert first["message"] == text.decode()
    assert (second["task_id"], second["task"]) == (None, None)
    assert second["message"].encode(errors="surrogateescape") == garbage
    listed = broker.call("dead")
    assert all(each in listed for each in (first["id"], second["id"], "job-1", "shop.add"))
    assert broker.json("dead", "show", "job-1") == broker.json("dead", "show", first["id"])
    shown = broker.call("dead", "show", "job-1")
    assert text.decode() in shown
    assert "after 1 tries: no task id" in shown
    assert "\ufffd not JSON" in broker.call("dead", "show", second["id"])
    assert broker.json("dead", "show", "unknown", status=1) == []


def test_messages_are_sent_again_to_their_priority_and_dropped(broker: Broker) -> None:
    high = broker.set_aside(task_id="high", priority=0)
    low = broker.set_aside(task_id="low", priority=7)
    garbage = broker.set_aside("{}")
    ids = [each["id"] for each in broker.json("dead")]
    assert broker.json("dead", "send", "low", "unknown", status=1) == {
        "sent": [ids[1]],
        "unknown": ["unknown"],
    }
    assert broker.client.lrange(f"{QUEUE}\x06\x166", 0, -1) == [low]
    assert broker.call("dead", "send", "--all") == f"{ids[0]} sent\n{ids[2]} sent\n"
    assert broker.client.lrange(QUEUE, 0, -1) == [garbage, high]
    assert broker.json("dead") == []
    broker.client.delete(QUEUE, f"{QUEUE}\x06\x166")
    broker.set_aside("{}")
    assert "dropped" in broker.call("dead", "drop", "--all")
    assert broker.json("dead") == []
    assert not broker.client.exists(QUEUE)


def test_a_wrong_use_and_a_broker_away_are_told_in_one_line(broker: Broker) -> None:
    assert "name the messages, or all" in broker.call("dead", "send", status=2)
    assert "name the messages, or all" in broker.call("dead", "drop", "a", "--all", status=2)
    away = broker.call("dead", status=2, CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert "gpuqueue: " in away
    assert "Traceback" not in away
    assert "CELERY_BROKER_URL is not set" in broker.call("dead", status=2, CELERY_BROKER_URL="")


def test_the_doctor_counts_them(broker: Broker) -> None:
    def seen() -> dict[str, Any]:
        found = json.loads(broker.call("doctor", "--json", status=1))
        (check,) = [each for each in found["checks"] if each["name"] == "dead letters"]
        return dict(check)

    assert (seen()["level"], seen()["saw"]) == ("OK", "none")
    broker.set_aside("{}")
    check = seen()
    assert (check["level"], check["saw"]) == ("WARN", "1 messages could not be accepted")
    assert "gpuqueue dead" in check["fix"]
