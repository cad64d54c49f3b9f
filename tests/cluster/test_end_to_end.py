"""What the tests of the double say, said once more of a real cluster."""

from __future__ import annotations

import secrets

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from nodes import until

from gpuqueue.errors import ContainerFailed, ExecutorDied, HostOutOfMemory, ImageUnusable, Unschedulable
from gpuqueue.names import holder_name
from gpuqueue.store.logs import Logs
from tests.cluster.conftest import PATIENCE

SHARED, ALONE = "gpu.test.shared", "gpu.test.exclusive"


def test_a_result_comes_back(there):
    assert there.send("add", 2, 3).get(PATIENCE) == 5


def test_a_retry_is_another_job(there):
    assert there.send("third_time_lucky").get(PATIENCE) == 2


def test_shared_and_exclusive_never_meet(there):
    shared = [there.send("hold", 2) for _ in range(2)]
    alone = there.send("hold", 1, queue=ALONE)
    apart = alone.get(PATIENCE)
    for result in shared:
        seen = result.get(PATIENCE)
        assert seen["ended"] <= apart["begun"] or seen["begun"] >= apart["ended"]


def test_a_crash_is_told_with_its_exit_code_and_the_end_of_its_log(there):
    with pytest.raises(ExecutorDied, match=r"(?s)exit code 41.*about to crash"):
        there.send("crash", 41).get(PATIENCE)


@pytest.mark.real_limits
def test_a_job_over_its_memory_limit_fails_so_and_its_errback_is_called(there):
    key = f"told:{secrets.token_hex(6)}"
    errback = there.app.signature("examples.cluster.app.note", kwargs={"key": key}, queue=SHARED, immutable=True)
    with pytest.raises(HostOutOfMemory, match="OOMKilled"):
        there.send("eat_memory", link_error=errback).get(PATIENCE)
    assert there.client.blpop([key], timeout=PATIENCE)


def test_a_time_limit_ends_a_job(there):
    with pytest.raises(TimeLimitExceeded):
        there.send("hold", 300, time_limit=2).get(PATIENCE)
    there.idle()


def test_a_cancelled_job_is_revoked_when_its_pod_is_gone(there):
    result = there.send("hold", 300)
    pod = there.pod_of(result.id)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    there.idle()
    found = there.core.list_namespaced_pod(there.namespace, field_selector=f"metadata.name={pod}").items
    ended = [each.state.terminated for one in found for each in one.status.container_statuses or ()]
    assert all(ended)


def test_an_evicted_job_runs_again(there):
    result = there.send("hold", 5)
    pod = there.pod_of(result.id)
    eviction = {"metadata": {"name": pod, "namespace": there.namespace}}
    there.core.create_namespaced_pod_eviction(pod, there.namespace, eviction)
    assert result.get(PATIENCE)["pod"] != pod
    assert there.in_state(result.id, "ended")["attempt"] == 2


def test_a_job_deleted_by_hand_frees_its_slot(there):
    result = there.send("hold", 300)
    job = there.in_state(result.id, "running")["instance"].split("/")[1]
    there.batch.delete_namespaced_job(job, there.namespace, propagation_policy="Background")
    until(lambda: result.state == "FAILURE", PATIENCE, "it fails")
    there.idle()


def test_an_image_that_cannot_be_pulled_ends_the_job(there):
    with pytest.raises(ImageUnusable):
        there.send("add", 1, 1, headers={"gpu": {"image": "127.0.0.1:1/none/at-all:1"}}).get(PATIENCE)


def test_what_no_node_can_take_ends_the_job(there):
    with pytest.raises(Unschedulable, match="nodes are available"):
        there.send("add", 1, 1, queue="gpu.nowhere").get(PATIENCE)


def test_a_running_job_outlives_its_dispatcher(there):
    result = there.send("hold", 5)
    there.in_state(result.id, "running")
    there.workers[-1].kill()
    there.dispatcher(f"next-{len(there.workers)}")
    assert result.get(PATIENCE)["pod"]
    assert there.in_state(result.id, "ended")["attempt"] == 1
    there.idle()


def test_the_log_of_a_job_outlives_its_pod(there):
    result = there.send("hold", 0)
    result.get(PATIENCE)
    record = there.in_state(result.id, "ended")
    holder = holder_name(record["delivery"], record["attempt"])
    assert "holding" in until(lambda: Logs(there.client).read("test", holder), PATIENCE, "its log is kept")


def test_a_container_job_answers_and_fails_as_its_program_does(there):
    def run(program):
        call = {"image": there.env["GPU_EXECUTOR_IMAGE"], "command": ["python3", "-c", program]}
        return there.send("gpuqueue.run", kwargs=call)

    good = run("open('/dev/termination-log', 'w').write('{\"loss\": 1}'); print('trained')")
    assert good.get(PATIENCE) == {"exit_code": 0, "message": {"loss": 1}, "log": "trained\n"}
    with pytest.raises(ContainerFailed, match="exit code 3"):
        run("raise SystemExit(3)").get(PATIENCE)
