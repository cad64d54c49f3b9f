"""The API client over real HTTP: its requests, its errors, and how it handles bad servers."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import (
    MAX_RETRY_AFTER,
    AlreadyExists,
    ApiError,
    Forbidden,
    Invalid,
    NotFound,
    QuotaRejected,
    Unreachable,
)
from tests.support.pod_objects import RECORDINGS
from tests.support.scripted_api import (
    Answer,
    Scripted,
    api_of,
    hang,
    listed,
    pod,
    refused,
    reply,
    requests,
    reset,
    serving,
    stream,
)

JOB: dict[str, Any] = {"metadata": {"name": "gpu-job"}, "spec": {"template": {}}}
A_JOB = reply(201, {"metadata": {"name": "gpu-job", "uid": "1-2"}})


class Asking:
    """Start servers with these responses, each with its Api; they close after the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch, self._folder = monkeypatch, folder
        self._open: list[Any] = []

    def __call__(self, *answers: Answer, **settings: Any) -> tuple[Api, Scripted]:
        context = serving(*answers)
        server = context.__enter__()
        self._open.append(context)
        return api_of(server, self._monkeypatch, self._folder, **settings), server

    def close(self) -> None:
        for context in self._open:
            context.__exit__(None, None, None)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    made = Asking(monkeypatch, tmp_path)
    yield made
    made.close()


def recorded(recording: str, request: str) -> Answer:
    (found,) = requests(recording, request)
    return reply(
        found["status"],
        found["body"],
        {name: text for name, text in found["headers"].items() if name == "Warning"},
    )


# -- errors ----------------------------------------------------------------------------------------

REFUSALS = [
    (
        "api_errors",
        "POST jobs, same name again",
        AlreadyExists,
        409,
        False,
        'jobs.batch "gpu-job" already exists',
    ),
    ("api_errors", "POST jobs, bad name", Invalid, 422, False, 'Invalid value: "Not_A_Name"'),
    (
        "api_errors",
        "POST jobs, restartPolicy Always",
        Invalid,
        422,
        False,
        "spec.template.spec.restartPolicy",
    ),
    (
        "api_errors",
        "POST jobs, unknown field, strict",
        Invalid,
        400,
        False,
        'unknown field "spec.noSuchField"',
    ),
    (
        "api_errors",
        "POST jobs, fractional gpu",
        Invalid,
        422,
        False,
        'Invalid value: "500m": must be an integer',
    ),
    (
        "api_errors",
        "POST jobs, absent namespace",
        NotFound,
        404,
        False,
        'namespaces "no-such-ns" not found',
    ),
    ("forbidden", "POST jobs without RBAC", Forbidden, 403, False, 'cannot create resource "jobs"'),
    ("forbidden", "LIST pods with a bad token", ApiError, 401, True, "Unauthorized"),
    (
        "quota_refuses_job",
        "POST jobs over the quota",
        QuotaRejected,
        403,
        True,
        "exceeded quota: jobs",
    ),
]


@pytest.mark.parametrize(
    ("recording", "request_", "kind", "status", "passing", "words"),
    REFUSALS,
    ids=[each[1] for each in REFUSALS],
)
def test_recorded_error_keeps_the_message_of_the_server(
    asking: Asking,
    recording: str,
    request_: str,
    kind: type[ApiError],
    status: int,
    passing: bool,
    words: str,
) -> None:
    api, _ = asking(recorded(recording, request_))
    with pytest.raises(ApiError) as raised:
        api.create_job(JOB)
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.passing) == (status, passing)
    assert words in error.message
    assert str(error).startswith(f"create job gpu-job in gpus: {status} {error.reason}: ")
    assert "\n" not in str(error)


#: The words of the client of etcd, from documentation.
LARGE = "code = ResourceExhausted desc = trying to send message larger than max"
PASSING = [
    (refused(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"), True),
    (refused(500, "InternalError", "failed calling webhook"), True),
    (refused(503, "ServiceUnavailable"), True),
    (refused(504, "Timeout", "Too large resource version: 9, current: 1"), True),
    (refused(408, "Timeout"), True),
    (reply(429, b"Too many requests, please try again later.\n"), True),
    (reply(502, b"<html>\n<h1>502 Bad Gateway</h1>\n</html>"), True),
    (reply(302, b"", {"Location": "http://127.0.0.1:9/login"}), True),
    (refused(403, "Forbidden", 'jobs is forbidden: cannot create: RBAC: role "x" not found'), True),
    (refused(403, "Forbidden", 'namespaces "x" is being terminated'), False),
    (refused(405, "MethodNotAllowed"), False),
    (reply(413, b"<html>too large</html>"), False),
    (refused(500, "", "etcdserver: leader changed"), True),
    (refused(500, "", "etcdserver: request is too large"), False),
    (refused(500, "InternalError", f"rpc error: {LARGE} (2100000 vs. 2097152)"), False),
]


@pytest.mark.parametrize(("answer", "passing"), PASSING)
def test_error_knows_whether_a_retry_may_succeed(
    asking: Asking, answer: Answer, passing: bool
) -> None:
    api, server = asking(answer)
    with pytest.raises(ApiError) as raised:
        api.create_job(JOB)
    assert raised.value.passing is passing
    assert len(server.asked) == 1, "the client never retries"


def test_error_can_be_rebuilt_from_its_text() -> None:
    error = Forbidden("no\n  way", request="create job x", status=403, reason="Forbidden")
    assert str(type(error)(*error.args)) == str(error) == "create job x: 403 Forbidden: no way"


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


RETRY_AFTER = [
    ({"Retry-After": "7"}, 7),
    ({"Retry-After": " 1 "}, 1),
    ({"Retry-After": "Sun, 06 Nov 2044 08:49:37 GMT", "Date": "Sun, 06 Nov 2044 08:49:32 GMT"}, 5),
    ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
    ({"Retry-After": "86400"}, MAX_RETRY_AFTER),
    ({"Retry-After": "soon"}, None),
    ({"Retry-After": "nan"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), RETRY_AFTER)
def test_retry_after_header_is_read(
    asking: Asking, headers: dict[str, str], seconds: float | None
) -> None:
    api, _ = asking(refused(429, "TooManyRequests", headers=headers))
    with pytest.raises(ApiError) as raised:
        api.list_jobs("a=b")
    assert raised.value.retry_after == seconds


def test_retry_after_date_uses_our_clock_without_a_date_header(
    asking: Asking,
) -> None:
    api, _ = asking(
        refused(
            503,
            "ServiceUnavailable",
            headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)},
        )
    )
    with pytest.raises(ApiError) as raised:
        api.list_jobs("a=b")
    assert raised.value.retry_after == pytest.approx(29.5, abs=1)


def test_retry_after_is_read_from_the_error_body(asking: Asking) -> None:
    api, _ = asking(refused(504, "Timeout", details={"retryAfterSeconds": 3}))
    with pytest.raises(ApiError) as raised:
        api.list_jobs("a=b")
    assert raised.value.retry_after == 3


# -- bad servers -----------------------------------------------------------------------------------


def test_refused_connection_is_unreachable(asking: Asking) -> None:
    api, server = asking(hang)
    server.close()
    with pytest.raises(
        Unreachable, match=r"no answer from http://127.0.0.1:\d+: .*Connection refused"
    ) as raised:
        api.create_job(JOB)
    assert raised.value.passing
    assert raised.value.status == 0
    assert "object at 0x" not in str(raised.value)


def test_unresolvable_host_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    api = api_of("http://no-such-host.example", monkeypatch, tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match=r"Failed to resolve 'no-such-host.example'"):
        api.server_version()


def test_hanging_server_times_out(asking: Asking) -> None:
    api, _ = asking(hang, api_timeout=0.2)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="read timed out"):
        api.create_job(JOB)
    assert time.monotonic() - began < 10


def sent_then_reset(data: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        reset(connection)

    return answer


BROKEN: list[tuple[str, Answer]] = [
    ("it breaks off before the answer", reset),
    ("it breaks off within the answer", stream(b'{"metadata"', then=reset)),
    (
        "it ends within the answer",
        sent_then_reset(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    ),
    ("it hangs within the answer", stream(b'{"metadata"', then=hang)),
    (
        "it speaks another protocol",
        sent_then_reset(b"SSH-2.0-OpenSSH_9.2\r\n"),
    ),
    ("it answers a web page", reply(200, b"<html>welcome</html>")),
    ("it answers no text", reply(200, b"\xff\xfe\x00")),
    ("it answers other JSON", reply(200, ["a", "list"])),
    ("it answers fields of other types", reply(200, {"metadata": {"name": 1}})),
    ("a load balancer answers 404", reply(404, b"default backend - 404")),
    ("a load balancer answers 404 in JSON", reply(404, {"message": "no such service"})),
]


@pytest.mark.parametrize("answer", [each[1] for each in BROKEN], ids=[each[0] for each in BROKEN])
def test_invalid_response_is_unreachable(asking: Asking, answer: Answer) -> None:
    api, _ = asking(answer, api_timeout=0.3)
    with pytest.raises(Unreachable) as raised:
        api.get_job("gpu-job")
    assert raised.value.passing
    assert "\n" not in str(raised.value)


def test_request_after_a_broken_one_succeeds(asking: Asking) -> None:
    api, _ = asking(stream(b"{", then=reset), reply(200, {"gitVersion": "v1.36.2"}))
    with pytest.raises(Unreachable):
        api.server_version()
    assert api.server_version() == "v1.36.2"


def test_threads_share_connections(asking: Asking) -> None:
    api, server = asking(reply(200, {"gitVersion": "v1.36.2"}))
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: api.server_version(), range(200)))
    assert answers == ["v1.36.2"] * 200
    assert server.connections <= 16


# -- requests --------------------------------------------------------------------------------------


def test_job_is_created_with_strict_validation(asking: Asking) -> None:
    api, server = asking(A_JOB)
    job = api.create_job(JOB)
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.query) == (
        "POST",
        "/apis/batch/v1/namespaces/gpus/jobs",
        {"fieldValidation": "Strict"},
    )
    assert asked.body == JOB
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["authorization"] == "bearer a-token"
    assert job.metadata.uid == "1-2"


def test_dry_run_is_requested(asking: Asking) -> None:
    api, server = asking(A_JOB)
    api.create_job(JOB, dry_run=True)
    assert server.asked[0].query == {"fieldValidation": "Strict", "dryRun": "All"}


def test_server_warning_is_logged_once(asking: Asking, caplog: pytest.LogCaptureFixture) -> None:
    api, _ = asking(reply(201, {}, {"Warning": '299 - "spec.x is \\"old\\""'}))
    for _ in range(3):
        api.create_job(JOB)
    assert [record.getMessage() for record in caplog.records] == [
        r"Kubernetes API warning: spec.x is \"old\""
    ]


def test_job_is_deleted_with_its_pods(asking: Asking) -> None:
    api, server = asking(reply(200, {"kind": "Status", "status": "Success"}))
    assert api.delete_job("gpu-job", uid="1-2")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("DELETE", "/apis/batch/v1/namespaces/gpus/jobs/gpu-job")
    assert asked.body["propagationPolicy"] == "Background"
    assert asked.body["preconditions"] == {"uid": "1-2"}


def test_deleting_a_missing_job_returns_false(asking: Asking) -> None:
    api, _ = asking(recorded("api_errors", "DELETE job, absent"))
    assert not api.delete_job("absent")


def test_job_with_the_same_name_and_another_uid_is_not_deleted(asking: Asking) -> None:
    api, _ = asking(
        refused(
            409,
            "Conflict",
            "Precondition failed: UID in precondition: 1-2, UID in object meta: 3-4",
        )
    )
    assert not api.delete_job("gpu-job", uid="1-2")
    with pytest.raises(ApiError, match="409 Conflict"):
        api.delete_job("gpu-job")


def test_missing_job_is_none(asking: Asking) -> None:
    api, _ = asking(recorded("api_errors", "GET job, absent"))
    assert api.get_job("absent") is None


def test_pods_are_listed_page_by_page(asking: Asking) -> None:
    api, server = asking(
        listed(pod("a"), pod("b"), version=7, more="p2"), listed(pod("c"), version=7)
    )
    pods, version = api.list_pods("gpuqueue.io/owner=us,a=b")
    assert [each.metadata.name for each in pods] == ["a", "b", "c"]
    assert version == "7"
    first, second = server.asked
    assert first.path == "/api/v1/namespaces/gpus/pods"
    assert first.query == {"labelSelector": "gpuqueue.io/owner=us,a=b", "limit": "500"}
    assert second.query == {**first.query, "continue": "p2"}


def test_list_restarts_after_an_expired_page(asking: Asking) -> None:
    gone = refused(410, "Expired", "The provided continue parameter is too old")
    api, server = asking(listed(pod("a"), more="p2"), gone, listed(pod("b"), version=9))
    pods, version = api.list_pods("a=b")
    assert [each.metadata.name for each in pods] == ["b"]
    assert version == "9"
    assert "continue" not in server.asked[2].query


def test_list_falls_back_to_a_single_page(asking: Asking) -> None:
    gone = refused(410, "Expired", "The provided continue parameter is too old")
    page = listed(pod("a"), more="p2")
    api, server = asking(page, gone, page, gone, listed(pod("a"), pod("b")))
    assert len(api.list_pods("a=b")[0]) == 2
    assert "limit" not in server.asked[-1].query


def test_empty_list_can_be_null(asking: Asking) -> None:
    api, _ = asking(reply(200, {"metadata": {"resourceVersion": "3"}, "items": None}))
    assert api.list_jobs("a=b") == ([], "3")


def test_events_report_the_rejected_pods_of_all_jobs(asking: Asking) -> None:
    rows = [
        json.loads(text)
        for text in (RECORDINGS / "quota_refuses_pod.jsonl").read_text().splitlines()
    ]
    events = [each["object"] for each in rows if each["watch"] == "events"]
    api, server = asking(listed(*events, version=7))
    found, version = api.list_rejections()
    assert server.asked[0].query["fieldSelector"] == "involvedObject.kind=Job,reason=FailedCreate"
    assert version == "7" and found[0].reason == "FailedCreate"
    assert "exceeded quota: gpus" in (found[0].message or "")


def test_a_look_is_a_list_of_no_pod_with_a_short_time_limit(asking: Asking) -> None:
    api, server = asking(listed(), hang, api_timeout=0.3)
    api.look()
    assert server.asked[0].query == {
        "fieldSelector": "metadata.name=gpuqueue-look",
        "resourceVersion": "0",
    }
    with pytest.raises(Unreachable, match="read timed out"):
        api.look()


def test_access_review_is_requested(asking: Asking) -> None:
    api, server = asking(
        reply(201, {"status": {"allowed": False, "reason": "no role"}}),
        reply(201, {"status": {"allowed": True}}),
    )
    assert api.can("create", "jobs", group="batch") == (False, "no role")
    assert api.can("list", "nodes", namespace="") == (True, "")
    first, second = (asked.body["spec"]["resourceAttributes"] for asked in server.asked)
    assert first == {
        "verb": "create",
        "resource": "jobs",
        "group": "batch",
        "subresource": "",
        "namespace": "gpus",
    }
    assert second["namespace"] == ""


def test_namespace_is_read(asking: Asking) -> None:
    api, server = asking(
        reply(200, {"metadata": {"name": "x"}, "status": {"phase": "Terminating"}}),
        refused(404, "NotFound"),
    )
    found = api.get_namespace("x")
    assert found is not None
    assert found.status.phase == "Terminating"
    assert api.get_namespace("y") is None
    assert [asked.path for asked in server.asked] == [
        "/api/v1/namespaces/x",
        "/api/v1/namespaces/y",
    ]


def test_nodes_list_their_resources(asking: Asking) -> None:
    node = {
        "metadata": {"name": "node-a", "labels": {"gpu": "t4"}},
        "spec": {"unschedulable": True, "taints": [{"key": "gpu", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    api, server = asking(listed(node, {"metadata": {"name": "node-b"}}))
    first, second = api.list_nodes("gpu=t4")
    assert server.asked[0].path == "/api/v1/nodes"
    assert server.asked[0].query["labelSelector"] == "gpu=t4"
    assert (first.status.allocatable["nvidia.com/gpu"], first.ready, first.spec.unschedulable) == (
        "8",
        True,
        True,
    )
    assert first.spec.taints[0].key == "gpu"
    assert not second.ready


def test_keys_of_a_secret_are_read_without_values(asking: Asking) -> None:
    secret = reply(
        200, {"metadata": {"name": "gpuqueue"}, "data": {"CELERY_BROKER_URL": "cmVkaXM="}}
    )
    api, _ = asking(secret, refused(404, "NotFound"), refused(403, "Forbidden"))
    assert api.get_secret_keys("gpuqueue") == {"CELERY_BROKER_URL"}
    assert api.get_secret_keys("gpuqueue") is None
    with pytest.raises(Forbidden):
        api.get_secret_keys("gpuqueue")
