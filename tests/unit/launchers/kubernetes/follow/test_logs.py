"""The end of a pod log: limited, in whole lines, for any output of the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuqueue.launchers.kubernetes.api.errors import NotFound, Unreachable
from gpuqueue.launchers.kubernetes.follow import logs
from gpuqueue.launchers.kubernetes.follow.logs import keep_end, tail
from tests.support.scripted_api import (
    Answer,
    Asked,
    Scripted,
    api_of,
    refused,
    reply,
    requests,
    reset,
    serving,
    stream,
)

ENDS = [
    ("all of it", b"one\ntwo\n", 100, "one\ntwo\n"),
    ("cut at a line", b"one\ntwo\nthree\n", 10, "two\nthree\n"),
    ("cut within a line", b"one\ntwo\nthree\n", 8, "three\n"),
    ("a last line without an end", b"one\ntwo", 5, "two"),
    ("one long line", b"0123456789\n", 4, "789\n"),
    ("a character that is cut", "aé€".encode(), 4, "€"),
    ("no UTF-8", b"ab\xff\xfe\n", 100, "ab��\n"),
    ("nothing", b"", 10, ""),
]


@pytest.mark.parametrize(
    ("data", "limit", "kept"), [each[1:] for each in ENDS], ids=[each[0] for each in ENDS]
)
def test_end_of_a_text_is_kept(data: bytes, limit: int, kept: str) -> None:
    assert keep_end(data, limit) == kept


def kubelet(log: bytes) -> tuple[Scripted, list[Asked]]:
    """Return a server with this log. As on a real one, limitBytes cuts off the end of tailLines."""

    def respond(asked: Asked) -> Answer:
        count, limit = int(asked.query["tailLines"]), int(asked.query["limitBytes"])
        selected = b"".join(log.splitlines(keepends=True)[-count:])
        return reply(200, selected[:limit])

    server = Scripted(respond)
    return server, server.asked


def fetched(
    log: bytes, limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, list[Asked]]:
    server, asked = kubelet(log)
    try:
        return tail(api_of(server, monkeypatch, tmp_path), "gpu-job-x", limit), asked
    finally:
        server.close()


def test_tail_of_a_log_takes_one_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = b"".join(b"line %d\n" % number for number in range(100_000))
    text, (asked,) = fetched(log, 60, monkeypatch, tmp_path)
    assert text == "".join(f"line {number}\n" for number in range(99_995, 100_000))
    assert asked.path == "/api/v1/namespaces/gpus/pods/gpu-job-x/log"
    assert asked.query["container"] == "executor"


def test_fewer_lines_are_requested_if_they_are_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = b"x" * 20_000 + b"\n"
    text, asked = fetched(log * 500 + b"the last words\n", 40, monkeypatch, tmp_path)
    assert text.endswith("the last words\n")
    assert len(text) <= 40
    assert [each.query["tailLines"] for each in asked] == ["400", "20"]


def test_endless_line_keeps_the_part_that_the_api_returns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logs, "MARGIN", 1000)
    text, asked = fetched(b"x" * 5000, 40, monkeypatch, tmp_path)
    assert text == "x" * 40
    assert len(asked) == 3


def test_no_log_is_requested_with_a_limit_of_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert fetched(b"words\n", 0, monkeypatch, tmp_path) == ("", [])


NONE = [
    ("the pod is gone", reply(404, requests("api_errors", "GET log, absent pod")[0]["body"])),
    (
        "its container never started",
        refused(400, "BadRequest", 'container "executor" is waiting to start: ErrImagePull'),
    ),
    ("its node is away", refused(500, "InternalError", "dial tcp 10.0.0.7:10250: i/o timeout")),
    ("it breaks off", stream(b"some", then=reset)),
]


@pytest.mark.parametrize("answer", [each[1] for each in NONE], ids=[each[0] for each in NONE])
def test_unavailable_log_is_empty(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(answer) as server:
        assert tail(api_of(server, monkeypatch, tmp_path), "gpu-job-x", 100) == ""


def test_log_is_followed_while_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if a part ends within a character, and for invalid UTF-8."""
    text = "été €\n".encode()
    with serving(
        stream(*(text[at : at + 1] for at in range(len(text))), b"\xff\n", b"\xe2\x82")
    ) as server:
        api = api_of(server, monkeypatch, tmp_path)
        assert "".join(api.follow_log("gpu-job-x", 10)) == "été €\n�\n�"
        assert server.asked[0].query == {
            "container": "executor",
            "follow": "true",
            "tailLines": "10",
        }


def test_log_since_a_time_has_the_time_of_each_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(stream(b"2026-01-02T03:04:05.6Z one\n")) as server:
        api = api_of(server, monkeypatch, tmp_path)
        text = api.pod_log("gpu-job-x", 10, 100, since=1767323045.9)
        assert text == "2026-01-02T03:04:05.6Z one\n"
        assert server.asked[0].query == {
            "container": "executor",
            "tailLines": "10",
            "limitBytes": "100",
            "sinceTime": "2026-01-02T03:04:05Z",
            "timestamps": "true",
        }


def test_whole_log_that_breaks_off_is_not_taken_for_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(stream(b"one\n", b"two\n"), stream(b"one\n", then=reset)) as server:
        api = api_of(server, monkeypatch, tmp_path)
        assert b"".join(api.whole_log("gpu-job-x")) == b"one\ntwo\n"
        assert server.asked[0].query == {"container": "executor"}
        with pytest.raises(Unreachable, match="the connection has broken off"):
            list(api.whole_log("gpu-job-x"))


def test_following_the_log_of_a_missing_pod_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(refused(404, "NotFound", 'pods "x" not found')) as server:
        api = api_of(server, monkeypatch, tmp_path)
        with pytest.raises(NotFound, match='pods "x" not found'):
            next(api.follow_log("x", 10))
