"""What the tests of the double say, said once more of a real cluster."""

from __future__ import annotations

import json
import secrets

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult

from gpuqueue import gpu
from gpuqueue.errors import (
    ContainerFailed,
    ExecutorDied,
    HostOutOfMemory,
    PodDeleted,
)
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.logs import Logs
from tests.cluster.answers import raw
from tests.cluster.real_cluster import PATIENCE, RealCluster
from tests.support.waiting import until

SHARED, ALONE = "gpu.test.shared", "gpu.test.exclusive"


def ended(cluster: RealCluster, result: AsyncResult, reason: str) -> Record:
    """The record of a job that has ended so."""
    record: Record = cluster.in_state(result.id, "ended")
    assert record["reason"] == reason
    return record


# -- as on any Celery worker -----------------------------------------------------------------------


def test_a_result_comes_back(cluster: RealCluster) -> None:
    assert cluster.send("add", 2, 3).get(PATIENCE) == 5


def test_a_retry_is_another_job(cluster: RealCluster) -> None:
    assert cluster.send("third_time_lucky").get(PATIENCE) == 2


def test_a_chain_goes_from_gpu_to_cpu_and_back(cluster: RealCluster) -> None:
    steps = (
        cluster.signature("add", 1, 1)
        | cluster.signature("add", 2, queue="celery")
        | cluster.signature("add", 3)
    )
    assert steps.apply_async().get(PATIENCE) == 7


def test_shared_and_exclusive_never_meet(cluster: RealCluster) -> None:
    before = [cluster.send("hold", 2) for _ in range(2)]
    alone = cluster.send("hold", 1, queue=ALONE)
    after = [cluster.send("hold", 1) for _ in range(2)]
    apart = alone.get(PATIENCE)
    for result in before + after:
        seen = result.get(PATIENCE)
        assert seen["ended"] <= apart["begun"] or seen["begun"] >= apart["ended"]


def test_a_time_limit_ends_a_job(cluster: RealCluster) -> None:
    with pytest.raises(TimeLimitExceeded):
        cluster.send("hold", 300, time_limit=2).get(PATIENCE)
    cluster.idle()


def test_a_cancelled_job_is_revoked_when_its_pod_is_gone(cluster: RealCluster) -> None:
    result = cluster.send("hold", 300)
    pod = cluster.pod_of(result.id)
    # The worker for CPU tasks writes REVOKED where it finds no state.
    until(lambda: result.state == "STARTED", PATIENCE, "it runs")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    found = raw(
        cluster.core.list_namespaced_pod, cluster.namespace, field_selector=f"metadata.name={pod}"
    )["items"]
    assert all(
        "terminated" in each["state"]
        for one in found
        for each in one["status"]["containerStatuses"]
    )
    cluster.idle()


# -- what goes wrong while it runs -----------------------------------------------------------------


def test_the_error_of_a_crash_has_the_exit_code_and_the_end_of_the_log(
    cluster: RealCluster,
) -> None:
    result = cluster.send("crash", 41)
    with pytest.raises(ExecutorDied, match=r"(?s)exit code 41.*about to crash"):
        result.get(PATIENCE)
    assert ended(cluster, result, "ERROR")["exit_code"] == 41


def test_a_job_over_its_memory_limit_fails_so_and_its_errback_is_called(
    cluster: RealCluster,
) -> None:
    key = f"told:{secrets.token_hex(6)}"
    errback = cluster.signature("note", key=key).set(immutable=True)
    result = cluster.send("eat_memory", link_error=errback)
    with pytest.raises(HostOutOfMemory, match="OOMKilled"):
        result.get(PATIENCE)
    assert ended(cluster, result, "HOST_OOM")["exit_code"] == 137
    assert cluster.client.blpop([key], timeout=PATIENCE)


def test_an_evicted_job_runs_again(cluster: RealCluster) -> None:
    result = cluster.send("hold", 5)
    pod = cluster.pod_of(result.id)
    eviction = {"metadata": {"name": pod, "namespace": cluster.namespace}}
    raw(cluster.core.create_namespaced_pod_eviction, pod, cluster.namespace, eviction)
    assert result.get(PATIENCE)["pod"] != pod
    assert ended(cluster, result, "SUCCEEDED")["attempt"] == 2


def test_a_job_deleted_by_hand_fails_so_and_frees_its_slot(cluster: RealCluster) -> None:
    result = cluster.send("hold", 300)
    job = cluster.job_of(result.id)
    raw(
        cluster.batch.delete_namespaced_job, job, cluster.namespace, propagation_policy="Background"
    )
    with pytest.raises(PodDeleted):
        result.get(PATIENCE)
    cluster.idle()


def test_a_running_job_outlives_its_dispatcher(cluster: RealCluster) -> None:
    result = cluster.send("hold", 5)
    cluster.in_state(result.id, "running")
    cluster.workers[0].kill()
    cluster.workers[0].container.start()
    assert result.get(PATIENCE)["pod"]
    assert ended(cluster, result, "SUCCEEDED")["attempt"] == 1
    cluster.idle()


# -- what is left of it, and what is no Celery task ------------------------------------------------


def test_the_log_of_a_job_outlives_its_pod(cluster: RealCluster) -> None:
    result = cluster.send("hold", 0)
    result.get(PATIENCE)
    record = ended(cluster, result, "SUCCEEDED")
    assert "holding" in until(
        lambda: Logs(cluster.client).read(Attempt.of(record)), PATIENCE, "its log is kept"
    )


def test_a_container_job_answers_exit_code_message_and_log(cluster: RealCluster) -> None:
    result = cluster.run(
        "open('/dev/termination-log', 'w').write('{\"loss\": 1}'); print('trained')"
    )
    assert result.get(PATIENCE) == {"exit_code": 0, "message": {"loss": 1}, "log": "trained\n"}


def test_the_error_of_a_container_job_has_exit_code_and_log(cluster: RealCluster) -> None:
    with pytest.raises(ContainerFailed, match=r"(?s)exit code 3.*no data"):
        cluster.run("import sys; print('no data', file=sys.stderr); sys.exit(3)").get(PATIENCE)


def test_an_image_that_cannot_be_pulled_is_waited_for(cluster: RealCluster) -> None:
    result = cluster.send(
        "add", 1, 1, headers=gpu("test", image="127.0.0.1:1/none/at-all:1")["headers"]
    )
    until(
        lambda: (cluster.record(result.id) or {}).get("wait") == "IMAGE",
        PATIENCE,
        "its image is held",
    )
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)


# -- the cluster -----------------------------------------------------------------------------------


def test_the_doctor_finds_nothing_wrong(cluster: RealCluster) -> None:
    done = cluster.cli("doctor", "--json")
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode == 0, [each for each in checks if each["level"] == "FAIL"]
    of_cluster = {each["name"] for each in checks if each["level"] == "OK"}
    assert {"cluster", "owner", "namespace", "rights", "secret", "jobs"} <= of_cluster, checks
