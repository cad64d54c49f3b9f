"""The adapter against the double of the cluster: every verb as a real one means it, and the table
of pods through faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.launchers.kubernetes.api import object_reader
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import (
    AlreadyExists,
    ApiError,
    Forbidden,
    Invalid,
    QuotaRejected,
)
from gpuqueue.launchers.kubernetes.follow.logs import tail
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.follow.sight import Sight
from gpuqueue.launchers.kubernetes.status.read_status import Phase
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.doubles.kubernetes import Cluster, Image
from tests.doubles.kubernetes.objects.kinds import QUOTAS
from tests.support.waiting import until

OURS = "gpuqueue.io/owner=us"
LABELS = {"gpuqueue.io/owner": "us"}
#: Containers of Jobs made here run for ever, as timers, unless a test says otherwise.
FOREVER = "999"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(
        tmp_path, pace=0.01, manifest_pace=0.01, images={"shop:1": Image()}, namespace="gpus"
    ) as made:
        yield made


@pytest.fixture
def api(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return Api(ClusterSettings())


def job(
    name: str, seconds: str | None = FOREVER, command: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    container = {"name": "executor", "image": "shop:1", "command": command or ["run"]}
    meta = {
        "labels": LABELS,
        "annotations": {} if seconds is None else {"double.gpuqueue.io/seconds": seconds},
    }
    spec = {"restartPolicy": "Never", "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {"backoffLimit": 0, "template": {"metadata": meta, "spec": spec}, **more},
    }


# -- the verbs -------------------------------------------------------------------------------------


def test_a_job_is_made_once_and_goes_with_its_pod(api: Api, cluster: Cluster) -> None:
    assert api.create_job(job("dry"), dry_run=True).metadata.name == "dry"
    assert api.get_job("dry") is None
    made = api.create_job(job("one"))
    with pytest.raises(AlreadyExists):
        api.create_job(job("one"))
    found = api.get_job("one")
    assert found is not None
    assert found.metadata.uid == made.metadata.uid
    cluster.until(lambda: cluster.pod_of("one"))
    assert not api.delete_job("one", uid="another's")
    assert api.delete_job("one", uid=made.metadata.uid)
    cluster.until(lambda: not cluster.pods())
    assert not api.delete_job("one")


def test_what_a_job_may_not_be_is_refused(api: Api, cluster: Cluster) -> None:
    with pytest.raises(Invalid, match=r'unknown field "spec\.noSuchField"'):
        api.create_job(job("x", noSuchField=1))
    with pytest.raises(Invalid, match="Not_A_Name"):
        api.create_job(job("Not_A_Name"))
    cluster.create(
        QUOTAS, {"metadata": {"name": "jobs"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    )
    with pytest.raises(QuotaRejected, match="exceeded quota: jobs"):
        api.create_job(job("x"))


def test_lists_select_by_label_and_come_whole_in_pages(
    api: Api, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_reader, "PAGE", 3)
    monkeypatch.setattr(object_reader, "_LIMITS", (3, 3, 0))
    for number in range(8):
        api.create_job(job(f"job-{number}"))
    cluster.until(lambda: len(cluster.pods()) == 8)
    cluster.requests.clear()
    pods, version = api.list_pods(OURS)
    assert sorted(
        (each.metadata.labels or {})["batch.kubernetes.io/job-name"] for each in pods
    ) == [f"job-{n}" for n in range(8)]
    assert int(version) >= max(int(each.metadata.resource_version) for each in pods)
    assert cluster.requests["list", "pods"].count == 3
    assert len(api.list_jobs(OURS)[0]) == 8
    assert api.list_jobs("gpuqueue.io/owner=them")[0] == []


def test_a_list_outlives_the_history_it_pages_through(
    api: Api, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_reader, "_LIMITS", (3, 3, 0))
    for number in range(5):
        api.create_job(job(f"job-{number}"))
    send = api._transport.send

    def forgetful(asked: str, *args: Any) -> bytes:
        answer = send(asked, *args)
        cluster.faults.compact()
        return answer

    monkeypatch.setattr(api._transport, "send", forgetful)
    assert len(api.list_jobs(OURS)[0]) == 5
    assert 410 in cluster.requests["list", "jobs"].codes


def test_the_events_of_a_job_explain_why_it_has_no_pod(api: Api, cluster: Cluster) -> None:
    cluster.create(QUOTAS, {"metadata": {"name": "pods"}, "spec": {"hard": {"pods": "0"}}})
    api.create_job(job("one"))
    api.create_job(job("two"))
    cluster.until(lambda: cluster.events_of("one"))
    cluster.until(lambda: cluster.events_of("two"))
    events, version = api.list_rejections()
    assert {event.involved_object.name for event in events} == {"one", "two"}
    assert {event.reason for event in events} == {"FailedCreate"}
    assert all("exceeded quota: pods" in (event.message or "") for event in events)
    with api.watch_rejections(version, 60, 10) as watch:
        api.create_job(job("three"))
        # The controller may try the others again meanwhile.
        names = (each.object.involved_object.name for each in watch)
        assert "three" in names


def test_a_look_finds_no_pod_and_needs_the_right_to_list_them(api: Api, cluster: Cluster) -> None:
    api.create_job(job("one"))
    cluster.until(lambda: cluster.pod_of("one"))
    before = cluster.requests["list", "pods"]
    count, sent = before.count, before.bytes_out
    api.look()
    after = cluster.requests["list", "pods"]
    assert after.count == count + 1 and after.bytes_out - sent < 300


def test_a_watch_of_jobs_tells_that_a_pod_is_active(api: Api, cluster: Cluster) -> None:
    with api.watch_jobs(OURS, api.list_jobs(OURS)[1], 60, 10) as watch:
        api.create_job(job("one"))
        seen = next(each for each in watch if each.object.status.active)
    assert seen.object.metadata.name == "one"


def test_a_log_is_fetched_from_its_end_and_followed_to_it(api: Api, cluster: Cluster) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; echo the end"
    api.create_job(job("logs", seconds=None, command=["sh", "-c", script]))
    pod = cluster.until(lambda: cluster.pod_of("logs"))["metadata"]["name"]
    cluster.until(lambda: "the end" in cluster.log(pod))
    # The API server serves no log while the status says that the container is being created.
    cluster.until(lambda: (cluster.pod(pod) or {})["status"]["phase"] != "Pending")
    assert tail(api, pod, 30) == "line 298\nline 299\nthe end\n"
    assert "".join(api.follow_log(pod, 2)) == "line 299\nthe end\n"
    expected = "".join(f"line {n}\n" for n in range(300)) + "the end\n"
    assert b"".join(api.whole_log(pod)).decode() == expected
    assert tail(api, "no-such-pod", 30) == ""


def test_doctor_sees_what_there_is(api: Api, cluster: Cluster) -> None:
    cluster.secret("gpuqueue", {"CELERY_BROKER_URL": "redis://here"})
    assert api.server_version().startswith("v1.")
    found = api.get_namespace("gpus")
    assert found is not None
    assert found.status.phase == "Active"
    assert api.get_namespace("no-such") is None
    assert api.get_secret_keys("gpuqueue") == {"CELERY_BROKER_URL"}
    assert api.get_secret_keys("no-such") is None
    (node,) = api.list_nodes()
    assert (node.status.allocatable["nvidia.com/gpu"], node.ready) == ("8", True)
    assert api.list_nodes("no=such") == []


def test_what_we_may_is_what_we_can(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    # What system:basic-user gives everybody.
    basic = {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews"],
        "verbs": ["create"],
    }
    token = cluster.user("system:serviceaccount:gpus:dispatcher", rules, ["gpus"], [basic])
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig_for(token)))
    api = Api(ClusterSettings())
    assert api.can("create", "jobs", group="batch")[0]
    assert api.can("get", "pods", subresource="log")[0]
    assert not api.can("get", "pods")[0]
    assert not api.can("create", "jobs", group="batch", namespace="default")[0]
    assert not api.can("list", "nodes", namespace="")[0]
    api.create_job(job("one"))
    for refused in (
        lambda: api.list_pods(OURS),
        lambda: api.get_job("one"),
        lambda: api.list_nodes(),
        lambda: api.delete_job("one"),
    ):
        with pytest.raises(Forbidden) as raised:
            refused()
        assert raised.value.refused


# -- the table, through faults ---------------------------------------------------------------------


def _nothing(cluster: Cluster) -> None:
    pass


def _closed(cluster: Cluster) -> None:
    cluster.faults.drop_watches()


def _cut(cluster: Cluster) -> None:
    cluster.faults.drop_watches(cut=True)


def _silent(cluster: Cluster) -> None:
    cluster.faults.silence_watches()
    cluster.faults.silence_watches(on=False)


def _expired(cluster: Cluster) -> None:
    cluster.faults.expire_watches(2)
    cluster.faults.drop_watches()


def _history_lost(cluster: Cluster) -> None:
    cluster.faults.compact()
    cluster.faults.drop_watches()


def _server_away(cluster: Cluster) -> None:
    cluster.faults.front_down()
    cluster.faults.front_up()


def _server_overloaded(cluster: Cluster) -> None:
    cluster.faults.fail(429, path="/pods", times=2, retry_after=1)
    cluster.faults.drop_watches()


def _requests_cut(cluster: Cluster) -> None:
    cluster.faults.cut(after=True, path="/pods", times=3)
    cluster.faults.drop_watches(cut=True)


def _requests_hang(cluster: Cluster) -> None:
    cluster.faults.hang(path="/pods")
    cluster.faults.drop_watches()


FAULTS = [
    _nothing,
    _closed,
    _cut,
    _silent,
    _expired,
    _history_lost,
    _server_away,
    _server_overloaded,
    _requests_cut,
    _requests_hang,
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__.strip("_") for fault in FAULTS])
def test_every_end_is_reported_through_every_fault_of_the_watch(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """Of pods that end, are deleted, and are made while it happens."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    settings = ClusterSettings(api_timeout=0.5, watch_silence_seconds=1)
    api, ended = Api(settings), set[str]()
    pods = Pods(
        api,
        OURS,
        lambda entry, kind: ended.add(entry.job) if entry.status.end else None,
        settings,
        Sight(api.look),
    )
    for name in ("ends", "deleted", "stays"):
        api.create_job(job(name))
    pods.start()
    try:
        until(
            lambda: sum(entry.status.phase is Phase.RUNNING for entry in pods.snapshot()) == 3, 10
        )
        fault(cluster)
        cluster.faults.oom_kill(pod_name(cluster, "ends"))
        cluster.faults.force_delete(pod_name(cluster, "deleted"))
        until(lambda: made(api, "new"))
        until(lambda: ended >= {"ends", "deleted"})
        until(lambda: table(pods) == truth(cluster))
        assert "stays" not in ended
    finally:
        pods.stop()


def made(api: Api, name: str) -> bool:
    try:
        api.create_job(job(name))
    except AlreadyExists:
        return True
    except ApiError as exc:
        assert exc.passing
        return False
    return True


def table(pods: Pods) -> dict[str, str]:
    return {
        entry.pod.metadata.uid: entry.pod.metadata.resource_version for entry in pods.snapshot()
    }


def pod_name(cluster: Cluster, job: str) -> str:
    pod = cluster.pod_of(job)
    assert pod is not None
    return str(pod["metadata"]["name"])


def truth(cluster: Cluster) -> dict[str, str]:
    return {pod["metadata"]["uid"]: pod["metadata"]["resourceVersion"] for pod in cluster.pods()}


def test_many_jobs_cost_one_list_and_one_watch(api: Api, cluster: Cluster) -> None:
    pods = Pods(api, OURS, lambda entry, kind: None, ClusterSettings(), Sight(api.look))
    pods.start()
    try:
        assert pods.wait_synced(5)
        for number in range(20):
            api.create_job(job(f"job-{number}", seconds="0"))
        until(lambda: sum(entry.status.end is not None for entry in pods.snapshot()) == 20)
    finally:
        pods.stop()
    assert cluster.requests["list", "pods"].count == 1
    assert cluster.requests["watch", "pods"].count == 1
    assert cluster.requests["create", "jobs"].count == 20
    assert cluster.requests.count == 22
