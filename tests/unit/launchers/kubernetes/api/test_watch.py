"""A watch on pods over real HTTP, with every kind of stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Expired, StreamSilent, Unreachable
from tests.support.pod_objects import RECORDINGS, lines
from tests.support.scripted_api import (
    Answer,
    api_of,
    bookmark,
    expired,
    hang,
    line,
    listed,
    pod,
    refused,
    reply,
    requests,
    reset,
    serving,
    stream,
)
from tests.support.waiting import PATIENCE


def events_of(
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    silence: float = 5,
    **settings: Any,
) -> Iterator[tuple[str, str, str]]:
    """Return type, name and version of each event of a watch with this response."""
    with (
        serving(answer) as server,
        api_of(server, monkeypatch, tmp_path, **settings).watch_pods(
            "a=b", "5", 60, silence
        ) as watch,
    ):
        for event in watch:
            yield event.type, event.object.metadata.name, event.object.metadata.resource_version


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return lambda answer, **how: list(events_of(answer, monkeypatch, tmp_path, **how))


def test_watch_starts_at_a_version_with_bookmarks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(stream()) as server:
        api = api_of(server, monkeypatch, tmp_path)
        assert list(api.watch_pods("a=b", "5", 300.0, 9)) == []
        (asked,) = server.asked
    assert asked.path == "/api/v1/namespaces/gpus/pods"
    assert asked.query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "labelSelector": "a=b",
        "resourceVersion": "5",
        "timeoutSeconds": "300",
    }


def test_events_and_bookmarks_arrive_in_order(watched: Any) -> None:
    parts = [
        line("ADDED", pod("a", 6)),
        line("MODIFIED", pod("a", 7)),
        bookmark(9),
        line("DELETED", pod("a", 10)),
    ]
    assert watched(stream(*parts)) == [
        ("ADDED", "a", "6"),
        ("MODIFIED", "a", "7"),
        ("BOOKMARK", "", "9"),
        ("DELETED", "a", "10"),
    ]


def test_lines_can_be_split_anywhere(watched: Any) -> None:
    """Within a character too, and several lines in one part."""
    whole = (
        line("ADDED", pod("a", 6))
        + b'{"type":"MODIFIED","object":{"metadata":{"name":"\xc3\xa9t\xc3\xa9"}}}\n'
        + bookmark(8)
    )
    expected = [("ADDED", "a", "6"), ("MODIFIED", "été", ""), ("BOOKMARK", "", "8")]
    assert watched(stream(whole)) == expected
    assert watched(stream(*(whole[at : at + 1] for at in range(len(whole))))) == expected
    cut = whole.index(b"\xc3") + 1
    assert watched(stream(whole[:cut], whole[cut:])) == expected


def test_recorded_watches_are_decoded_as_sent(watched: Any) -> None:
    for file in sorted(RECORDINGS.glob("*.jsonl")):
        sent = list(lines(file.stem))
        found = watched(stream(*(text + b"\n" for text in sent)))
        assert [kind for kind, _, _ in found] == [json.loads(text)["type"] for text in sent]
        assert all(name and version for _, name, version in found)


def test_a_recorded_watch_that_broke_off_begins_again(watched: Any) -> None:
    rows = map(json.loads, (RECORDINGS / "policy_refuses_pod.jsonl").read_text().splitlines())
    (end,) = [each for each in rows if each.get("type") == "ERROR"]
    with pytest.raises(ApiError, match=r"504 Timeout: .*Too large resource version") as caught:
        watched(stream(line("ERROR", end["object"])))
    assert caught.value.passing


def test_unfinished_line_is_dropped(watched: Any) -> None:
    assert watched(stream(line("ADDED", pod("a", 6)), line("MODIFIED", pod("a", 7))[:-9])) == [
        ("ADDED", "a", "6")
    ]


def test_broken_stream_ends_like_a_closed_one(watched: Any) -> None:
    assert watched(stream(line("ADDED", pod("a", 6)), then=reset)) == [("ADDED", "a", "6")]


def test_empty_line_and_unknown_type_are_tolerated(watched: Any) -> None:
    assert watched(stream(b"\n\r\n", line("PROGRESS", pod("a", 6)), bookmark(7)))[-1] == (
        "BOOKMARK",
        "",
        "7",
    )


@pytest.mark.parametrize(
    "headers", [(), ("Connection: close",)], ids=["kept alive", "closed after the answer"]
)
def test_silent_stream_times_out(watched: Any, headers: tuple[str, ...]) -> None:
    """It has a longer timeout than other responses."""
    began = time.monotonic()
    with pytest.raises(StreamSilent):
        watched(stream(bookmark(6), then=hang, headers=headers), silence=0.6, api_timeout=0.2)
    assert 0.5 < time.monotonic() - began < 10


def test_bookmark_resets_the_silence_timeout(watched: Any) -> None:
    def slowly(connection: Any) -> None:
        for version in range(7, 12):
            time.sleep(0.15)
            data = bookmark(version)
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        connection.sendall(b"0\r\n\r\n")

    assert len(watched(stream(bookmark(6), then=slowly), silence=0.5)) == 6


def test_stream_that_does_not_begin_times_out(watched: Any) -> None:
    with pytest.raises(Unreachable, match="read timed out"):
        watched(hang, silence=30, api_timeout=0.2)


def test_watch_that_fell_behind_raises_expired(watched: Any) -> None:
    with pytest.raises(Expired, match=r"410 Expired: too old resource version: 1 \(1046\)"):
        watched(stream(expired()))
    with pytest.raises(Expired):
        watched(refused(410, "Expired"))


def test_error_in_the_stream_keeps_the_server_message(watched: Any) -> None:
    (found,) = requests("api_errors", "WATCH jobs with sendInitialEvents")
    with pytest.raises(ApiError, match="RequestWatchProgress is disabled") as raised:
        watched(stream(json.dumps(found["body"]).encode() + b"\n"))
    assert raised.value.status == 500
    assert raised.value.passing


@pytest.mark.parametrize(
    "garbage", [b"<html>\n", b'{"type":"ADDED","object":[]}\n', b"\xff\xfe\n", b"{}\n"]
)
def test_invalid_data_in_the_stream_raises(watched: Any, garbage: bytes) -> None:
    with pytest.raises(Unreachable, match="no Kubernetes API sends"):
        watched(stream(bookmark(6), garbage))


def test_forbidden_watch_raises(watched: Any) -> None:
    (found,) = requests("forbidden", "LIST pods without RBAC")
    with pytest.raises(ApiError, match='cannot list resource "pods"') as raised:
        watched(reply(403, found["body"]))
    assert not raised.value.passing and raised.value.refused


def test_another_thread_can_close_a_waiting_watch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(stream(bookmark(6), then=hang), listed()) as server:
        api = api_of(server, monkeypatch, tmp_path)
        watch = api.watch_pods("a=b", "5", 60, 60)
        first, ended = threading.Event(), threading.Event()

        def follow() -> None:
            for _ in watch:
                first.set()
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert first.wait(PATIENCE)
        watch.close()
        assert ended.wait(PATIENCE), "long before the stream is silent for too long"
        watch.close()
        assert api.list_pods("a=b")[0] == [], "a broken connection must not be reused"


def test_watch_closed_before_it_began_yields_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(stream(bookmark(6))) as server:
        watch = api_of(server, monkeypatch, tmp_path).watch_pods("a=b", "5", 60, 60)
        watch.close()
        assert list(watch) == []


def test_connections_of_ended_watches_are_reused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(stream(bookmark(6))) as server:
        api: Api = api_of(server, monkeypatch, tmp_path)
        for _ in range(5):
            assert len(list(api.watch_pods("a=b", "5", 60, 60))) == 1
        assert server.connections == 1
