"""The list of rights is exact: each request succeeds with all rights, and fails without its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator

import pytest

from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, DOCTOR, OPERATOR, Right
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.doubles.kubernetes import Cluster, Image
from tests.doubles.kubernetes.objects.kinds import JOBS

ALL = (*DISPATCHER, *DOCTOR, *OPERATOR)
#: The rights of every authenticated user (system:basic-user). /version needs no right.
BASIC = {
    "apiGroups": ["authorization.k8s.io"],
    "resources": ["selfsubjectaccessreviews"],
    "verbs": ["create"],
}
SELECTOR = "app.kubernetes.io/managed-by=gpuqueue"


def job(name: str) -> dict[str, object]:
    """Return a Job whose container ends at once."""
    container = {"name": "executor", "image": "shop:1", "command": ["run"]}
    meta = {"annotations": {"double.gpuqueue.io/seconds": "0"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "metadata": meta,
                "spec": {"restartPolicy": "Never", "containers": [container]},
            }
        },
    }


#: Request → the right that it needs ("": none of our list).
CALLS: dict[str, tuple[str, Callable[[Api, str], object]]] = {
    "create_job": (
        "create jobs.batch",
        lambda api, pod: api.create_job(job("other"), dry_run=True),
    ),
    "get_job": ("get jobs.batch", lambda api, pod: api.get_job("one")),
    "list_jobs": ("list jobs.batch", lambda api, pod: api.list_jobs(SELECTOR)),
    "delete_job": ("delete jobs.batch", lambda api, pod: api.delete_job("unknown")),
    "watch_jobs": ("watch jobs.batch", lambda api, pod: api.watch_jobs(SELECTOR, "", 1, 1).close()),
    "list_rejections": ("list events", lambda api, pod: api.list_rejections()),
    "watch_rejections": ("watch events", lambda api, pod: api.watch_rejections("", 1, 1).close()),
    "look": ("list pods", lambda api, pod: api.look()),
    "pod_events": ("list events", lambda api, pod: api.pod_events("one")),
    "list_pods": ("list pods", lambda api, pod: api.list_pods(SELECTOR)),
    "watch_pods": ("watch pods", lambda api, pod: api.watch_pods(SELECTOR, "", 1, 1).close()),
    "pod_log": ("get pods/log", lambda api, pod: api.pod_log(pod, 10, 100)),
    "follow_log": ("get pods/log", lambda api, pod: next(api.follow_log(pod, 0), "")),
    "whole_log": ("get pods/log", lambda api, pod: list(api.whole_log(pod))),
    "get_namespace": ("get namespaces", lambda api, pod: api.get_namespace(api.namespace)),
    "get_secret_keys": ("get secrets", lambda api, pod: api.get_secret_keys("gpuqueue")),
    "list_quotas": ("list resourcequotas", lambda api, pod: api.list_quotas()),
    "list_limit_ranges": ("list limitranges", lambda api, pod: api.list_limit_ranges()),
    "list_nodes": ("list nodes", lambda api, pod: api.list_nodes()),
    "get_node": ("get nodes", lambda api, pod: api.get_node("node-a")),
    "can": ("", lambda api, pod: api.can("create", "jobs", "batch")),
    "server_version": ("", lambda api, pod: api.server_version()),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, pace=0.01, images={"shop:1": Image()}, namespace="gpus") as made:
        yield made


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> str:
    """Return the name of an ended pod, so that following its log ends too."""
    cluster.create(JOBS, job("one"))
    found = cluster.until(
        lambda: (one := cluster.pod_of("one")) and one["status"].get("phase") == "Succeeded" and one
    )
    return str(found["metadata"]["name"])


def rules(rights: Iterable[Right]) -> list[dict[str, list[str]]]:
    return [
        {
            "apiGroups": [right.group],
            "resources": [right.resource + (f"/{right.subresource}" if right.subresource else "")],
            "verbs": [right.verb],
        }
        for right in rights
    ]


def refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, pod: str, name: str, rights: Iterable[Right]
) -> set[str]:
    """Return the requests that are forbidden with these rights."""
    rights = list(rights)
    inside, outside = (
        [each for each in rights if each.namespaced],
        [each for each in rights if not each.namespaced],
    )
    token = cluster.user(name, rules(inside), cluster_rules=[BASIC, *rules(outside)])
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig_for(token)))
    api = Api(ClusterSettings())
    found = set()
    for request, (_, call) in CALLS.items():
        try:
            call(api, pod)
        except Forbidden:
            found.add(request)
    api.close()
    return found


def test_table_covers_every_request() -> None:
    others = {"within", "server_time"}  # they send none
    assert set(CALLS) == {
        name
        for name, _ in inspect.getmembers(Requests, inspect.isfunction)
        if not name.startswith("_") and name not in others
    }


def test_every_request_succeeds_with_all_rights(
    cluster: Cluster, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(cluster, monkeypatch, pod, "all", ALL) == set()


def test_rights_of_dispatcher_exclude_only_requests_of_doctor(
    cluster: Cluster, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(cluster, monkeypatch, pod, "plain", DISPATCHER) == {
        "get_namespace",
        "get_secret_keys",
        "list_quotas",
        "list_limit_ranges",
        "list_nodes",
        "get_node",
    }


@pytest.mark.parametrize("right", ALL, ids=str)
def test_request_without_its_right_is_forbidden(
    right: Right, cluster: Cluster, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing = {name for name, (needed, _) in CALLS.items() if needed == str(right)}
    assert needing
    found = refused(
        cluster,
        monkeypatch,
        pod,
        f"no-{ALL.index(right)}",
        (each for each in ALL if each is not right),
    )
    assert found == needing
