"""Whether the Job of a deleted pod was suspended: asked for patiently."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.errors import Forbidden
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.follow import suspensions
from gpuqueue.launchers.kubernetes.follow.attempts import of_job
from gpuqueue.launchers.kubernetes.follow.pod_table import PodTable
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from tests.support.pod_objects import DELETION, a_pod, running
from tests.unit.launchers.kubernetes.follow.test_jobs_without_pod import job


class Cluster:
    """It suspended a Job while that ran, and forbids the next requests."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.job = msgspec.structs.replace(job("j"), spec=msgspec.convert({"suspend": True}, SPEC))

    def get_job(self, name: str) -> Job:
        if self.refusals:
            self.refusals -= 1
            raise Forbidden('User "gpuqueue" cannot get resource "jobs"', status=403)
        return self.job

    def delete_job(self, name: str, uid: str) -> bool:
        return True

    def has_begun(self, attempt: Any) -> bool:
        return True


SPEC = type(job("j").spec)


def test_a_right_that_is_missing_for_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspensions, "ASK_EVERY", 0.0)
    cluster: Any = Cluster(refusals=2)
    live: Any = of_job(cluster.job, "ns")
    entry = PodTable().put(a_pod(running(), phase="Running", deletion=DELETION), 0.0)
    found = suspensions.Suspensions(cluster, cluster, 60.0, lambda _: live).end_after(
        entry, live, End(EndReason.POD_DELETED, "its pod was deleted")
    )
    assert found is not None and found.reason is EndReason.PREEMPTED
