"""Decoding of recorded API responses."""

from __future__ import annotations

import gc
import json
from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.answers import (
    EVENT_EVENTS,
    JOB_EVENTS,
    POD_EVENTS,
    Event,
    Listed,
    StatusBody,
    Watched,
    read_line,
)
from gpuqueue.launchers.kubernetes.api.objects import Job, Meta, Pod, seconds
from tests.support.pod_objects import RECORDINGS, bodies, lines

TIMES: dict[str, tuple[str | None, float | None]] = {
    "whole seconds": ("2026-11-23T16:12:15Z", 1795450335.0),
    "a fraction": ("2026-11-23T16:12:15.250000Z", 1795450335.25),
    "nine decimal digits": ("2026-11-23T16:12:15.250000999Z", 1795450335.25),
    "another time zone": ("2026-11-23T17:12:15+01:00", 1795450335.0),
    "none": (None, None),
    "empty": ("", None),
    "the zero time of Go": ("0001-01-01T00:00:00Z", None),
    "the zero time of the kubelet": ("1970-01-01T00:00:00Z", None),
    "an invalid time": ("yesterday", None),
    "a time without a zone": ("2026-11-23T16:12:15", None),
}

DECODERS: dict[str, msgspec.json.Decoder[Watched[Any]]] = {
    "pods": POD_EVENTS,
    "jobs": JOB_EVENTS,
    "events": EVENT_EVENTS,
}


@pytest.mark.parametrize(("text", "expected"), TIMES.values(), ids=TIMES)
def test_time_is_converted_to_unix_seconds(text: str | None, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("recording", sorted(path.stem for path in RECORDINGS.glob("*.jsonl")))
def test_every_recorded_line_is_decoded(recording: str) -> None:
    for watch, decoder in DECODERS.items():
        for line in lines(recording, watch):
            event, sent = read_line(line, decoder), json.loads(line)
            assert isinstance(event, Watched)
            assert event.type == sent["type"]
            metadata = event.object.metadata
            assert isinstance(metadata, Meta)
            assert metadata.uid == sent["object"]["metadata"]["uid"]
            assert metadata.resource_version == sent["object"]["metadata"]["resourceVersion"]


def test_pod_is_decoded_with_every_used_field() -> None:
    *_, line = lines("cancel_background")
    event = read_line(line, POD_EVENTS)
    assert isinstance(event, Watched)
    pod, sent = event.object, json.loads(line)["object"]
    assert pod.metadata.labels == sent["metadata"]["labels"]
    assert pod.metadata.deletion_timestamp == "2026-11-23T16:13:29Z"
    assert pod.metadata.deletion_requested == seconds("2026-11-23T16:13:29Z")
    assert (pod.spec.node_name, pod.status.phase) == ("node-a", "Failed")
    assert [c.type for c in pod.status.conditions or ()] == [
        c["type"] for c in sent["status"]["conditions"]
    ]
    (container,) = pod.status.container_statuses or ()
    assert container.name == sent["status"]["containerStatuses"][0]["name"]
    assert container.terminated is not None
    assert (container.terminated.exit_code, container.terminated.finished_at) == (
        143,
        "2026-11-23T16:13:28Z",
    )


def test_deletion_request_is_its_timestamp_minus_grace() -> None:
    asked = next(
        event.object.metadata
        for line in lines("cancel_background")
        if isinstance(event := read_line(line, POD_EVENTS), Watched)
        and event.object.metadata.deletion_timestamp
    )
    assert asked.deletion_grace_period_seconds == 30
    assert asked.deletion_requested == seconds("2026-11-23T16:13:28Z")
    assert Meta().deletion_requested is None


def test_watch_that_fell_behind_reports_410() -> None:
    (body,) = bodies("api_errors", "WATCH jobs from a compacted")
    for decoder in DECODERS.values():
        refused = read_line(json.dumps(body), decoder)
        assert isinstance(refused, StatusBody)
        assert (refused.code, refused.reason) == (410, "Expired")
        assert "too old resource version" in (refused.message or "")


@pytest.mark.parametrize("decoder", [POD_EVENTS, JOB_EVENTS, EVENT_EVENTS])
def test_bookmark_has_only_a_version(decoder: msgspec.json.Decoder[Watched[Pod | Job]]) -> None:
    line = (
        b'{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"77"},'
        b'"spec":{"containers":null},"status":{}}}'
    )
    event = read_line(line, decoder)
    assert isinstance(event, Watched)
    assert (event.type, event.object.metadata.resource_version) == ("BOOKMARK", "77")


@pytest.mark.parametrize(
    "line", [b'{"type":"ADDED","object":{"kind":"Po', b"<html>", b'{"type":"ADDED","object":[]}']
)
def test_invalid_line_is_an_error(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_line(line, POD_EVENTS)


def test_pod_with_null_fields_is_decoded() -> None:
    status = (
        '{"phase":null,"reason":null,"conditions":null,"containerStatuses":null,'
        '"initContainerStatuses":null}'
    )
    text = (
        '{"metadata":{"deletionTimestamp":null,"labels":null},"spec":{"nodeName":null},"status":'
        + status
        + "}"
    )
    assert msgspec.json.decode(text, type=Pod) == Pod()


def test_status_has_causes() -> None:
    refused = msgspec.convert(bodies("api_errors", "POST jobs, bad name")[0], StatusBody)
    assert (refused.code, refused.reason) == (422, "Invalid")
    assert refused.details is not None
    assert {cause.field for cause in refused.details.causes or ()} >= {"metadata.name"}


def test_status_has_retry_after() -> None:
    body = (
        b'{"kind":"Status","code":429,"reason":"TooManyRequests","details":{"retryAfterSeconds":7}}'
    )
    refused = msgspec.json.decode(body, type=StatusBody)
    assert refused.details is not None
    assert refused.details.retry_after_seconds == 7


def test_list_page_is_decoded() -> None:
    pods = msgspec.convert(bodies("api_errors", "LIST pods of the job")[0], Listed[Pod])
    assert [pod.metadata.labels for pod in pods if pod.status.phase] != []
    assert pods.metadata.resource_version
    assert pods.metadata.continue_ == ""
    page = (
        b'{"metadata":{"resourceVersion":"9","continue":"abc","remainingItemCount":3},"items":null}'
    )
    jobs = msgspec.json.decode(page, type=Listed[Job])
    assert (list(jobs), jobs.metadata.continue_) == ([], "abc")


def test_event_has_the_reason_of_a_rejected_pod() -> None:
    event = read_line(next(lines("quota_refuses_pod", "events")), EVENT_EVENTS)
    assert isinstance(event, Watched)
    decoded = event.object
    assert (decoded.reason, decoded.type, decoded.count) == ("FailedCreate", "Warning", 1)
    assert (decoded.involved_object.kind, decoded.involved_object.name) == ("Job", "gpu-job")
    assert "exceeded quota" in (decoded.message or "")
    assert decoded.last_seen == seconds("2026-11-23T16:15:29Z")


def test_event_of_a_newer_reporter_has_its_time_in_series() -> None:
    page = b"""{"items":[
        {"lastTimestamp":null,"eventTime":"2026-11-23T16:12:15.500000Z","metadata":{"creationTimestamp":"2026-11-23T16:12:16Z"}},
        {"lastTimestamp":null,"eventTime":"2026-11-23T16:12:15.500000Z","series":{"count":4,"lastObservedTime":"2026-11-23T16:12:20Z"}}
    ]}"""
    first, second = msgspec.json.decode(page, type=Listed[Event])
    assert (first.last_seen, second.last_seen) == (1795450335.5, 1795450340.0)


def test_job_has_conditions() -> None:
    jobs = [read_line(line, JOB_EVENTS) for line in lines("deadline_exceeded", "jobs")]
    decoded = [
        event.object.status.condition("FailureTarget")
        for event in jobs
        if isinstance(event, Watched)
    ]
    assert decoded[0] is None
    assert next(each.reason for each in decoded if each) == "DeadlineExceeded"


def test_decoded_objects_are_not_tracked_by_the_gc() -> None:
    event = read_line(next(lines("success")), POD_EVENTS)
    assert not gc.is_tracked(event)
