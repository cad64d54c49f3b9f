"""The table of pods: one list and one watch, in sync through every outage."""

from __future__ import annotations

import json
import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.backoff import Backoff
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow import pods as pods_module
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry, PodTable
from gpuqueue.launchers.kubernetes.follow.pods import Kind, Pods
from gpuqueue.launchers.kubernetes.follow.sight import Sight
from gpuqueue.launchers.kubernetes.status.read_status import Phase
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pod_objects import lines
from tests.support.scripted_api import (
    Answer,
    Asked,
    Scripted,
    after,
    api_of,
    bookmark,
    end,
    expired,
    hang,
    line,
    listed,
    once,
    pod,
    refused,
    reset,
    stream,
)
from tests.support.waiting import until


@dataclass
class World:
    """A server with scripted lists and watches (the last of each repeats), and its Pods."""

    api: Api
    server: Scripted
    settings: ClusterSettings
    lists: list[Answer]
    watches: list[Answer]
    reported: list[tuple[Kind, str, str]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.respond = self._respond
        self.pods = Pods(
            self.api, "gpuqueue.io/owner=us", self.on_event, self.settings, Sight(self.api.look)
        )

    def _respond(self, asked: Asked) -> Answer:
        answers = self.watches if asked.watches else self.lists
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def on_event(self, entry: Entry, kind: Kind) -> None:
        self.entries.append(entry)
        self.reported.append((kind, entry.pod.metadata.name, entry.pod.metadata.resource_version))

    def asked(self, watches: bool) -> list[Asked]:
        return [asked for asked in list(self.server.asked) if asked.watches is watches]

    def names(self) -> set[str]:
        return {entry.pod.metadata.name for entry in self.pods.snapshot()}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds: ``world(lists=[…], watches=[…])``. Their Pods start at once."""
    made: list[World] = []

    def make(
        lists: list[Answer],
        watches: list[Answer] | None = None,
        start: bool = True,
        **settings: Any,
    ) -> World:
        server = Scripted(lambda asked: hang)
        api = api_of(server, monkeypatch, tmp_path, **settings)
        found = World(
            api, server, ClusterSettings(**settings), lists, watches or [stream(then=hang)]
        )
        made.append(found)
        if start:
            found.pods.start()
        return found

    yield make
    for each in made:
        each.pods.stop()
        each.server.close()


# -- normal operation ------------------------------------------------------------------------------


def test_one_list_and_one_watch_report_every_pod(world: Any) -> None:
    changes = [
        line("MODIFIED", pod("a", 11, "Running")),
        line("ADDED", pod("c", 12)),
        line("DELETED", pod("b", 13)),
    ]
    here = world([listed(pod("a", 3), pod("b", 4), version=10)], [stream(*changes, then=hang)])
    until(lambda: len(here.reported) == 5)
    assert here.reported == [
        ("changed", "a", "3"),
        ("changed", "b", "4"),
        ("changed", "a", "11"),
        ("changed", "c", "12"),
        ("deleted", "b", "13"),
    ]
    assert here.names() == {"a", "c"}
    (list_,), (watch,) = here.asked(False), here.asked(True)
    assert list_.query["labelSelector"] == watch.query["labelSelector"] == "gpuqueue.io/owner=us"
    assert watch.query["resourceVersion"] == "10"
    assert watch.query["timeoutSeconds"] == "300"


def test_pods_are_found_by_job_and_by_pending_state(world: Any) -> None:
    first = [
        pod("a", 3, job="j1"),
        pod("b", 4, "Running", job="j1"),
        pod("c", 5, "Failed", job="j2"),
    ]
    here = world([listed(*first, version=10)])
    assert here.pods.wait_synced(5)
    assert {entry.pod.metadata.name for entry in here.pods.by_job("j1")} == {"a", "b"}
    assert [entry.status.phase for entry in here.pods.by_job("j2")] == [Phase.ENDED]
    assert here.pods.by_job("j3") == []
    assert [entry.pod.metadata.name for entry in here.pods.pending()] == ["a"]


def test_deleted_pod_has_ended_and_is_removed(world: Any) -> None:
    here = world(
        [listed(pod("a", 3, "Running", job="j1"))],
        [stream(line("DELETED", pod("a", 4, "Running", job="j1")), then=hang)],
    )
    until(lambda: len(here.reported) == 2)
    assert here.entries[-1].status.phase is Phase.ENDED
    assert here.pods.by_job("j1") == here.pods.pending() == here.pods.snapshot() == []


def test_second_pod_of_a_job_stays(world: Any) -> None:
    pods = [pod("a", 3, job="j1"), pod("b", 4, job="j1")]
    here = world(
        [listed(*pods, version=10)], [stream(line("DELETED", pod("a", 11, job="j1")), then=hang)]
    )
    until(lambda: len(here.reported) == 3)
    assert [entry.pod.metadata.name for entry in here.pods.by_job("j1")] == ["b"]


def test_terminating_pod_is_pending(world: Any) -> None:
    here = world([listed(pod("a", 3, "Running", deletionTimestamp="2026-11-23T16:13:29Z"))])
    assert here.pods.wait_synced(5)
    assert [entry.status.phase for entry in here.pods.pending()] == [Phase.TERMINATING]


def test_pod_keeps_the_time_of_its_first_event(world: Any) -> None:
    here = world([listed(pod("a", 3))], [stream(line("MODIFIED", pod("a", 4)), then=hang)])
    until(lambda: len(here.reported) == 2)
    first, second = here.entries
    assert first.first_seen == second.first_seen <= time.monotonic()


def test_table_is_not_synced_before_the_first_list(world: Any) -> None:
    answered = threading.Event()
    here = world([once(answered, listed(pod("a")))])
    assert not here.pods.synced
    assert here.pods.since_sync() == math.inf
    assert not here.pods.wait_synced(0.05)
    answered.set()
    assert here.pods.wait_synced(5)
    assert here.reported, "a synced table has reported every pod"
    until(lambda: here.pods.since_sync() == 0)


# -- streams that end ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, reset], ids=["closed", "broken"])
def test_next_watch_continues_at_the_last_version(world: Any, end: Answer | None) -> None:
    parts = [line("ADDED", pod("a", 11)), bookmark(15)]
    here = world(
        [listed(version=10)],
        [
            stream(*parts, then=end),
            stream(line("ADDED", pod("b", 20)), then=end),
            stream(then=hang),
        ],
    )
    until(lambda: len(here.asked(True)) == 3)
    assert [asked.query["resourceVersion"] for asked in here.asked(True)] == ["10", "15", "20"]
    assert len(here.asked(False)) == 1


def test_server_that_closes_every_watch_gets_backoff(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here = world([listed(version=10)], [stream()])
    until(lambda: "as soon as it began" in caplog.text)
    began, count = time.monotonic(), len(here.asked(True))
    until(lambda: len(here.asked(True)) >= count + 2)
    assert time.monotonic() - began > 0.1
    assert len(here.asked(False)) == 1, "no event was missed"


def test_long_watch_without_events_can_end(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pods_module, "HEALTHY_AFTER", 0.1)
    here = world([listed(version=10)], [stream(then=after(0.15, end)), stream(then=hang)])
    until(lambda: len(here.asked(True)) == 2)
    assert caplog.records == []


def test_expired_watch_lists_again_at_once(world: Any) -> None:
    """Removed pods are reported as deleted with their last state, others only if they changed."""
    lists = [
        listed(pod("a", 3, "Running"), pod("b", 4), pod("c", 5)),
        listed(pod("b", 14), pod("c", 5), version=20),
    ]
    here = world(lists, [stream(bookmark(11), expired()), stream(then=hang)])
    until(lambda: len(here.reported) == 5)
    assert here.reported[3:] == [("changed", "b", "14"), ("deleted", "a", "3")]
    assert here.entries[-1].status.end is not None
    assert here.names() == {"b", "c"}
    until(lambda: [asked.query["resourceVersion"] for asked in here.asked(True)] == ["1", "20"])


def test_watch_that_always_expires_gets_backoff(world: Any) -> None:
    here = world([listed(version=10)], [stream(expired())])
    until(lambda: len(here.asked(False)) == 3)
    began = time.monotonic()
    until(lambda: len(here.asked(False)) == 4)
    assert time.monotonic() - began > 0.2


def test_silent_stream_is_replaced_by_a_list(world: Any) -> None:
    lists = [listed(pod("a", 3)), listed(pod("b", 4), version=20)]
    here = world(lists, [stream(then=hang), stream(then=hang)], watch_silence_seconds=1)
    until(lambda: here.names() == {"b"})
    assert here.reported == [("changed", "a", "3"), ("changed", "b", "4"), ("deleted", "a", "3")]


def test_error_in_the_stream_is_followed_by_a_list(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = line(
        "ERROR",
        {
            "kind": "Status",
            "status": "Failure",
            "code": 500,
            "reason": "InternalError",
            "message": "etcd",
        },
    )
    here = world([listed(pod("a", 3)), listed(version=20)], [stream(broken), stream(then=hang)])
    until(lambda: here.reported == [("changed", "a", "3"), ("deleted", "a", "3")])
    assert "watch pods in gpus: 500 InternalError: etcd" in caplog.text


def test_full_list_is_repeated_on_schedule(world: Any) -> None:
    """Nothing that the watch has reported is reported again."""
    lists = [listed(pod("a", 3), version=10), listed(pod("a", 11), pod("b", 4), version=12)]
    closes = stream(line("MODIFIED", pod("a", 11)), then=after(1.1, end))
    here = world(lists, [closes, stream(then=hang)], pod_relist_seconds=1)
    until(lambda: len(here.asked(False)) >= 2 and len(here.reported) == 3)
    assert here.reported[2] == ("changed", "b", "4")
    assert here.asked(True)[0].query["timeoutSeconds"] == "1", "the watch ends when the list is due"


# -- outages ---------------------------------------------------------------------------------------


def test_recovered_server_is_listed_and_watched(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods_module, "BLIND_AFTER", 0.3)
    down = threading.Event()
    away = refused(503, "Away")
    here = world([listed(pod("a", 3)), away], [stream(then=once(down, reset)), away])
    assert here.pods.wait_synced(5)
    down.set()
    until(lambda: not here.pods.synced)
    assert 0.3 < here.pods.since_sync() < 10
    assert here.names() == {"a"}, "an outage of the API says nothing about pods"
    here.lists[:], here.watches[:] = [listed(pod("b", 9), version=20)], [stream(then=hang)]
    until(lambda: here.pods.synced)
    assert here.reported == [("changed", "a", "3"), ("changed", "b", "9"), ("deleted", "a", "3")]


def test_backoff_resets_after_a_success(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    away = refused(503, "Away")
    broken = line(
        "ERROR",
        {
            "kind": "Status",
            "status": "Failure",
            "code": 500,
            "reason": "InternalError",
            "message": "etcd",
        },
    )
    here = world(
        [away, away, away, listed(pod("a")), listed(pod("b"))],
        [stream(bookmark(5), broken), stream(then=hang)],
    )
    until(lambda: here.names() == {"b"})
    waits: list[Any] = [
        record.args[1] for record in caplog.records if isinstance(record.args, tuple)
    ]
    assert waits[2] >= 0.4
    assert waits[3] <= 0.2


def test_retry_after_of_the_server_is_obeyed(world: Any) -> None:
    here = world([refused(429, "TooManyRequests", headers={"Retry-After": "1"}), listed(pod("a"))])
    until(lambda: len(here.asked(False)) == 1)
    began = time.monotonic()
    until(lambda: here.pods.synced)
    assert time.monotonic() - began > 0.8


def test_failed_handler_does_not_stop_the_thread(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here = world([listed(pod("a"), pod("b"))], start=False)
    handled: list[str] = []

    def fail(entry: Entry, kind: Kind) -> None:
        handled.append(entry.pod.metadata.name)
        raise ValueError("no")

    here.pods = Pods(here.api, "a=b", fail, here.settings, Sight(here.api.look))
    here.pods.start()
    assert here.pods.wait_synced(5)
    assert handled == ["a", "b"]
    assert "step 'pod' of a failed; the other steps go on: ValueError: no" in caplog.text
    assert "step 'pod' of b failed" in caplog.text


def test_internal_error_does_not_end_the_thread(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = world([listed(pod("a"))], start=False)
    faults = [RuntimeError("a bug")]
    put = PodTable.put

    def faulty(table: PodTable, item: Pod, now: float) -> Entry:
        if faults:
            raise faults.pop()
        return put(table, item, now)

    monkeypatch.setattr(PodTable, "put", faulty)
    here.pods.start()
    until(lambda: here.reported == [("changed", "a", "1")])
    assert "a bug" in caplog.text


# -- start and stop --------------------------------------------------------------------------------


def test_stop_returns_at_once_during_a_silent_stream(world: Any) -> None:
    here = world([listed(pod("a"))])
    until(lambda: here.pods.since_sync() == 0)
    began = time.monotonic()
    here.pods.stop()
    assert time.monotonic() - began < 5
    assert not here.pods.synced
    assert not here.pods.wait_synced(0)
    until(lambda: not [each for each in threading.enumerate() if each.name == "gpuqueue-pods"])
    here.pods.stop()


WAITS = [
    ("for the list", [hang], [hang], 1),
    ("for the watch to begin", [listed()], [hang], 2),
    (
        "for the server to come back",
        [refused(503, "Away", headers={"Retry-After": "60"})],
        [hang],
        1,
    ),
]


@pytest.mark.parametrize(
    ("lists", "watches", "requests"), [each[1:] for each in WAITS], ids=[each[0] for each in WAITS]
)
def test_stop_returns_in_time_in_every_state(
    world: Any, lists: list[Answer], watches: list[Answer], requests: int
) -> None:
    here = world(lists, watches)
    until(lambda: len(here.server.asked) == requests)
    began = time.monotonic()
    here.pods.stop()
    assert time.monotonic() - began < 5


def test_stop_can_be_called_from_the_callback(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world([listed(pod("a"), pod("b"))], start=False)
    reported: list[str] = []

    def once(entry: Entry, kind: Kind) -> None:
        reported.append(entry.pod.metadata.name)
        here.pods.stop()

    here.pods = Pods(here.api, "a=b", once, here.settings, Sight(here.api.look))
    here.pods.start()
    until(
        lambda: (
            reported
            and not [thread for thread in threading.enumerate() if thread.name == "gpuqueue-pods"]
        )
    )
    assert reported == ["a"]
    assert caplog.records == []


def test_restart_reports_every_pod_and_removed_ones(world: Any) -> None:
    here = world([listed(pod("a", 3), pod("b", 4)), listed(pod("b", 4), version=20)])
    assert here.pods.wait_synced(5)
    here.pods.start()
    here.pods.stop()
    del here.reported[:]
    here.pods.start()
    assert here.pods.wait_synced(5)
    assert here.reported == [("changed", "b", "4"), ("deleted", "a", "3")]


def test_late_list_after_a_stop_changes_nothing(world: Any) -> None:
    late = threading.Event()
    here = world([once(late, listed(pod("old"))), listed(pod("new"), version=20)])
    until(lambda: len(here.asked(False)) == 1)
    here.pods.stop()
    here.pods.start()
    assert here.pods.wait_synced(5)
    late.set()
    until(
        lambda: (
            len([thread for thread in threading.enumerate() if thread.name == "gpuqueue-pods"]) == 1
        )
    )
    assert here.names() == {"new"}
    assert [name for _, name, _ in here.reported] == ["new"]


# -- cost ------------------------------------------------------------------------------------------


def test_table_keeps_only_used_fields() -> None:
    labels = {"batch.kubernetes.io/job-name": "j", "gpuqueue.io/role": "finisher"}
    annotations = {"gpuqueue.io/record": "{}"}
    more: Any = {
        "labels": labels | {"app.kubernetes.io/part-of": "shop"},
        "annotations": annotations | {"cni.example": "x" * 5000},
    }
    kept = PodTable().put(msgspec.convert(pod("a", **more), Pod), 0.0).pod.metadata
    assert (kept.labels, kept.annotations) == (labels, annotations)


def test_running_pod_takes_less_than_4_kilobytes() -> None:
    """Return a recorded pod with a record of realistic length."""
    sent = [json.loads(text)["object"] for text in lines("success")]
    running = next(item for item in sent if item["status"]["phase"] == "Running")
    table, decoder, number = PodTable(), msgspec.json.Decoder(Pod), 1000
    running["metadata"]["annotations"] = {
        "gpuqueue.io/record": "x" * 400,
        "cni.example/network-status": "x" * 2000,
    }
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for index in range(number):
            running["metadata"] |= {"name": f"gpu-job-{index}", "uid": f"{index:036}"}
            running["metadata"]["labels"]["batch.kubernetes.io/job-name"] = f"gpu-job-{index:030}"
            table.put(decoder.decode(msgspec.json.encode(running)), 0.0)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table.snapshot()) == number
    assert (now - before) / number < 4096


def test_pending_pods_are_found_without_scanning_running_ones() -> None:
    table = PodTable()
    for index in range(1000):
        table.put(msgspec.convert(pod(f"r{index}", 1, "Running"), Pod), 0.0)
    assert table.pending() == []
    table.put(msgspec.convert(pod("w", 1), Pod), 0.0)
    assert [entry.pod.metadata.name for entry in table.pending()] == ["w"]
    table.put(msgspec.convert(pod("w", 2, "Running"), Pod), 0.0)
    assert table.pending() == []


def test_delays_double_up_to_the_cap_and_obey_retry_after() -> None:
    backoff = Backoff(0.2, 10)
    waits = [backoff.next() for _ in range(12)]
    for wait, most in zip(
        waits, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10, 10, 10], strict=True
    ):
        assert most / 2 <= wait <= most
    assert backoff.next(30) == 30
    backoff.reset()
    assert backoff.next() <= 0.2
