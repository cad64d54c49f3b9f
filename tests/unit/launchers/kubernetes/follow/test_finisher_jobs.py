"""Finishers: each wait of their pod has its clock, and the finish begins with their container."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import FinishHeld, LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow.finisher_jobs import READ_EVERY, FinisherJobs
from gpuqueue.launchers.kubernetes.follow.pod_table import PodTable
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings

SETTINGS = ClusterSettings(
    executor_image="x:1",
    image_allow="*",
    quota_timeout=40,
    unschedulable_timeout=100,
    image_pull_timeout=200,
    image_error_grace=20,
    config_error_grace=10,
)
#: Seconds that the finish may take.
TIMEOUT = 30.0
RECORD: Record = {
    "delivery": "a",
    "id": "a",
    "task": "t",
    "gpu_class": "t4",
    "isolation": "shared",
    "attempt": 1,
    "token": "x",
}
SCHEDULED = {"type": "PodScheduled", "status": "True"}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "conditions": [SCHEDULED],
        "containerStatuses": [{"name": "executor", "state": state}],
    }


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}
    ],
}
PULLING = waiting("ContainerCreating")
BOUND = {"phase": "Pending", "conditions": [SCHEDULED]}
PREPARING = {
    **PULLING,
    "conditions": [SCHEDULED, {"type": "PodReadyToStartContainers", "status": "False"}],
}
RUNNING = {
    "phase": "Running",
    "containerStatuses": [
        {"name": "executor", "state": {"running": {"startedAt": "2026-11-25T00:00:00Z"}}}
    ],
}
INIT_FAILED = {
    "containerStatuses": [waiting("PodInitializing")["containerStatuses"][0]],
    "initContainerStatuses": [
        {"name": "vault", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    ],
}
FAILED = {
    "phase": "Failed",
    "containerStatuses": [
        {"name": "executor", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}
    ],
}


@dataclass
class Pods:
    """The pods that a dispatcher follows, or cannot follow."""

    synced: bool = True
    table: PodTable = field(default_factory=PodTable)

    def by_job(self, name: str) -> Any:
        return self.table.by_job(name)


@dataclass
class Bench:
    """A finisher on a clock that tests set: `at` says what the cluster shows from when on."""

    monkeypatch: pytest.MonkeyPatch
    pods: Pods = field(default_factory=Pods)
    now: float = 1000.0
    story: list[tuple[float, dict[str, Any] | None]] = field(default_factory=list)
    written_at: float = 1e9
    deleted: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    api_away: bool = False
    refusals: list[ApiError] = field(default_factory=list)
    rejected: str = ""
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.now
        self.monkeypatch.setattr(time, "monotonic", lambda: self.now)
        closed: Any = threading.Event()
        closed.wait = self.sleep
        me: Any = self
        pods: Any = self.pods
        classes = {"t4": GpuClass("t4", shared_slots=1)}
        common = ManifestContext("ns", "prod")
        self.jobs = FinisherJobs(lambda _: (me, pods), classes, SETTINGS, common, closed)

    @property
    def elapsed(self) -> float:
        return self.now - self.began

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def create_job(self, manifest: dict[str, Any]) -> None:
        if self.refusals:
            raise self.refusals[0]
        self.created.append(manifest)

    def list_rejections(self) -> tuple[list[Event], str]:
        name = self.created[0]["metadata"]["name"]
        body = {"metadata": {}, "involvedObject": {"name": name}, "message": self.rejected}
        return ([msgspec.convert(body, Event)] if self.rejected else []), "1"

    def pod_events(self, pod_name: str) -> list[Event]:
        return self.events

    def delete_job(self, name: str) -> bool:
        self.deleted.append(name)
        return True

    def list_pods(self, selector: str) -> tuple[list[Pod], str]:
        self.reads.append(selector)
        if self.api_away:
            raise ApiError("no answer", request="list pods")
        status = self._status()
        return ([] if status is None else [self._pod(status)]), "1"

    def _status(self) -> dict[str, Any] | None:
        passed = [status for at, status in self.story if at <= self.elapsed]
        return passed[-1] if passed else None

    def _pod(self, status: dict[str, Any]) -> Pod:
        name = self.created[0]["metadata"]["name"]
        body = {
            "metadata": {
                "name": f"{name}-x",
                "uid": "u",
                "creationTimestamp": "2026-11-25T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": name},
            },
            "spec": {} if status is UNSCHEDULABLE else {"nodeName": "node-a"},
            "status": status,
        }
        return msgspec.json.decode(msgspec.json.encode(body), type=Pod)

    def finish(self, **more: Any) -> str:
        def wanted() -> bool:
            if self.pods.synced:
                status = self._status()
                if status is not None:
                    self.pods.table.put(self._pod(status), self.now)
                elif self.pods.table.snapshot():
                    self.pods.table.remove(self.pods.table.snapshot()[0].pod, self.now)
            return self.elapsed < self.written_at

        job: Any = {**RECORD, **more}
        return self.jobs.finish(job, "f1", TIMEOUT, wanted)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


#: what the cluster shows, from when on → the outcome, and about when it is told
FAILING: dict[str, tuple[list[tuple[float, dict[str, Any] | None]], str, float]] = {
    "it hangs": ([(0, PULLING), (180, RUNNING)], "not within 30 s", 210),
    "it fails": ([(0, PULLING), (180, RUNNING), (190, FAILED)], "exit code 3", 190),
    "its pod is deleted": ([(0, RUNNING), (9, None)], "the pod of its finisher was deleted", 9),
}


@pytest.mark.parametrize(("story", "outcome", "at"), FAILING.values(), ids=FAILING)
def test_a_finisher_ends_by_the_clock_of_what_it_waits_for(
    story: list[tuple[float, dict[str, Any] | None]], outcome: str, at: float, bench: Bench
) -> None:
    bench.story = story
    assert outcome in bench.finish()
    assert at <= bench.elapsed <= at + 1
    assert bench.deleted == [bench.created[0]["metadata"]["name"]]


#: what keeps the pod from its start → what is held, the words, and about when
HELD: dict[str, tuple[list[tuple[float, dict[str, Any] | None]], PlaceKind, str, float]] = {
    "no pod is created": (
        [],
        PlaceKind.LAUNCH,
        "the Job of its finisher had no pod within 40 s: no such ServiceAccount",
        40,
    ),
    "no node takes it": (
        [(0, UNSCHEDULABLE)],
        PlaceKind.SCHEDULING,
        "no node took its pod within 100 s: full",
        100,
    ),
    "its node never takes it": (
        [(0, BOUND)],
        PlaceKind.PODS,
        "not within 200 s: node node-a has not taken its pod yet",
        200,
    ),
    "its node prepares it for too long": (
        [(0, BOUND), (50, PREPARING)],
        PlaceKind.PODS,
        "its pod was not ready to start containers within 200 s",
        200,
    ),
    "its node takes it late, and pulls for too long": (
        [(0, BOUND), (50, PREPARING), (100, PULLING)],
        PlaceKind.IMAGE,
        "its container was not ready to start within 200 s",
        200,
    ),
    "its image is pulled for too long": (
        [(0, PULLING)],
        PlaceKind.IMAGE,
        "its container was not ready to start within 200 s",
        200,
    ),
    "its image cannot be pulled": (
        [(0, PULLING), (50, waiting("ErrImagePull", "gone"))],
        PlaceKind.IMAGE,
        "its image cannot be pulled: ErrImagePull: gone",
        70,
    ),
    "its node rejects it": (
        [(0, PULLING), (9, {"phase": "Failed", "reason": "OutOfcpu", "message": "full"})],
        PlaceKind.PODS,
        "its node rejected its pod",
        9,
    ),
    "an injected container fails": (
        [(0, PULLING), (9, {**INIT_FAILED, "phase": "Failed"})],
        PlaceKind.PODS,
        "its init container vault failed with exit code 1",
        9,
    ),
    "its Secret is missing": (
        [(0, waiting("CreateContainerConfigError", "no secret"))],
        PlaceKind.PODS,
        "its container cannot be created: CreateContainerConfigError: no secret",
        10,
    ),
}


@pytest.mark.parametrize(("story", "kind", "words", "at"), HELD.values(), ids=HELD)
def test_a_finisher_whose_pod_cannot_start_is_held(
    story: list[tuple[float, dict[str, Any] | None]],
    kind: PlaceKind,
    words: str,
    at: float,
    bench: Bench,
) -> None:
    bench.story, bench.rejected = story, "no such ServiceAccount"
    with pytest.raises(FinishHeld, match=words) as caught:
        bench.finish()
    assert caught.value.kind is kind
    assert at <= bench.elapsed <= at + 1
    assert bench.deleted == [bench.created[0]["metadata"]["name"]]


@pytest.mark.parametrize(
    ("detail", "why"), [("InvalidImageName", "bad"), ("ErrImagePull", "manifest unknown")]
)
def test_an_image_that_the_job_names_and_is_none_ends_its_finisher(
    detail: str, why: str, bench: Bench
) -> None:
    bench.story = [(0, waiting(detail, why))]
    text = f"its image cannot be pulled: {detail}: {why} (node node-a)"
    assert bench.finish(image="mine:1") == text
    with pytest.raises(FinishHeld):
        bench.finish()


def test_the_words_of_a_registry_are_read_where_the_status_lacks_them(bench: Bench) -> None:
    bench.story = [(0, waiting("ImagePullBackOff", "Back-off pulling image"))]
    failed = {"metadata": {}, "involvedObject": {"name": "p"}, "reason": "Failed"}
    message = 'Failed to pull image "mine:1": manifest unknown'
    bench.events = [msgspec.convert(failed | {"message": message}, Event)]
    assert "manifest unknown" in bench.finish(image="mine:1")


REFUSALS: dict[str, tuple[int, str, PlaceKind, float]] = {
    "a policy": (422, "denied: no cost-center", PlaceKind.LAUNCH, 0),
    "a missing right": (403, "cannot create resource", PlaceKind.LAUNCH, 0),
    "a quota": (403, "exceeded quota: jobs", PlaceKind.QUOTA, 0),
    "a server that does not answer": (503, "away", PlaceKind.LAUNCH, TIMEOUT),
}


@pytest.mark.parametrize(("status", "words", "kind", "at"), REFUSALS.values(), ids=REFUSALS)
def test_a_finisher_whose_job_is_refused_is_held(
    status: int, words: str, kind: PlaceKind, at: float, bench: Bench
) -> None:
    bench.refusals = [ApiError(words, request="create job", status=status)]
    with pytest.raises(FinishHeld, match=words) as caught:
        bench.finish()
    assert caught.value.kind is kind
    assert at - 3 <= bench.elapsed <= at


def test_a_pull_of_minutes_costs_nothing_of_the_time_of_the_finish(bench: Bench) -> None:
    bench.story = [(0, UNSCHEDULABLE), (90, PULLING), (280, RUNNING)]
    bench.written_at = 280 + TIMEOUT - 1
    assert bench.finish() == "written"
    assert bench.deleted == []


def test_a_dispatcher_without_the_watch_reads_the_pod_seldom(bench: Bench) -> None:
    bench.pods.synced = False
    bench.story = [(0, PULLING), (100, RUNNING)]
    assert bench.finish() == "not within 30 s"
    assert 100 + TIMEOUT <= bench.elapsed <= 100 + TIMEOUT + 2 * READ_EVERY
    assert 0 < len(bench.reads) <= bench.elapsed / READ_EVERY
    name = bench.created[0]["metadata"]["name"]
    assert set(bench.reads) == {f"batch.kubernetes.io/job-name={name}"}


def test_the_finisher_of_a_class_that_nothing_watches_is_read(bench: Bench) -> None:
    bench.story = [(0, PULLING), (100, RUNNING)]
    assert bench.finish(gpu_class="refused") == "not within 30 s"
    assert bench.elapsed >= 100 + TIMEOUT
    assert bench.reads


def test_a_pod_that_cannot_be_read_is_not_taken_for_missing(bench: Bench) -> None:
    bench.pods.synced, bench.api_away = False, True
    with pytest.raises(LauncherUnavailable, match="the pod of its finisher is unknown for 400 s"):
        bench.finish()
    assert bench.deleted == []


def test_kubernetes_ends_a_finisher_after_all_clocks(bench: Bench) -> None:
    bench.written_at = 0
    bench.finish()
    (made,) = bench.created
    assert made["spec"]["activeDeadlineSeconds"] == 40 + 100 + 200 + TIMEOUT


def test_a_finish_that_is_not_wanted_any_more_ends_at_once(bench: Bench) -> None:
    bench.story, bench.written_at = [(0, RUNNING)], 5.0
    assert bench.finish() == "written"
    assert 5 <= bench.elapsed <= 6
