"""Jobs without a pod: followed by two watches, waited for, given up. Ends are asked for again,
within a budget, and returned on every call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.answers import Event, JobEvent, Watched
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod
from gpuqueue.launchers.kubernetes.follow import followed
from gpuqueue.launchers.kubernetes.follow.jobs_without_pod import (
    GONE,
    READ_EVERY,
    REQUESTS_AT_ONCE,
    JobsWithoutPod,
    end_of,
)
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pod_objects import lines
from tests.support.waiting import until
from tests.unit.launchers.kubernetes.follow.test_clocks import Observations

#: 2020-01-01 in Unix seconds.
CREATED = 1_577_836_800.0


class Changes:
    """A watch that yields what a test puts into it, until it is closed."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Watched[Any] | None] = SimpleQueue()

    def put(self, kind: str, item: Any) -> None:
        self._queue.put(Watched(kind, item))

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def __iter__(self) -> Iterator[Watched[Any]]:
        while (event := self._queue.get()) is not None:
            yield event

    def close(self) -> None:
        self._queue.put(None)


class Api:
    """An API server with Jobs and events, which counts requests. ``forbids``: it allows no watch,
    and with ``forbids_events`` no list of events.
    """

    namespace = "ns"

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.events: list[Event] = []
        self.changes = Changes()
        self.pods: list[Any] = []
        self.unreachable = self.forbids = self.forbids_events = False
        self.lists = self.listed_events = self.watches = 0
        self.single: list[str] = []
        self.ahead = 0.0

    def server_time(self, now: float) -> float:
        return now + self.ahead

    def list_jobs(self, selector: str) -> tuple[list[Job], str]:
        self.lists += 1
        return list(self.jobs.values()), "1"

    def list_rejections(self) -> tuple[list[Event], str]:
        self.lists += 1
        self.listed_events += 1
        if self.forbids_events:
            raise Forbidden("cannot list resource events", status=403)
        return list(self.events), "1"

    def watch_jobs(self, *_: object) -> Any:
        self.watches += 1
        if self.forbids:
            raise Forbidden("cannot watch resource jobs", status=403)
        self.changes = Changes()
        return self.changes

    def watch_rejections(self, *_: object) -> Any:
        self.watches += 1
        if self.forbids:
            raise Forbidden("cannot watch resource events", status=403)
        return Changes()

    def get_job(self, name: str) -> Job | None:
        self.single.append(f"get {name}")
        if self.unreachable:
            raise ApiError("no answer")
        return self.jobs.get(name)

    def list_pods(self, selector: str) -> tuple[list[Any], str]:
        self.single.append(f"pods of {selector.partition('=')[2]}")
        return self.pods, "1"

    def delete_job(self, name: str) -> bool:
        self.single.append(f"delete {name}")
        self.changes.put("DELETED", self.jobs.pop(name))
        return True


def job(name: str, status: Any = None) -> Job:
    record = {
        "delivery": name,
        "id": name,
        "gpu_class": "t4",
        "isolation": "shared",
        "attempt": 1,
        "token": "x",
    }
    meta = {
        "name": name,
        "uid": f"uid-of-{name}",
        "creationTimestamp": "2020-01-01T00:00:00Z",
        "annotations": {RECORD: msgspec.json.encode(record).decode()},
    }
    return msgspec.convert({"metadata": meta, "status": status or {}}, Job)


def rejection(name: str, message: str) -> Event:
    return msgspec.convert(
        {
            "metadata": {"name": f"{name}.1", "uid": f"uid-of-{name}.1"},
            "involvedObject": {"kind": "Job", "name": name},
            "reason": "FailedCreate",
            "message": message,
        },
        Event,
    )


class Bench:
    """JobsWithoutPod with a clock that tests set."""

    def __init__(self, classes: dict[str, GpuClass] | None = None) -> None:
        self.api, self.notes, self.now = Api(), Observations(), 0.0
        self.notes.time = CREATED
        self.api.jobs["job-a"] = job("job-a")
        api: Any = self.api
        notes: Any = self.notes
        self.kept: list[str] = []
        self.jobs = JobsWithoutPod(
            *(api, "a=b", notes, ClusterSettings(), lambda: self.now, classes or {}),
            keep_log=lambda entry, live: self.kept.append(entry.pod.metadata.name),
        )

    def read(self, name: str = "job-a") -> Any:
        """Look at a Job once its last look is long enough ago, and both lists have come."""
        self.now += READ_EVERY
        until(lambda: self.jobs._jobs.want() and self.jobs._rejections.want())
        return self.jobs.end_of(name)

    def change(self, changed: Job | None) -> None:
        """Have the watch report a change of the Job, or that it is gone."""
        before = self.api.jobs.pop("job-a")
        if changed is not None:
            self.api.jobs["job-a"] = changed
        until(lambda: self.jobs._jobs.of("job-a"), what="the Job is listed")
        until(lambda: self.api.watches >= 2, what="the watches are open")
        self.api.changes.put("MODIFIED" if changed else "DELETED", changed or before)
        until(lambda: self.jobs._jobs.of("job-a") == ([changed] if changed else []))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    assert made.jobs.end_of("job-a") is None
    assert made.api.lists == 0, "the watch on pods reports them earlier"
    yield made
    made.jobs.stop()


def test_jobs_without_pods_cost_two_lists_and_two_watches(bench: Bench) -> None:
    names = [f"job-{number}" for number in range(150)]
    bench.api.jobs |= {name: job(name) for name in names}
    for _ in range(20):
        bench.read()
        assert [bench.jobs.end_of(name) for name in names] == [None] * 150
    assert (bench.api.lists, bench.api.watches, bench.api.single) == (2, 2, [])
    assert {note.attempt.delivery for note in bench.notes.noted} == {"job-a", *names}


def test_end_is_returned_on_every_call(bench: Bench) -> None:
    assert bench.read() is None
    bench.change(None)
    assert [bench.read(), bench.jobs.end_of("job-a"), bench.read()] == [GONE] * 3
    assert bench.api.single == ["get job-a", "pods of job-a"]
    bench.jobs.pod_appeared("job-a")
    assert bench.jobs.end_of("job-a") is None


def test_a_job_that_only_the_watch_does_not_show_has_not_ended(bench: Bench) -> None:
    assert bench.read() is None
    hidden = bench.api.jobs["job-a"]
    bench.change(None)
    bench.api.jobs["job-a"] = hidden  # its labels were changed: the API still has it
    assert bench.read() is None and bench.api.single == ["get job-a", "pods of job-a"]


def test_ends_of_many_jobs_are_asked_for_within_a_budget(bench: Bench) -> None:
    names = [f"gone-{number}" for number in range(150)]
    for name in names:
        bench.jobs.end_of(name)
    assert [bench.read(name) for name in names[:1]] == [GONE]
    for name in names:
        bench.jobs.end_of(name)
    assert len(bench.api.single) == REQUESTS_AT_ONCE
    before, now = len(bench.api.single), bench.now
    while any(bench.jobs.end_of(name) is None for name in names):
        bench.now += 2
    assert (len(bench.api.single) - before) / (bench.now - now) <= 1.1
    assert len(bench.api.single) == 300, "each is asked for once"


@pytest.mark.parametrize("ahead", [0.0, 600.0, -600.0])
def test_the_age_of_a_job_is_told_by_the_clock_of_the_cluster(bench: Bench, ahead: float) -> None:
    bench.api.ahead = ahead
    bench.notes.time = CREATED + ClusterSettings().launch_timeout - 1 - ahead
    assert bench.read() is None and bench.notes.given_up == []
    bench.notes.time += 2
    assert bench.read() is None and len(bench.notes.given_up) == 1


def test_a_job_with_an_active_pod_is_not_given_up(bench: Bench) -> None:
    bench.notes.time += 3600
    bench.api.jobs["job-a"] = job("job-a", {"active": 1})
    assert bench.read() is None
    assert (bench.notes.noted, bench.notes.given_up) == ([], [])


@pytest.mark.parametrize("events", [True, False])
def test_a_user_who_may_not_watch_gets_lists_instead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    monkeypatch.setattr(followed, "POLL_EVERY", 0.05)
    bench.api.forbids, bench.api.forbids_events = True, not events
    bench.api.events = [rejection("job-a", 'pods "x" is forbidden: exceeded quota: gpus')]
    assert bench.read() is None
    wait = WaitReason.QUOTA if events else WaitReason.STARTING
    assert bench.notes.noted[0].wait == wait
    bench.api.jobs.clear()
    until(lambda: not bench.jobs._jobs.of("job-a"), what="a later list")
    assert bench.read() is GONE
    assert bench.api.watches <= 2, "once refused, it is not asked for again"


def test_longer_lists_are_asked_for_less_often(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "POLL_EVERY", 0.02)
    monkeypatch.setattr(followed, "PAGE", 1)
    bench.api.forbids = True
    bench.api.events = [rejection(f"job-{number}", "quota") for number in range(1000)]
    before = bench.api.lists
    assert bench.read() is None
    until(lambda: bench.api.lists >= before + 30, what="the one Job is listed again and again")
    assert bench.api.listed_events <= 2


def test_jobs_that_no_caller_asks_for_are_not_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "KEPT", 1.0)
    monkeypatch.setattr(followed, "HEALTHY_AFTER", 0.0)
    assert bench.read() is None

    def forgotten() -> bool:
        bench.api.changes.close()  # as the server does after WATCH_SECONDS
        return not bench.jobs._jobs.known()

    until(forgotten, what="the Jobs are forgotten")
    assert bench.read() is None and bench.api.lists >= 3, "they are listed when they are needed"


@pytest.mark.parametrize(
    ("message", "reason", "wait"),
    [
        ('pods "x" is forbidden: exceeded quota: gpus', EndReason.QUOTA, WaitReason.QUOTA),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest"',
            EndReason.INFRA,
            WaitReason.LAUNCH_REFUSED,
        ),
        (
            'pods "x" is forbidden: failed quota: cpu: must specify limits.cpu for: executor',
            EndReason.QUOTA,
            WaitReason.QUOTA,
        ),
        ("", EndReason.INFRA, WaitReason.STARTING),
    ],
)
def test_job_without_pod_is_given_up_with_the_reason(
    bench: Bench, message: str, reason: EndReason, wait: WaitReason
) -> None:
    bench.notes.time += 3600
    if message:
        bench.api.events = [rejection("job-a", message)]
    assert bench.read() is None
    assert bench.notes.noted[0].wait == wait
    ((_, given_up, error),) = bench.notes.given_up
    assert given_up == reason and message in error
    held = PlaceKind.QUOTA if wait == WaitReason.QUOTA else PlaceKind.LAUNCH
    assert bench.notes.ends[0].blames == held
    until(lambda: not bench.jobs._jobs.of("job-a"), what="the watch has told the deletion")
    assert bench.jobs.end_of("job-a") is GONE, "its end is read at once"


def test_a_class_has_its_limit_of_quota() -> None:
    bench = Bench({"t4": GpuClass("t4", quota_timeout=300)})
    bench.api.events = [rejection("job-a", 'pods "x" is forbidden: exceeded quota: gpus')]
    try:
        bench.notes.time = CREATED + 299
        for _ in range(2):
            assert bench.read() is None
        assert bench.notes.given_up == []
        bench.notes.time = CREATED + 300
        bench.read()
    finally:
        bench.jobs.stop()
    ((_, reason, error),) = bench.notes.given_up
    assert (reason, "within 300 s" in error) == (EndReason.QUOTA, True)


def test_finished_job_without_pod_ended_for_an_unknown_reason(bench: Bench) -> None:
    status = {
        "conditions": [
            {
                "type": "Complete",
                "status": "True",
                "reason": "CompletionsReached",
                "message": "done",
            }
        ]
    }
    bench.api.jobs["job-a"] = job("job-a", status)
    end = bench.read()
    assert end.reason == EndReason.INFRA and "CompletionsReached: done" in end.error


def test_a_complete_job_without_its_pod_has_exited_with_0() -> None:
    """Its pod was deleted with all that have ended, as Kubernetes does beyond their most."""
    [*_, last] = [
        msgspec.json.decode(each, type=JobEvent).object for each in lines("success", "jobs")
    ]
    known = {"delivery": "a", "id": "a", "gpu_class": "t4", "isolation": "shared"}
    for task, reason in ((CONTAINER_TASK, EndReason.SUCCEEDED), ("shop.add", EndReason.INFRA)):
        record = msgspec.json.encode(known | {"attempt": 1, "token": "x", "task": task}).decode()
        metadata = msgspec.structs.replace(last.metadata, annotations={RECORD: record})
        end = end_of(msgspec.structs.replace(last, metadata=metadata), [])
        assert end is not None and end.reason is reason
        if reason is EndReason.SUCCEEDED:
            assert end.evidence["exit_code"] == 0
            assert end.evidence["container_started"] <= end.evidence["container_finished"]


def recorded_pod(recording: str, **record: Any) -> Pod:
    """The last state of a recorded pod, as that of an attempt."""
    *_, last = lines(recording)
    body = json.loads(last)["object"]
    known = {"delivery": "a", "id": "a", "gpu_class": "t4", "isolation": "shared"}
    known |= {"attempt": 1, "token": "x", **record}  # type: ignore[dict-item]
    body["metadata"]["annotations"] = {RECORD: json.dumps(known)}
    return msgspec.convert(body, Pod)


@pytest.mark.parametrize(
    ("recording", "task", "reason", "kept"),
    [
        ("success", CONTAINER_TASK, EndReason.SUCCEEDED, 1),
        ("success", "shop.add", EndReason.ERROR, 0),
        ("exit_1", CONTAINER_TASK, EndReason.ERROR, 1),
        ("exit_1", "shop.add", EndReason.ERROR, 0),
        ("oom_killed", CONTAINER_TASK, EndReason.HOST_OOM, 1),
    ],
)
def test_a_pod_of_which_the_watch_is_silent_ends_as_any_other(
    bench: Bench, recording: str, task: str, reason: EndReason, kept: int
) -> None:
    """That of a container job with its message, once its log is stored: both are its result."""
    conditions = [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]
    bench.api.jobs["job-a"] = job("job-a", {"conditions": conditions})
    bench.api.pods = [recorded_pod(recording, task=task)]
    end = bench.read()
    assert (end.reason, len(bench.kept)) == (reason, kept)
    assert ("message" in end.evidence) is bool(kept)


def test_unreachable_server_raises_launcher_unavailable(bench: Bench) -> None:
    bench.api.jobs.clear()
    bench.api.unreachable = True
    with pytest.raises(LauncherUnavailable):
        bench.read()
