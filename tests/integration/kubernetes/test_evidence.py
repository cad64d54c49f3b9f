"""Nothing is thrown away before it was read: ends and logs, in bursts and after an absence."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery.result import AsyncResult

from tests.doubles.kubernetes import Node
from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"


def sent(stack: ClusterStack, program: str) -> AsyncResult:
    """A container job that runs a program of Python."""
    call = {"image": "shop:1", "command": ["python3", "-c", program]}
    return stack.app.send_task("gpuqueue.run", kwargs=call, queue=GPU)


@pytest.mark.slow
def test_container_jobs_that_end_at_once_keep_their_logs(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    gate = tmp_path / "gate"
    program = (
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        "print('trained', os.environ['GPUQUEUE_JOB_ID'])"
    )
    env, nodes = {"T4_SHARED_SLOTS": "20"}, [Node(resources={"nvidia.com/gpu": "20"})]
    with listed(running_stacks, ClusterStack(tmp_path / "stack", env, nodes=nodes)) as stack:
        stack.dispatcher()
        results = [sent(stack, program) for _ in range(20)]
        for result in results:
            stack.in_state(result.id, "running")
        stack.cluster.faults.latency(0.8)
        gate.touch()
        answers = [result.get(4 * PATIENCE) for result in results]
        assert [each["log"] for each in answers] == [f"trained {each.id}\n" for each in results]
        gate.unlink()
        results = [sent(stack, program.replace("while", "print('begun', flush=True)\nwhile"))]
        stack.in_state(results[0].id, "running")
        stack.cluster.until(lambda: stack.cluster.log(stack.pod_name(results[0].id)))
        results[0].revoke(terminate=True)
        record = stack.in_state(results[0].id, "ended")
        assert until(lambda: stack.log_of(record), PATIENCE, "a cancelled job's log") == "begun\n"
        stack.cluster.faults.latency(0)
        assert "gone without a reported end" not in stack.logs()["dispatcher"]


def test_an_end_that_no_dispatcher_saw_is_read_after_any_time(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    gate = tmp_path / "gate"
    program = (
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        "print('trained')"
    )
    env = {"GPU_JOB_TTL_SECONDS": "0"}
    with listed(running_stacks, ClusterStack(tmp_path / "stack", env)) as stack:
        first = stack.dispatcher("first")
        result = sent(stack, program)
        stack.in_state(result.id, "running")
        job = stack.known(result.id)["instance"].split("/")[1]
        first.kill()
        gate.touch()
        until(lambda: over(stack, job), PATIENCE, "it has ended")
        stack.dispatcher("second")
        answer = result.get(PATIENCE)
        assert (answer["exit_code"], answer["log"]) == (0, "trained\n")
        assert stack.known(result.id)["attempt"] == 1
        until(lambda: stack.cluster.job(job) is None, PATIENCE, "its Job goes once it is read")


def test_a_pod_that_was_deleted_after_its_success_is_not_run_again(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    """As Kubernetes deletes ended pods beyond their most, and people do. The Job stays."""
    gate = tmp_path / "gate"
    program = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)"
    with listed(running_stacks, ClusterStack(tmp_path / "stack")) as stack:
        first = stack.dispatcher("first")
        result = sent(stack, program)
        stack.in_state(result.id, "running")
        job, pod = stack.known(result.id)["instance"].split("/")[1], stack.pod_name(result.id)
        first.kill()
        gate.touch()
        until(lambda: over(stack, job), PATIENCE, "it has ended")
        stack.cluster.faults.delete_pod(pod)
        until(lambda: stack.cluster.pod(pod) is None, PATIENCE, "its pod is gone")
        stack.dispatcher("second")
        assert result.get(PATIENCE)["exit_code"] == 0
        assert stack.known(result.id)["attempt"] == 1


def test_ended_jobs_stay_for_their_time_to_live(quick: ClusterStack) -> None:
    result = sent(quick, "print('here')")
    assert result.get(PATIENCE)["log"] == "here\n"
    job = quick.cluster.job(quick.known(result.id)["instance"].split("/")[1])
    assert job is not None
    assert job["spec"]["ttlSecondsAfterFinished"] == 600 + 86_400


def over(stack: ClusterStack, job: str) -> bool:
    """Whether a Job is Complete, as the cluster would also delete it by then."""
    found = stack.cluster.job(job)
    assert found is not None, "its Job is gone, unread"
    return any(each["type"] == "Complete" for each in found["status"].get("conditions", ()))
