"""The launcher: what a class changes about the launch of its attempts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.base import LaunchHeld, LaunchLater
from gpuqueue.launchers.kubernetes.api.errors import (
    AlreadyExists,
    ApiError,
    Invalid,
    QuotaRejected,
)
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.assemble import check
from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import annotations_of
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings

SETTINGS = ClusterSettings(
    executor_image="x:1",
    launch_timeout=1,
    quota_timeout=2,
    unschedulable_timeout=10,
    image_pull_timeout=100,
)
OWN = GpuClass(
    "own",
    exclusive_slots=1,
    quota_timeout=3,
    unschedulable_timeout=20,
    image_pull_timeout=200,
    start_timeout=2000,
    held_timeout=30,
)
CLASSES = {"t4": GpuClass("t4", shared_slots=1), "own": OWN}


class Api:
    """A namespace that refuses new Jobs, and has one."""

    namespace = "ns"

    def __init__(self) -> None:
        self.refuses: ApiError = QuotaRejected("exceeded quota", request="create job", status=403)
        self.job: Job | None = None
        self.deleted: list[str] = []

    def create_job(self, manifest: dict[str, Any], dry_run: bool = False) -> None:
        raise self.refuses

    def get_job(self, name: str) -> Job | None:
        return self.job

    def delete_job(self, name: str) -> bool:
        self.deleted.append(name)
        return True


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def launcher(api: Any) -> Iterator[KubernetesLauncher]:
    nothing: Any = None
    common = ManifestContext("ns", "prod", start_timeout=1000)
    made = KubernetesLauncher(api, SETTINGS, common, CLASSES, nothing, nothing)
    yield made
    made.close()


def record(gpu_class: str = "t4") -> Record:
    return {
        "delivery": "a",
        "id": "a",
        "task": "t",
        "gpu_class": gpu_class,
        "isolation": "exclusive",
        "attempt": 1,
        "token": "x",
    }


def test_an_attempt_may_wait_as_long_as_the_most_patient_class_allows(
    launcher: KubernetesLauncher,
) -> None:
    assert launcher.claim_within == 1 + 20 + 200 + 2000


@pytest.mark.parametrize("gpu_class", ["t4", "own"])
def test_a_launch_that_the_quota_refuses_holds_its_class(
    launcher: KubernetesLauncher, gpu_class: str
) -> None:
    with pytest.raises(LaunchHeld) as caught:
        launcher.start(record(gpu_class))
    assert caught.value.kind == PlaceKind.QUOTA


@pytest.mark.parametrize("status", [409, 413, 429, 500, 503])
def test_what_a_webhook_denies_holds_the_class_with_any_status(
    launcher: KubernetesLauncher, api: Api, status: int
) -> None:
    api.refuses = ApiError('admission webhook "w.io" denied the request: no', status=status)
    with pytest.raises(LaunchHeld) as caught:
        launcher.start(record())
    assert caught.value.kind == PlaceKind.LAUNCH


def test_a_dispatcher_starts_while_a_webhook_denies_its_jobs(api: Any) -> None:
    common, classes = ManifestContext("ns", "prod"), {"t4": CLASSES["t4"]}
    fields = ["metadata.labels[team]"]
    api.refuses = Invalid('webhook "w.io" denied the request: no', status=422, fields=fields)
    check(api, classes, SETTINGS, common)
    api.refuses = Invalid("Job is invalid", status=422, fields=fields)
    with pytest.raises(SettingsError, match="class 't4'"):
        check(api, classes, SETTINGS, common)


def test_a_class_tells_for_how_long_it_may_be_held(launcher: KubernetesLauncher) -> None:
    assert launcher.site.held == {"own": 30.0}, "the others wait without an end"


@pytest.mark.parametrize(
    ("condition", "ended"),
    [("Suspended", False), ("FailureTarget", False), ("Complete", True), ("Failed", True)],
)
def test_a_stray_warm_job_is_deleted_once_it_has_ended(
    launcher: KubernetesLauncher, api: Api, condition: str, ended: bool
) -> None:
    earlier: Any = {**record(), "token": "other", "warm": 60.0}
    body = {
        "metadata": {"name": "gpu-a", "annotations": annotations_of("prod", earlier)},
        "status": {"conditions": [{"type": condition, "status": "True"}]},
    }
    api.refuses, api.job = AlreadyExists("exists", status=409), msgspec.convert(body, Job)
    with pytest.raises(LaunchLater, match="stray" if ended else "has gone on"):
        launcher.start(record())
    assert bool(api.deleted) is ended
