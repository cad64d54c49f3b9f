"""Whole logs are written beside the path: each once, later if the sink is away, or told missing."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from gpuqueue.cli.checks import log_sink as checks
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher import background
from gpuqueue.dispatcher import log_writer as module
from gpuqueue.dispatcher.log_writer import LogWriter
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.base import LogGone, LogSource, NoLog
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.log_sink import parse_sink
from gpuqueue.store.keys import CLASSES, DISPATCHERS, class_key
from gpuqueue.store.reader import Reader
from gpuqueue.store.whole_logs import WholeLogNotes
from gpuqueue.telemetry import WHOLE_LOGS
from gpuqueue.whole_logs.sink import Sink, SinkError, open_sink
from tests.support.s3_server import BUCKET, S3Server, s3_server
from tests.support.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as made:
        yield made


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    made = redis.Redis.from_url(server.url, decode_responses=True)
    made.flushall()
    made.hset(CLASSES, "t4", "{}")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"EARLIEST": 0.02, "LATEST": 0.05}.items():
        monkeypatch.setattr(background, name, value)
    for name, value in {"LOOK": 0.05, "LEFT": 0.0, "SILENT": 60.0}.items():
        monkeypatch.setattr(module, name, value)


class Source:
    """A log in this process. Another dispatcher reads what ``there`` has."""

    there: dict[str, list[bytes]]

    def __init__(self, name: str, parts: list[bytes] | None) -> None:
        self.where = {"name": name}
        self._parts = parts

    def read(self) -> Iterator[bytes]:
        if self._parts is None:
            raise LogGone(f"{self.where['name']} is gone")
        yield from self._parts


class Memory:
    """A sink that may be away, or hang."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refused = ""
        self.open = threading.Event()
        self.open.set()
        self.writes = 0

    def write(self, name: str, parts: Iterable[bytes]) -> int:
        self.open.wait(PATIENCE)
        self.writes += 1
        if self.refused and self.refused in name:
            raise SinkError("no answer")
        self.objects[name] = b"".join(parts)
        return len(self.objects[name])

    def read(self, name: str) -> Iterator[bytes]:
        yield self.objects[name]

    def remove(self, name: str) -> None:
        del self.objects[name]


def accept(client: redis.Redis, delivery: str, attempt: int = 1, **fields: Any) -> Attempt:
    record = {"id": delivery, "delivery": delivery, "gpu_class": "t4", "attempt": attempt}
    more = {"state": "ended", "task": "shop.add", "isolation": "shared", "priority": 0}
    client.hset(class_key("t4", "jobs"), delivery, json.dumps({**record, **more, **fields}))
    return Attempt("t4", delivery, attempt, "token")


def writer(
    client: redis.Redis, sink: Sink, name: str = "one", find: Mapping[str, Any] | None = None
) -> LogWriter:
    def found(where: Mapping[str, str]) -> LogSource | None:
        return Source(where["name"], (find or {}).get(where["name"]))

    return LogWriter(client, Reader(client), sink, name, 100, found)


@pytest.mark.slow
def test_burst_is_written_to_a_bucket_across_its_outage(
    client: redis.Redis, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    sink = open_sink(parse_sink(f"s3://{BUCKET}/burst"))
    made, notes = writer(client, sink), WholeLogNotes(client)
    large = [b"x" * 1_000_000] * 20
    s3.stop()
    begun = time.monotonic()
    for number in range(200):
        parts = large if number == 0 else [b"line\n", str(number).encode()]
        made.keep(accept(client, f"job{number}", name="shop.add"), Source(f"{number}", parts))
    assert time.monotonic() - begun < 30, "an end waits for the sink"
    until(
        lambda: any(each.error for each in notes.all_due(["t4"]).values()), PATIENCE, "it is noted"
    )
    assert len(notes.all_due(["t4"])) == 200
    s3.start()
    until(lambda: not notes.all_due(["t4"]), 60, "all are written", lambda: str(s3.names()))
    names = [each for each in s3.names() if each.endswith(".log")]
    assert len(names) == 200
    found = notes.result(Attempt("t4", "job7", 1))
    assert found is not None and found.name.startswith("t4/20") and found.name.endswith("/job7~1")
    assert s3.text(f"burst/{found.name}.log") == "line\n7"
    told = s3.described(f"burst/{found.name}")
    assert (told["id"], told["name"], told["attempt"], told["bytes"]) == ("job7", "shop.add", 1, 6)
    first = notes.result(Attempt("t4", "job0", 1))
    assert first is not None and first.bytes == 20_000_000
    assert sum(map(len, sink.read(f"{first.name}.log"))) == 20_000_000
    made.close()


def test_log_is_written_once_and_that_of_a_stray_attempt_never(client: redis.Redis) -> None:
    sink = Memory()
    made, attempt = writer(client, sink), accept(client, "a", token="token")
    for _ in range(3):
        made.keep(attempt, Source("a", [b"text"]))
        until(lambda: not WholeLogNotes(client).all_due(["t4"]), PATIENCE, "it is written")
    assert sink.writes == 2
    made.keep(Attempt("t4", "a", 1, "another"), Source("a", [b"stray"]))
    made.keep(Attempt("t4", "unknown", 1), Source("b", [b"unknown"]))
    made.keep(accept(client, "b"), Source("b", [b"next"]))
    until(lambda: len(sink.objects) == 4, PATIENCE, "the next is written")
    made.close()
    assert set(sink.objects.values()) >= {b"text", b"next"} and sink.writes == 4


def test_log_that_cannot_be_written_does_not_keep_the_others_back(client: redis.Redis) -> None:
    sink = Memory()
    sink.refused = "bad"
    made = writer(client, sink)
    for name in ("bad", "a", "b"):
        made.keep(accept(client, name), Source(name, [b"text"]))
    until(lambda: len(sink.objects) == 4, PATIENCE, "the others are written")
    sink.refused = ""
    until(lambda: len(sink.objects) == 6, PATIENCE, "it is written, too")
    made.close()


def test_log_that_is_gone_is_told(client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    before = WHOLE_LOGS.labels("missing")._value.get()
    made, notes = writer(client, Memory()), WholeLogNotes(client, 100)
    made.keep(accept(client, "gone"), Source("pod-a", None))
    until(lambda: notes.all_missing(["t4"]), PATIENCE, "it is told")
    made.close()
    found = notes.result(Attempt("t4", "gone", 1))
    assert found is not None and found.missing == "pod-a is gone"
    assert WHOLE_LOGS.labels("missing")._value.get() == before + 1
    assert "gone#1: its whole log is not in the sink: pod-a is gone" in caplog.text
    state: Any = type("State", (), {"client": client, "reader": Reader(client), "now": time.time})
    [check] = checks.logs(state)
    assert check.level == "WARN" and check.saw == "1 missing, such as gone#1"


def test_attempt_without_a_log_is_not_missing(client: redis.Redis) -> None:
    class Never(Source):
        def read(self) -> Iterator[bytes]:
            raise NoLog("never wrote one")

    made, notes = writer(client, Memory()), WholeLogNotes(client)
    made.keep(accept(client, "a"), Never("a", []))
    until(lambda: not notes.all_due(["t4"]), PATIENCE, "it is forgotten")
    made.close()
    assert notes.result(Attempt("t4", "a", 1)) is None


def test_what_a_killed_dispatcher_has_left_is_written_by_another(client: redis.Redis) -> None:
    stuck, sink, notes = Memory(), Memory(), WholeLogNotes(client)
    stuck.open.clear()
    first = writer(client, stuck, "first")
    for name in ("a", "lost"):
        first.keep(accept(client, name), Source(name, [name.encode()]))
    assert len(notes.all_due(["t4"])) == 2
    client.zadd(DISPATCHERS, {"first": time.time()})
    second = writer(client, sink, "second", {"a": [b"a"]})
    second.start()
    other = accept(client, "own")
    second.keep(other, Source("own", [b"own"]))
    until(lambda: notes.result(other), PATIENCE, "its own is written")
    assert len(notes.all_due(["t4"])) == 2, "the other dispatcher lives"
    client.zrem(DISPATCHERS, "first")
    until(lambda: not notes.all_due(["t4"]), PATIENCE, "all are ended")
    found, lost = (notes.result(Attempt("t4", name, 1)) for name in ("a", "lost"))
    assert found is not None and sink.objects[f"{found.name}.log"] == b"a"
    assert lost is not None and lost.missing == "lost is gone"
    second.close()
    stuck.open.set()
    first.close()


def test_directory_has_whole_files_or_none(tmp_path: Path) -> None:
    sink = open_sink(parse_sink(str(tmp_path / "logs")))

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise LogGone("gone")

    with pytest.raises(LogGone):
        sink.write("t4/day/a~1.log", broken())
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]
    assert sink.write("t4/day/a~1.log", [b"whole"]) == 5
    assert b"".join(sink.read("t4/day/a~1.log")) == b"whole"
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"GPUQUEUE_LOG_SINK='.*/file': .*; let the user"):
        open_sink(parse_sink(f"file://{tmp_path}/file")).write("a", [b""])


def test_bucket_without_its_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "gpuqueue.whole_logs.bucket", raising=False)
    with pytest.raises(SettingsError, match=r"'s3://logs/' needs boto3; install gpuqueue\[s3\]"):
        open_sink(parse_sink("s3://logs"))
