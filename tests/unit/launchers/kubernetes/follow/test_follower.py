"""What a follower keeps of pods: nothing once they are gone, also when they go meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow.follower import Follower
from gpuqueue.launchers.kubernetes.follow.pod_table import PodTable
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import RECORD, instance_of
from gpuqueue.model.attempt import Attempt, LiveAttempt, Observation, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.instant_cluster import InstantCluster
from tests.support.waiting import until
from tests.unit.launchers.kubernetes.follow.test_jobs_without_pod import job

#: Jobs that are in flight together.
AT_ONCE = 500


class Seen:
    """Ends and observations, counted. A container job's pod may be gone before each of them."""

    def __init__(self) -> None:
        self.ended, self.fails = 0, 0
        self.recording = threading.Event()
        self._lock = threading.Lock()

    def on_end(self, running: RunningAttempt, end: End) -> bool:
        with self._lock:
            self.ended += 1
            if self.fails and self.ended % self.fails == 0:
                raise ConnectionError("Redis is away")
        return True

    def now(self) -> float:
        return 4e9

    def observed(self, observations: list[Observation]) -> None:
        self.recording.set()

    def give_up(self, attempt: Attempt, reason: EndReason, error: str) -> bool:
        return False

    def begun(self, live: LiveAttempt, worker: str) -> None:
        """It is claimed."""

    def latest(self, running: RunningAttempt) -> Attempt:
        return running.attempt

    def make_room(self, pods: int) -> None:
        """Nothing waits for a job."""

    def set_nodes(self, gpu_class: GpuClass, nodes: Any, more: int, owner: str) -> None:
        """No class has nodes."""

    def confirmed_gone(self) -> dict[tuple[str, str], float]:
        return {}

    def with_slot(self, running: list[RunningAttempt]) -> list[RunningAttempt]:
        return running

    def wants_log(self, attempt: Attempt) -> bool:
        return False


class World:
    """A follower of a cluster whose pods are gone at once."""

    def __init__(self) -> None:
        self.cluster, self.seen, self.made = InstantCluster(), Seen(), 0
        self.follower = Follower(
            _any(self.cluster),
            "",
            ClusterSettings(pod_relist_seconds=3600),
            ManifestContext("gpus", "us", None, "INFO", 60, 5, 60, 60),
            self.seen.on_end,
            _any(self.seen),
        )
        self.follower.lead(True)
        assert self.follower.pods.wait_synced(5)
        self._stopped = threading.Event()
        self._checks = threading.Thread(target=self._check)
        self._checks.start()

    def _check(self) -> None:
        while not self._stopped.wait(0.001):
            self.follower.check(4e9)

    def run(self, number: int, task: str) -> None:
        """Have pods of jobs live and end, and ask for Jobs as a repair does."""
        while self.made < number:
            for _ in range(AT_ONCE):
                job = f"gpu-job-{self.made}"
                record = {
                    "delivery": job,
                    "id": job,
                    "gpu_class": "t4",
                    "isolation": "shared",
                    "attempt": 1,
                    "token": "x",
                    "task": task,
                }
                annotations = {RECORD: msgspec.json.encode(record).decode()}
                template = {"metadata": {"labels": {}, "annotations": annotations}}
                manifest = {"metadata": {"name": job}, "spec": {"template": template}}
                self.follower.end_of(instance_of("gpus", job))
                self.cluster.create_job(manifest)
                self.made += 1
            until(lambda: self.seen.ended >= self.made, 60, f"{self.made} pods have ended")

    def kept(self) -> dict[str, int]:
        """The sizes of all tables, those of the parts included, that are not empty."""
        parts = {
            "follower": self.follower,
            "table": self.follower.pods._table,
            "clocks": self.follower._clocks,
            "silent attempts": self.follower._silent,
            "jobs without a pod": self.follower._jobs_without_pod,
            "starts": self.follower._starts,
        }
        return {
            f"{part}.{name}": len(value)
            for part, owner in parts.items()
            for name, value in vars(owner).items()
            if isinstance(value, dict | set | list) and value and name not in ("_limits", "_at")
        }

    def close(self) -> None:
        self._stopped.set()
        self._checks.join()
        self.follower.close()


def _any(double: Any) -> Any:
    return double


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("task", [CONTAINER_TASK, "shop.train"])
def test_pods_that_are_gone_leave_nothing(world: World, task: str) -> None:
    world.run(2000, task)

    def observed() -> bool:  # a check has met pods in the middle of their lives
        if not world.seen.recording.is_set():
            world.run(world.made + AT_ONCE, task)
        return world.seen.recording.is_set()

    until(observed, what="a pod is observed")
    until(lambda: not world.kept(), what="the tables are empty", logs=lambda: str(world.kept()))


@pytest.mark.slow
def test_ten_thousand_container_jobs_leave_nothing(world: World) -> None:
    world.run(10_000, CONTAINER_TASK)
    until(lambda: not world.kept(), what="the tables are empty", logs=lambda: str(world.kept()))


def test_pods_whose_end_was_not_handled_leave_nothing(world: World) -> None:
    world.seen.fails = 3
    world.run(1000, "shop.train")
    until(lambda: not world.kept(), what="the tables are empty", logs=lambda: str(world.kept()))


def test_a_suspended_job_is_listed_until_it_has_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {
        kind: job(kind, {"conditions": [{"type": kind, "status": "True"}]})
        for kind in ("Suspended", "SuccessCriteriaMet", "FailureTarget", "Complete", "Failed")
    }
    monkeypatch.setattr(world.cluster, "list_jobs", lambda _: (list(jobs.values()), "1"))
    listed = [each.running.attempt.delivery for each in world.follower.list()]
    assert listed == ["Suspended", "SuccessCriteriaMet", "FailureTarget"]


@pytest.mark.parametrize(
    ("node", "listed"), [("", {"domain": "new_7"}), ("n1", {"domain": "n1", "origin": "new_7"})]
)
def test_an_attempt_is_listed_in_the_domain_of_the_node_that_came(
    world: World, monkeypatch: pytest.MonkeyPatch, node: str, listed: dict[str, str]
) -> None:
    """So it is adopted there after a loss of Redis."""
    names = {"delivery": "a", "id": "a", "gpu_class": "t4", "isolation": "shared"}
    record = names | {"attempt": 1, "token": "x", "domain": "new_7"}
    body = {
        "metadata": {
            "name": "job-a-1",
            "uid": "u",
            "labels": {"batch.kubernetes.io/job-name": "job-a"},
            "annotations": {RECORD: msgspec.json.encode(record).decode()},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending"},
    }
    entry = PodTable().put(msgspec.convert(body, Pod), 0.0)
    monkeypatch.setattr(world.follower.pods, "snapshot", lambda: [entry])
    (live,) = world.follower.list()
    assert dict(live.record).items() >= listed.items()
    assert ("origin" in live.record) == ("origin" in listed)
