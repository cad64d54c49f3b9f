"""The bad days that a cluster of one node can show, said once more of a real cluster: whose Jobs
these are, other controllers, what is kept, and the pods of a class.
"""

from __future__ import annotations

import json
from typing import Any

from kubernetes import client

from tests.cluster.answers import raw
from tests.cluster.more import dispatcher, job, pod
from tests.cluster.real_cluster import PATIENCE, RealCluster
from tests.cluster.test_limits import allowed
from tests.support.waiting import until

DAY = 24 * 3600


# -- whose Jobs these are --------------------------------------------------------------------------


def test_jobs_go_on_under_another_spelling_of_the_redis_address(cluster: RealCluster) -> None:
    own = cluster.owning("renamed", "exclusive_slots = 1")
    local = "127.0.0.1" in cluster.url
    other = cluster.url.replace("127.0.0.1", "localhost") if local else f"{cluster.url}?timeout=60"
    with dispatcher(cluster, own, without="GPU_OWNER") as first:
        result = cluster.send("hold", 5, queue="gpu.renamed")
        record = cluster.in_state(result.id, "running")
        cluster.owners.add(record["owner"])
        first.kill()
    with dispatcher(cluster, own | {"CELERY_BROKER_URL": other}, without="GPU_OWNER"):
        assert result.get(PATIENCE)["pod"]
        assert cluster.in_state(result.id, "ended")["attempt"] == 1
        until(lambda: not cluster.reader.holders("renamed"), PATIENCE, "its slot is free")
        again = cluster.send("add", 1, 1, queue="gpu.renamed")
        assert again.get(PATIENCE) == 2
        assert cluster.in_state(again.id, "ended")["owner"] == record["owner"]


def test_slots_of_an_owner_that_is_gone_are_told_and_adopted(cluster: RealCluster) -> None:
    former = cluster.owning("moved", "exclusive_slots = 1")
    heir = former | {"GPU_OWNER": f"{cluster.name}-heir"}
    cluster.owners.add(heir["GPU_OWNER"])
    with dispatcher(cluster, former) as first:
        result = cluster.send("hold", 20, queue="gpu.moved")
        cluster.in_state(result.id, "running")
        first.kill()
    with dispatcher(cluster, heir):

        def owners() -> list[str]:
            checks = json.loads(cluster.cli("doctor", "--json").stdout)["checks"]
            return [each["level"] for each in checks if each["name"] == "owners"]

        until(lambda: owners() == ["FAIL"], PATIENCE, "the doctor tells of it")
        assert cluster.cli("adopt", former["GPU_OWNER"], "--yes").stdout == (
            "1 slots of moved adopted\n"
        )
        assert result.get(PATIENCE)["pod"]
        assert cluster.in_state(result.id, "ended")["attempt"] == 1
        until(lambda: not cluster.reader.holders("moved"), PATIENCE, "its slot is free")


# -- other controllers, and other containers -------------------------------------------------------


def test_a_job_suspended_while_it_runs_gets_another_attempt(cluster: RealCluster) -> None:
    result = cluster.send("hold", 6)
    name, first = cluster.job_of(result.id), cluster.pod_of(result.id)
    patch = {"spec": {"suspend": True}}
    raw(cluster.batch.patch_namespaced_job, name, cluster.namespace, patch)
    assert result.get(2 * PATIENCE)["pod"] != first
    record = cluster.in_state(result.id, "ended")
    assert (record["attempt"], record["disruptions"]) == (2, 1)
    assert job(cluster, name) is None, "nothing can resume the first attempt"
    cluster.idle()


#: A container that ignores SIGTERM, and ends with the grace of its pod.
STAYS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def test_a_sidecar_that_does_not_end_keeps_the_slot_as_long_as_its_pod(
    cluster: RealCluster,
) -> None:
    secure = (
        "{ allowPrivilegeEscalation = false, runAsNonRoot = true,"
        ' capabilities = { drop = ["ALL"] }, seccompProfile = { type = "RuntimeDefault" } }'
    )
    sidecar = (
        f'{{ name = "proxy", image = "{cluster.image}", restartPolicy = "Always",'
        f' command = ["python3", "-c", "{STAYS}"], securityContext = {secure},'
        ' resources = { requests = { cpu = "10m", memory = "32Mi" },'
        ' limits = { memory = "128Mi" } } }'
    )
    own = cluster.owning(
        "beside",
        f"exclusive_slots = 1\npod_template = {{ spec = {{ initContainers = [{sidecar}] }} }}",
    )
    with dispatcher(cluster, own):
        results = [cluster.send("hold", 1, queue="gpu.beside") for _ in range(2)]
        pods = [result.get(2 * PATIENCE)["pod"] for result in results]
        assert pods[0] != pods[1], "a pod runs no second job here"
        until(lambda: not cluster.reader.holders("beside"), 2 * PATIENCE, "its slot is free")
        found = raw(cluster.core.list_namespaced_pod, cluster.namespace)["items"]
        runs = [each["metadata"]["name"] for each in found if _runs(each)]
        assert not set(pods) & set(runs), "the slot is free while a pod holds its GPU"


def _runs(found: Any) -> bool:
    states = found["status"].get("initContainerStatuses", []) + found["status"].get(
        "containerStatuses", []
    )
    return any("running" in each["state"] for each in states)


# -- what is kept ----------------------------------------------------------------------------------


def test_an_ended_job_stays_until_its_end_is_read_and_then_goes(cluster: RealCluster) -> None:
    own = cluster.owning("kept", "exclusive_slots = 1") | {"GPU_JOB_TTL_SECONDS": "2"}
    call = {"image": cluster.image, "command": ["python3", "-c", "import time; time.sleep(4)"]}
    with dispatcher(cluster, own) as first:
        result = cluster.app.send_task("gpuqueue.run", kwargs=call, queue="gpu.kept")
        name = cluster.job_of(result.id)
        assert job(cluster, name)["spec"]["ttlSecondsAfterFinished"] >= DAY
        first.kill()
    until(
        lambda: job(cluster, name)["status"].get("succeeded"),
        PATIENCE,
        "it ends while no dispatcher looks",
    )
    assert cluster.record(result.id)["state"] == "running"
    with dispatcher(cluster, own):
        assert result.get(PATIENCE)["exit_code"] == 0
        assert cluster.in_state(result.id, "ended")["attempt"] == 1
        until(lambda: job(cluster, name) is None, PATIENCE, "its Job goes")


# -- the pods of a class ---------------------------------------------------------------------------


def test_the_pods_of_jobs_are_kept_from_autoscalers_and_meshes(cluster: RealCluster) -> None:
    result = cluster.send("hold", 3)
    notes = pod(cluster, cluster.pod_of(result.id))["metadata"]["annotations"]
    assert notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert notes["karpenter.sh/do-not-disrupt"] == "true"
    assert notes["sidecar.istio.io/inject"] == "false"
    assert result.get(PATIENCE)["pod"]


#: More than the 64 MiB that a runtime gives without a size.
SHARED_MEMORY = """
with open('/dev/shm/some', 'wb') as file:
    file.write(bytes(100 << 20))
import os
os.remove('/dev/shm/some')
print('written')
"""


def test_the_fields_of_a_class_are_those_of_its_pods(cluster: RealCluster) -> None:
    name = f"{cluster.name}-fields"
    body = {"metadata": {"name": name}, "value": 2}
    scheduling = client.SchedulingV1Api()
    text = (
        'exclusive_slots = 1\nhost_memory = "512Mi"\nshm_size = "256Mi"\n'
        f'ephemeral_storage = "1Gi"\npriority_class = "{name}"'
    )
    own = cluster.owning("fields", text)
    allowed(lambda: raw(scheduling.create_priority_class, body))
    try:
        with dispatcher(cluster, own):
            result = cluster.send("hold", 3, queue="gpu.fields")
            spec = pod(cluster, cluster.pod_of(result.id))["spec"]
            assert (spec["priorityClassName"], spec["priority"]) == (name, 2)
            [executor] = [each for each in spec["containers"] if each["name"] == "executor"]
            assert executor["resources"]["limits"]["ephemeral-storage"] == "1Gi"
            [mounted] = [
                each["name"] for each in executor["volumeMounts"] if each["mountPath"] == "/dev/shm"
            ]
            [volume] = [each for each in spec["volumes"] if each["name"] == mounted]
            assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}
            assert result.get(PATIENCE)["pod"]
            call = {"image": cluster.image, "command": ["python3", "-c", SHARED_MEMORY]}
            written = cluster.app.send_task("gpuqueue.run", kwargs=call, queue="gpu.fields")
            assert written.get(PATIENCE)["log"] == "written\n"
    finally:
        raw(scheduling.delete_priority_class, name)
