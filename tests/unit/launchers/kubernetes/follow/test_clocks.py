"""Clocks of pods that do not run yet, or do not end: what is recorded, and what is given up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow.attempts import of_pod
from gpuqueue.launchers.kubernetes.follow.clocks import PodClocks
from gpuqueue.launchers.kubernetes.follow.deletions import RESTS
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry, PodTable
from gpuqueue.launchers.kubernetes.follow.silence import Silence
from gpuqueue.launchers.kubernetes.manifest.names import RECORD
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.telemetry import STEP_FAILURES

#: 2026-11-25T00:00:00Z.
MIDNIGHT = 1795564800.0
SETTINGS = ClusterSettings(
    unschedulable_timeout=100,
    image_pull_timeout=200,
    image_error_grace=20,
    config_error_grace=10,
    terminating_timeout=30,
)


@dataclass
class Observations:
    """Stores what it is called with."""

    runs: bool = False
    noted: list[Observation] = field(default_factory=list)
    given_up: list[tuple[str, EndReason, str]] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    room_for: list[int] = field(default_factory=list)
    keeps_all: bool = False
    fails: bool = False
    time: float = 4e9
    """The time of Redis: long after all that happens here."""

    def now(self) -> float:
        return self.time

    def observed(self, observations: list[Observation]) -> None:
        if self.fails:
            raise ConnectionError("Redis is away")
        self.noted += observations

    def make_room(self, pods: int) -> None:
        self.room_for.append(pods)
        if self.keeps_all:
            raise ValueError("a class is damaged")

    def give_up(self, attempt: Attempt, end: End) -> bool:
        self.given_up.append((attempt.delivery, end.reason, end.error))
        self.ends.append(end)
        return not self.runs


@dataclass
class Api:
    """Deletes Jobs, or fails to."""

    unreachable: bool = False
    denied: bool = False
    asked: int = 0
    deleted: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    events_away: bool = False
    reads: int = 0
    read_names: list[str] = field(default_factory=list)

    def pod_events(self, name: str) -> list[Event]:
        self.reads += 1
        self.read_names.append(name)
        if self.events_away:
            raise ApiError("no answer")
        return self.events

    def delete_job(self, name: str) -> bool:
        self.asked += 1
        if self.unreachable:
            raise ApiError("no answer", request=f"delete job {name}")
        if self.denied:
            raise ApiError("admission webhook denied the request", status=403)
        self.deleted.append(name)
        return True


@dataclass
class Bench:
    """PodClocks with a clock that tests set."""

    monkeypatch: pytest.MonkeyPatch
    classes: dict[str, GpuClass] = field(default_factory=dict)
    api: Api = field(default_factory=Api)
    notes: Observations = field(default_factory=Observations)
    table: PodTable = field(default_factory=PodTable)
    elapsed: float = 0.0
    gone_nodes: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(time, "monotonic", lambda: self.elapsed)
        # Doubles of what the clocks use.
        api: Any = self.api
        notes: Any = self.notes
        self.clocks = PodClocks(
            *(api, notes, SETTINGS, 60, 5, lambda entry: of_pod(entry, "ns"), self.classes),
            lambda gpu_class, node: (gpu_class, node) in self.gone_nodes,
        )

    def put(
        self,
        status: dict[str, Any],
        *,
        node: str = "",
        away: float = 0,
        domain: str = "",
        **meta: Any,
    ) -> Entry:
        record = {
            **({"away_until": away} if away else {}),
            **({"domain": domain} if domain else {}),
            "delivery": "a",
            "id": "a",
            "gpu_class": "t4",
            "isolation": "shared",
            "attempt": 1,
            "token": "x",
        }
        body = {
            "metadata": {
                "name": "job-a-1",
                "uid": "u",
                "creationTimestamp": "2026-11-25T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": "job-a"},
                "annotations": {RECORD: msgspec.json.encode(record).decode()},
                **meta,
            },
            "spec": {"nodeName": node} if node else {},
            "status": status,
        }
        entry = self.table.put(msgspec.json.decode(msgspec.json.encode(body), type=Pod), 0.0)
        self.clocks.changed(entry)
        return entry

    def check(
        self, after: float, silent: Mapping[str, float] | None = None, ahead: float = 0.0
    ) -> None:
        """Check, so many seconds after the creation of the pod. ``silent``: see Silence."""
        self.elapsed, now = after, MIDNIGHT + after
        silence = Silence(silent or self.table.silent_nodes(), 40, now, ahead)
        self.clocks.check(self.table.snapshot(), now, silence)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastTransitionTime": "2026-11-25T00:00:00Z",
    }
    return {
        "phase": "Pending",
        "conditions": [scheduled],
        "containerStatuses": [{"name": "executor", "state": state}],
    }


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available",
            "lastTransitionTime": "2026-11-25T00:00:00Z",
        }
    ],
}


def test_wait_of_a_pod_is_recorded_once(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.check(1)
    bench.put(UNSCHEDULABLE)
    bench.check(2)
    (noted,) = bench.notes.noted
    assert (noted.wait, noted.detail, noted.pod) == (
        WaitReason.UNSCHEDULABLE,
        "0/1 nodes are available",
        "job-a-1",
    )


RUNNING = {
    "phase": "Running",
    "containerStatuses": [{"name": "executor", "state": {"running": {}}}],
}
OWN = GpuClass("t4", unschedulable_timeout=300, image_pull_timeout=400, start_timeout=7)


@pytest.mark.parametrize(
    ("status", "node", "limit"),
    [(UNSCHEDULABLE, "", 300), (waiting("ContainerCreating"), "n", 400)],
    ids=["no node", "its image is pulled"],
)
def test_a_pod_has_the_clocks_of_its_class(
    monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], node: str, limit: float
) -> None:
    bench = Bench(monkeypatch, {"t4": OWN})
    bench.put(status, node=node)
    bench.check(limit - 1)
    assert bench.notes.given_up == []
    bench.check(limit)
    ((_, _, error),) = bench.notes.given_up
    assert f"within {limit} s" in error


@pytest.mark.parametrize(
    ("gpu_class", "seconds"), [("t4", 7), ("other", 60)], ids=["its own", "that of all"]
)
def test_an_executor_must_claim_within_the_start_clock(
    monkeypatch: pytest.MonkeyPatch, gpu_class: str, seconds: float
) -> None:
    bench = Bench(monkeypatch, {gpu_class: OWN})
    bench.put(RUNNING, node="n")
    bench.check(1)
    assert [each.claim_within for each in bench.notes.noted] == [seconds]


def test_room_is_made_as_long_as_a_pod_finds_none(bench: Bench) -> None:
    bench.put(waiting("ContainerCreating"), node="n")
    bench.check(1)
    assert bench.notes.room_for == []
    bench.put(UNSCHEDULABLE)
    bench.check(2)
    bench.check(3)
    assert bench.notes.room_for == [1, 1]


def test_a_clock_runs_out_though_no_room_can_be_made(bench: Bench) -> None:
    bench.notes.keeps_all = True
    bench.put(UNSCHEDULABLE)
    bench.check(101)
    assert (bench.notes.room_for, bench.api.deleted) == ([1], ["job-a"])


def test_failed_observation_is_recorded_at_the_next_check(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.notes.fails = True
    with pytest.raises(ConnectionError):
        bench.check(1)
    bench.notes.fails = False
    bench.check(2)
    assert len(bench.notes.noted) == 1


def test_clock_starts_at_the_time_of_the_api(bench: Bench) -> None:
    """So a new leader continues where the last one stopped."""
    bench.put(UNSCHEDULABLE)
    bench.check(99)
    assert bench.api.deleted == []
    bench.check(100)
    ((delivery, reason, error),) = bench.notes.given_up
    assert (delivery, reason, bench.api.deleted) == ("a", EndReason.UNSCHEDULABLE, ["job-a"])
    assert "within 100 s" in error and "0/1 nodes are available" in error


def test_late_image_error_gets_the_whole_grace(bench: Bench) -> None:
    bench.put(waiting("ContainerCreating"), node="n")
    bench.check(150)
    bench.put(waiting("ErrImagePull", "connection refused"), node="n")
    bench.check(151)
    bench.check(170)
    assert bench.api.deleted == []
    bench.check(171)
    assert bench.notes.given_up[0][1] == EndReason.IMAGE and bench.api.deleted == ["job-a"]


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_hopeless_attempt_is_given_up_at_once(bench: Bench, reason: str) -> None:
    bench.put(waiting(reason), node="n")
    bench.check(0)
    assert bench.api.deleted == ["job-a"]


def test_attempt_that_runs_by_now_is_not_given_up(bench: Bench) -> None:
    bench.notes.runs = True
    bench.put(UNSCHEDULABLE)
    bench.check(100)
    bench.check(101)
    assert bench.api.deleted == [] and len(bench.notes.given_up) == 1


def test_rejected_deletion_is_requested_again(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.api.unreachable = True
    bench.check(100)
    bench.api.unreachable = False
    bench.check(101)
    bench.check(102)
    assert bench.api.deleted == ["job-a"]


def test_a_deletion_that_is_denied_rests_and_is_requested_again(bench: Bench) -> None:
    bench.put(UNSCHEDULABLE)
    bench.api.denied = True
    for after in (100, 101, 102):
        bench.check(after)
    assert (bench.api.asked, len(bench.notes.given_up)) == (1, 1)
    bench.api.denied = False
    bench.check(100 + RESTS)
    assert bench.api.deleted == ["job-a"]


def test_pod_of_a_silent_node_is_unconfirmed_and_keeps_its_slot(bench: Bench) -> None:
    running = {
        "phase": "Running",
        "containerStatuses": [{"name": "executor", "state": {"running": {}}}],
    }
    deleted: Any = {"deletionTimestamp": "2026-11-25T00:00:05Z"}
    deleted["deletionGracePeriodSeconds"] = 5
    bench.put(running, node="n", **deleted)
    bench.check(34)
    bench.check(36)
    bench.check(37)
    unconfirmed = [each for each in bench.notes.noted if each.wait == WaitReason.UNCONFIRMED]
    assert len(unconfirmed) == 1 and "node n" in unconfirmed[0].detail
    assert bench.api.deleted == [] and bench.notes.given_up == []


def test_running_container_must_be_claimed_in_time(bench: Bench) -> None:
    bench.put(
        {"phase": "Running", "containerStatuses": [{"name": "executor", "state": {"running": {}}}]},
        node="n",
    )
    bench.check(1)
    assert [each.claim_within for each in bench.notes.noted] == [60]


# -- nodes that are domains ------------------------------------------------------------------------


def test_a_pod_without_room_on_its_only_node_gives_its_slot_back(bench: Bench) -> None:
    """Sooner than one that finds no node at all: others may be idle."""
    bench.put(UNSCHEDULABLE, domain="n")
    bench.check(59)
    assert bench.notes.noted[0].wait == WaitReason.UNSCHEDULABLE
    assert bench.api.deleted == []
    bench.check(60)
    (end,) = bench.notes.ends
    assert (end.reason, bench.api.deleted) == (EndReason.UNSCHEDULABLE, ["job-a"])
    assert (end.avoid, end.blames) == ("n", "rejection"), "the node is set aside at once"
    assert end.error == "its pod finds no room on node n: 0/1 nodes are available"
    assert bench.api.reads == 0, "no autoscaler is asked"


def test_a_pod_whose_only_node_has_left_gives_its_slot_back_at_once(bench: Bench) -> None:
    bench.gone_nodes = {("t4", "n")}
    bench.put(UNSCHEDULABLE)
    bench.check(1)
    assert bench.api.deleted == []
    bench.put(UNSCHEDULABLE, domain="n")
    bench.check(2)
    assert bench.api.deleted == ["job-a"]


def test_a_pod_without_a_node_yet_waits_like_one_for_any_node(
    bench: Bench,
) -> None:
    """Until the timeout, and while an autoscaler says that it adds one."""
    bench.gone_nodes = {("t4", "new_1")}
    bench.put(UNSCHEDULABLE, domain="new_1")
    bench.check(61)
    assert bench.api.deleted == []
    assert bench.notes.noted[0].wait == WaitReason.UNSCHEDULABLE
    bench.check(SETTINGS.unschedulable_timeout)
    (end,) = bench.notes.ends
    assert (end.reason, end.blames, end.avoid) == (EndReason.UNSCHEDULABLE, "scheduling", "")
    assert bench.api.deleted == ["job-a"]


# -- nodes that are set aside ----------------------------------------------------------------------


def test_a_pod_kept_away_from_nodes_is_withdrawn_when_one_may_be_tried(bench: Bench) -> None:
    """Long before no node at all has room for too long."""
    bench.put(UNSCHEDULABLE, away=MIDNIGHT + 7)
    bench.check(6)
    assert [each.wait for each in bench.notes.noted] == [WaitReason.NODE_SET_ASIDE]
    assert bench.notes.noted[0].detail == "0/1 nodes are available"
    assert bench.api.deleted == []
    bench.check(7)
    ((_, reason, error),) = bench.notes.given_up
    assert (reason, bench.api.deleted) == (EndReason.UNSCHEDULABLE, ["job-a"])
    assert error.startswith("no node but those that are set aside has room")
    assert bench.notes.ends[0].blames == "", "other nodes prove nothing of the whole class"
    assert bench.api.reads == 0, "no autoscaler is asked"


@pytest.mark.parametrize("ahead", [600.0, -600.0])
def test_nodes_may_be_tried_by_the_clock_of_redis(bench: Bench, ahead: float) -> None:
    bench.put(UNSCHEDULABLE, away=MIDNIGHT + 7 - ahead)
    bench.check(6, ahead=ahead)
    assert bench.api.deleted == []
    bench.check(7, ahead=ahead)
    assert bench.api.deleted == ["job-a"]


def test_a_pod_that_the_scheduler_has_not_looked_at_is_not_withdrawn(bench: Bench) -> None:
    bench.put({"phase": "Pending"}, away=MIDNIGHT + 7)
    bench.check(50)
    assert bench.notes.given_up == []


# -- silent nodes ----------------------------------------------------------------------------------

BOUND = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "True",
            "lastTransitionTime": "2026-11-25T00:00:00Z",
        }
    ],
}


def waits_of(bench: Bench) -> list[WaitReason | None]:
    return [each.wait for each in bench.notes.noted]


def test_a_pod_that_its_node_does_not_accept_is_never_given_up(bench: Bench) -> None:
    bench.put(BOUND, node="n")
    bench.check(39)
    bench.check(40)
    bench.check(86_400)
    assert waits_of(bench) == [WaitReason.STARTING, WaitReason.NODE_SILENT]
    assert bench.notes.noted[-1].detail == "node n has not accepted its pod within 40 s"
    assert (bench.notes.given_up, bench.api.deleted) == ([], [])


def test_no_clock_of_a_pod_that_starts_ends_it_while_its_node_is_silent(bench: Bench) -> None:
    bench.put(waiting("ContainerCreating"), node="n")
    bench.check(50)
    bench.check(60, {"n": MIDNIGHT + 55})
    bench.check(600, {"n": MIDNIGHT + 55})
    assert waits_of(bench) == [WaitReason.PULLING_IMAGE, WaitReason.NODE_SILENT]
    assert bench.notes.noted[-1].detail == "node n has not answered since 2026-11-25T00:00:55Z"
    assert bench.notes.given_up == []
    bench.check(601, {"other": MIDNIGHT})
    assert waits_of(bench)[-1] == WaitReason.PULLING_IMAGE, "it answers again"
    assert bench.notes.given_up[0][1] == EndReason.IMAGE


def test_a_given_up_pod_that_does_not_end_is_unconfirmed(bench: Bench) -> None:
    """It never started, and its node has died since."""
    bench.put(waiting("InvalidImageName"), node="n")
    bench.check(1)
    assert bench.api.deleted == ["job-a"]
    deleted: Any = {"deletionTimestamp": "2026-11-25T00:00:02Z"}
    bench.put(waiting("InvalidImageName"), node="n", **deleted)
    bench.check(40)
    assert waits_of(bench)[-1] == WaitReason.UNCONFIRMED
    assert bench.clocks.is_unconfirmed("u")


# -- one pod fails ---------------------------------------------------------------------------------


def failing(bench: Bench, *names: str) -> None:
    """Pods of these names cannot be read."""
    read = bench.clocks._attempt_of

    def attempt_of(entry: Entry) -> Any:
        if entry.pod.metadata.name in names:
            raise ValueError("broken")
        return read(entry)

    bench.clocks._attempt_of = attempt_of


def two(bench: Bench, status: dict[str, Any]) -> None:
    for number, name in (("1", "bad"), ("2", "good")):
        labels = {"batch.kubernetes.io/job-name": f"job-{number}"}
        bench.put(status, node="n", name=name, uid=number, labels=labels)


def test_a_pod_that_cannot_be_read_keeps_no_other_from_being_recorded(bench: Bench) -> None:
    failing(bench, "bad")
    before = STEP_FAILURES.labels("pod")._value.get()
    two(bench, waiting("ContainerCreating"))
    bench.check(1)
    assert [each.pod for each in bench.notes.noted] == ["good"]
    assert STEP_FAILURES.labels("pod")._value.get() == before + 1


def test_a_pod_that_cannot_be_read_keeps_no_other_from_its_clock(bench: Bench) -> None:
    failing(bench, "bad")
    two(bench, waiting("InvalidImageName"))
    before = STEP_FAILURES.labels("clock")._value.get()
    bench.check(25)
    assert bench.api.deleted == ["job-2"]
    assert STEP_FAILURES.labels("clock")._value.get() == before + 1


def test_a_deletion_that_fails_keeps_no_other_pod_from_its_clock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.clocks._steps, "_clock", lambda: bench.elapsed)
    delete = bench.api.delete_job
    errors = ["broken"]

    def broken(name: str) -> bool:
        if name == "job-1" and errors:
            raise KeyError(errors.pop())
        return delete(name)

    monkeypatch.setattr(bench.api, "delete_job", broken)
    two(bench, waiting("InvalidImageName"))
    bench.check(25)
    assert bench.api.deleted == ["job-2"]
    bench.check(30)
    assert bench.api.deleted == ["job-2", "job-1"]


def test_no_clock_runs_out_while_redis_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(bench, waiting("InvalidImageName"))

    def away(*arguments: Any) -> bool:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(bench.notes, "give_up", away)
    with pytest.raises(redis.ConnectionError):
        bench.check(25)
    assert bench.api.deleted == []


def test_a_check_of_slow_answers_leaves_the_others_to_the_next(bench: Bench) -> None:
    for number in range(8):
        bench.put(waiting("ErrImagePull"), name=f"job-{number}-1", uid=str(number))
    delete = bench.api.delete_job

    def slow(name: str) -> bool:
        bench.elapsed += 2.0
        return delete(name)

    bench.api.delete_job = slow  # type: ignore[method-assign]
    bench.check(3600)
    assert len(bench.api.deleted) == 3, "within 5 s"
    bench.check(3660)
    bench.check(3720)
    assert len(bench.api.deleted) == 8


# -- events ----------------------------------------------------------------------------------------


def event(reason: str, message: str = "", at: int = 0) -> Event:
    stamp = f"2026-11-25T00:{at // 60:02}:{at % 60:02}Z"
    body = {"reason": reason, "message": message, "firstTimestamp": stamp, "lastTimestamp": stamp}
    return msgspec.convert(body, Event)


NO_ROOM = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
NOT_READY = {
    "conditions": [{"type": "PodReadyToStartContainers", "status": "False"}],
    "containerStatuses": [{"name": "executor", "state": {"waiting": {}}}],
}


def test_the_clock_for_a_node_stands_still_while_an_autoscaler_adds_one(bench: Bench) -> None:
    bench.put(NO_ROOM)
    bench.api.events = [event("TriggeredScaleUp", at=20)]
    for after in (101, 150, 400):
        bench.check(after)
    assert bench.notes.given_up == []
    last = bench.notes.noted[-1]
    assert "an autoscaler adds a node" in last.detail and (last.claim_within or 0) > 900
    bench.api.events.append(event("NotTriggerScaleUp", at=420))
    bench.check(450)
    assert bench.notes.given_up == [], "it has waited 20 + 30 of its 100 seconds"
    bench.check(501)
    [end] = bench.notes.ends
    assert (end.reason, end.blames) == (EndReason.UNSCHEDULABLE, PlaceKind.SCHEDULING)


def test_no_clock_for_a_node_runs_out_while_events_cannot_be_read(bench: Bench) -> None:
    bench.put(NO_ROOM)
    bench.api.events_away = True
    bench.check(150)
    assert bench.notes.given_up == []
    bench.api.events_away = False
    bench.check(160)
    assert len(bench.notes.given_up) == 1


def test_many_pods_without_a_node_cost_two_requests_a_second(bench: Bench) -> None:
    for number in range(150):
        bench.put(NO_ROOM, uid=f"u{number}", name=f"p{number}")
    bench.api.events = [event("TriggeredScaleUp", at=20)]
    for tenth in range(100):
        bench.check(200 + tenth / 10)
    assert 15 <= bench.api.reads <= 21
    assert len(set(bench.api.read_names)) == bench.api.reads, "each has its turn"


def test_a_node_that_cannot_prepare_a_pod_is_told_and_avoided(bench: Bench) -> None:
    bench.put(NOT_READY, node="node-a")
    bench.api.events = [event("FailedCreatePodSandBox", "cni plugin not initialized", at=6)]
    bench.check(8)
    assert "cni plugin not initialized" in bench.notes.noted[-1].detail
    bench.check(25)
    assert bench.notes.given_up == []
    bench.check(27)
    [end] = bench.notes.ends
    assert (end.reason, end.avoid, end.blames) == (EndReason.INFRA, "node-a", PlaceKind.NODE)
    assert "cni plugin not initialized" in end.error


def test_a_missing_volume_holds_the_class_after_its_grace(bench: Bench) -> None:
    bench.put(NOT_READY, node="node-a")
    bench.api.events = [event("FailedMount", 'configmap "absent" not found', at=6)]
    bench.check(15)
    assert bench.notes.given_up == []
    bench.check(17)
    [end] = bench.notes.ends
    assert (end.reason, end.blames) == (EndReason.BAD_SPEC, PlaceKind.PODS)


def test_the_events_of_a_pod_on_a_silent_node_are_not_read(bench: Bench) -> None:
    bench.put(NOT_READY, node="node-a")
    bench.api.events = [event("FailedMount", 'configmap "absent" not found', at=6)]
    bench.check(3600, silent={"node-a": MIDNIGHT + 10})
    assert (bench.api.reads, bench.notes.given_up) == (0, [])
    assert waits_of(bench) == [WaitReason.NODE_SILENT]


def test_a_pod_that_its_node_has_just_got_costs_no_request(bench: Bench) -> None:
    bench.put(NOT_READY, node="node-a")
    bench.check(2)
    assert bench.api.reads == 0
