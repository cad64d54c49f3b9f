"""What the double answers beyond the recordings: lists, watches, selectors, rights, refusals, and
what befalls requests.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.recorder import Client
from tests.contract.scenarios import IMAGES, LABELS, job
from tests.doubles.kubernetes import Cluster
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, PRIORITY_CLASSES

JOBS_PATH, PODS_PATH = "/apis/batch/v1/namespaces/default/jobs", "/api/v1/namespaces/default/pods"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster in which nothing runs."""
    with Cluster(tmp_path, images=IMAGES, processes=False, bookmarks=0.2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Client:
    """A client that may do everything."""
    return Client(cluster)


def labelled(name: str, **labels: str) -> dict[str, Any]:
    """A Job with labels."""
    body = job(name)
    body["metadata"]["labels"] = {**LABELS, **labels}
    return body


def names(answer: Any) -> list[str]:
    """Of the items of a list."""
    return [item["metadata"]["name"] for item in answer["items"]]


# -- lists and selectors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("team=vision", ["one"]),
        ("team==vision", ["one"]),
        ("team!=vision", ["three", "two"]),
        ("team in (vision,speech)", ["one", "two"]),
        ("team notin (vision)", ["three", "two"]),
        ("team", ["one", "two"]),
        ("!team", ["three"]),
        ("team=vision,app.kubernetes.io/name=gpu-executor", ["one"]),
        ("team=vision,app.kubernetes.io/name=other", []),
        ("", ["one", "three", "two"]),
    ],
)
def test_label_selectors_select(
    cluster: Cluster, client: Client, selector: str, found: list[str]
) -> None:
    for body in (labelled("one", team="vision"), labelled("two", team="speech"), labelled("three")):
        cluster.create(JOBS, body)
    query = selector.replace(" ", "%20").replace("!", "%21").replace("=", "%3D")
    _, answer, _ = client.ask("GET", f"{JOBS_PATH}?labelSelector={query}")
    assert names(answer) == found


def test_a_field_selector_of_an_unknown_field_is_refused(client: Client) -> None:
    status, answer, _ = client.ask("GET", f"{PODS_PATH}?fieldSelector=spec.colour%3Dred")
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert "field label not supported: spec.colour" in answer["message"]


def test_pods_are_selected_by_node_and_by_phase(cluster: Cluster, client: Client) -> None:
    cluster.create(JOBS, job("runs"))
    cluster.create(JOBS, job("waits", res={"nvidia.com/gpu": "64"}))
    cluster.until(lambda: any(pod["status"].get("phase") == "Running" for pod in cluster.pods()))
    for field, prefix in (
        ("spec.nodeName%3Dnode-a", "runs"),
        ("status.phase%3DPending", "waits"),
        ("spec.nodeName%3D", "waits"),
    ):
        _, answer, _ = client.ask("GET", f"{PODS_PATH}?fieldSelector={field}")
        assert [name.split("-")[0] for name in names(answer)] == [prefix]


def test_a_list_comes_in_pages(cluster: Cluster, client: Client) -> None:
    for number in range(5):
        cluster.create(JOBS, job(f"job-{number}"))
    _, first, _ = client.ask("GET", f"{JOBS_PATH}?limit=2")
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["job-0", "job-1"], 3)
    _, rest, _ = client.ask("GET", f"{JOBS_PATH}?limit=10&continue={first['metadata']['continue']}")
    assert (names(rest), "continue" in rest["metadata"]) == (["job-2", "job-3", "job-4"], False)
    cluster.faults.compact()
    status, answer, _ = client.ask(
        "GET", f"{JOBS_PATH}?limit=2&continue={first['metadata']['continue']}"
    )
    assert (status, answer["reason"]) == (410, "Expired")


def test_only_metadata_is_listed_for_who_wants_no_more(cluster: Cluster, client: Client) -> None:
    cluster.create(JOBS, job())
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    _, answer, _ = client.ask("GET", JOBS_PATH, accept=accept)
    assert (answer["kind"], answer["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert [set(item) for item in answer["items"]] == [{"metadata"}]


# -- watches ---------------------------------------------------------------------------------------


def test_an_object_that_leaves_the_selection_is_deleted_for_its_watcher(
    cluster: Cluster, client: Client
) -> None:
    cluster.faults.stall("jobs")
    cluster.create(JOBS, labelled("one", team="vision"))
    lines = client.lines(f"{JOBS_PATH}?watch=true&labelSelector=team%3Dvision&timeoutSeconds=20")
    assert next(lines)["type"] == "ADDED"
    change = {"metadata": {"labels": {"team": "speech"}}}
    client.ask("PATCH", f"{JOBS_PATH}/one", change, content="application/merge-patch+json")
    left = next(lines)
    assert (left["type"], left["object"]["metadata"]["labels"]["team"]) == ("DELETED", "speech")
    change = {"metadata": {"labels": {"team": "vision"}}}
    client.ask("PATCH", f"{JOBS_PATH}/one", change, content="application/merge-patch+json")
    assert next(lines)["type"] == "ADDED"
    lines.close()


def test_a_watch_goes_on_where_a_list_ended(cluster: Cluster, client: Client) -> None:
    cluster.faults.stall("jobs")
    cluster.create(JOBS, job("before"))
    _, listed, _ = client.ask("GET", JOBS_PATH)
    cluster.create(JOBS, job("after"))
    lines = client.lines(
        f"{JOBS_PATH}?watch=true&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds=20"
    )
    assert next(lines)["object"]["metadata"]["name"] == "after"
    lines.close()


def test_bookmarks_come_to_who_allows_them(cluster: Cluster, client: Client) -> None:
    cluster.create(JOBS, labelled("other"))
    lines = client.lines(
        f"{PODS_PATH}?watch=true&allowWatchBookmarks=true&labelSelector=team%3Dnone&timeoutSeconds=20"
    )
    mark = next(lines)
    assert (mark["type"], mark["object"]["kind"]) == ("BOOKMARK", "Pod")
    assert int(mark["object"]["metadata"]["resourceVersion"]) > 1
    lines.close()


def test_a_watch_ends_in_order_when_its_time_is_over(client: Client) -> None:
    began = time.monotonic()
    assert list(client.lines(f"{PODS_PATH}?watch=true&timeoutSeconds=1")) == []
    assert 0.9 < time.monotonic() - began < 10


def test_a_version_that_is_still_to_come_is_refused(client: Client) -> None:
    status, answer, _ = client.ask("GET", f"{PODS_PATH}?watch=true&resourceVersion=999999")
    assert (status, answer["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")


def test_no_change_falls_between_a_list_and_its_watch(cluster: Cluster, client: Client) -> None:
    """While Jobs are made, every client that lists and watches ends up knowing all of them."""
    made = 60

    def make() -> None:
        for number in range(made):
            cluster.create(JOBS, job(f"job-{number}"))

    maker = threading.Thread(target=make)
    cluster.faults.stall("jobs")
    maker.start()
    for _ in range(5):
        _, listed, _ = client.ask("GET", JOBS_PATH)
        known = set(names(listed))
        lines = client.lines(
            f"{JOBS_PATH}?watch=true&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds=20"
        )
        while len(known) < made:
            known.add(next(lines)["object"]["metadata"]["name"])
        lines.close()
    maker.join()
    assert len(known) == made


# -- deletion --------------------------------------------------------------------------------------


def test_a_job_deleted_without_a_policy_leaves_its_pod_behind_and_warns(
    cluster: Cluster, client: Client
) -> None:
    cluster.create(JOBS, job())
    cluster.until(lambda: cluster.pod_of("gpu-job"))
    status, _, headers = client.ask("DELETE", f"{JOBS_PATH}/gpu-job")
    assert status == 200
    assert headers["warning"].startswith('299 - "child pods are preserved by default')
    cluster.until(lambda: not cluster.jobs())
    left = cluster.until(
        lambda: [pod for pod in cluster.pods() if "ownerReferences" not in pod["metadata"]]
    )
    cluster.until(
        lambda: (
            "finalizers" not in (cluster.pod(left[0]["metadata"]["name"]) or left[0])["metadata"]
        )
    )


def test_a_deletion_can_name_the_uid_that_it_means(cluster: Cluster, client: Client) -> None:
    made = cluster.create(JOBS, job())
    options = {"propagationPolicy": "Background", "preconditions": {"uid": "another"}}
    status, answer, _ = client.ask("DELETE", f"{JOBS_PATH}/gpu-job", options)
    assert (status, answer["reason"]) == (409, "Conflict")
    options["preconditions"] = {"uid": made["metadata"]["uid"]}
    status, answer, _ = client.ask("DELETE", f"{JOBS_PATH}/gpu-job", options)
    assert (status, answer["status"], answer["details"]["uid"]) == (
        200,
        "Success",
        made["metadata"]["uid"],
    )


def test_a_dry_run_checks_and_makes_nothing(cluster: Cluster, client: Client) -> None:
    status, answer, _ = client.ask("POST", f"{JOBS_PATH}?dryRun=All", job())
    assert (status, answer["spec"]["completionMode"]) == (201, "NonIndexed")
    status, _, _ = client.ask("POST", f"{JOBS_PATH}?dryRun=All", job("Not_A_Name"))
    assert status == 422
    assert cluster.jobs() == []


def test_a_namespace_goes_with_all_that_is_in_it(cluster: Cluster, client: Client) -> None:
    cluster.add_namespace("other")
    cluster.create(JOBS, job(), "other")
    cluster.until(lambda: cluster.pods("other"))
    client.ask("DELETE", "/api/v1/namespaces/other")
    status, answer, _ = client.ask("POST", "/apis/batch/v1/namespaces/other/jobs", job("late"))
    assert (status, answer["reason"]) in ((403, "Forbidden"), (404, "NotFound"))
    cluster.until(lambda: client.ask("GET", "/api/v1/namespaces/other")[0] == 404)
    assert (cluster.pods("other"), cluster.jobs("other")) == ([], [])


# -- what is refused -------------------------------------------------------------------------------


def spoiled(path: str, value: Any) -> dict[str, Any]:
    """A Job with something else at a path of the pod's spec."""
    body = job()
    at: Any = body["spec"]["template"]["spec"]
    *steps, last = path.split("/")
    for step in steps:
        at = at[int(step)] if step.isdigit() else at.setdefault(step, {})
    at[int(last) if last.isdigit() else last] = value
    return body


def node_field(operator: str, values: list[str], key: str = "metadata.name") -> dict[str, Any]:
    """A Job that requires something of the fields of its node."""
    need = {"key": key, "operator": operator, "values": values}
    terms = [{"matchFields": [need]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return spoiled("affinity/nodeAffinity", required)


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        (
            spoiled("containers/0/name", "Upper"),
            "containers[0].name",
            "a lowercase RFC 1123 label must consist of",
        ),
        (spoiled("containers/0/image", ""), "containers[0].image", "Required value"),
        (
            spoiled("containers/0/env", [{"name": "A=B", "value": "1"}]),
            "containers[0].env[0].name",
            "printable ASCII",
        ),
        (
            spoiled("containers/0/imagePullPolicy", "Sometimes"),
            "imagePullPolicy",
            'supported values: "Always", "IfNotPresent", "Never"',
        ),
        (
            spoiled("containers/0/resources", {"limits": {"gpus": "1"}}),
            "limits[gpus]",
            "fully qualified",
        ),
        (
            spoiled("containers/0/resources", {"requests": {"a.b/c": "1"}}),
            "resources.limits",
            "non overcommitable",
        ),
        (
            spoiled("containers/0/resources", {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            "requests",
            "less than or equal to cpu limit",
        ),
        (
            spoiled("terminationGracePeriodSeconds", -1),
            "terminationGracePeriodSeconds",
            "greater than or equal to 0",
        ),
        (
            spoiled("activeDeadlineSeconds", 0),
            "activeDeadlineSeconds",
            "must be between 1 and 2147483647, inclusive",
        ),
        (
            spoiled("nodeSelector", {"a": "not valid"}),
            "nodeSelector",
            "a valid label must be an empty string or consist of",
        ),
        (node_field("In", ["a", "b"]), "matchFields[0].values", "must be only one value"),
        (node_field("Exists", []), "matchFields[0].operator", "not a valid selector operator"),
        (
            node_field("NotIn", ["a"], "spec.nodeName"),
            "matchFields[0].key",
            "not a valid field selector key",
        ),
        (
            spoiled("tolerations", [{"operator": "Exists", "tolerationSeconds": 1}]),
            "tolerations[0].effect",
            "must be 'NoExecute'",
        ),
    ],
)
def test_a_bad_pod_template_is_refused_with_field_and_reason(
    client: Client, body: Any, field: str, told: str
) -> None:
    status, answer, _ = client.ask("POST", JOBS_PATH, body)
    assert (status, answer["reason"], answer["details"]["kind"]) == (422, "Invalid", "Job")
    causes = [cause for cause in answer["details"]["causes"] if cause["field"].endswith(field)]
    assert causes and told in causes[0]["message"]
    assert answer["message"].startswith('Job.batch "gpu-job" is invalid: ')


@pytest.mark.parametrize("operator", ["In", "NotIn"])
def test_a_pod_can_be_sent_to_a_node_or_away_from_it_by_name(
    cluster: Cluster, operator: str
) -> None:
    cluster.create(JOBS, node_field(operator, ["node-a"]))
    pod = cluster.until(
        lambda: (pod := cluster.pod_of("gpu-job")) and pod["status"].get("conditions") and pod
    )
    assert pod["spec"].get("nodeName") == ("node-a" if operator == "In" else None)


@pytest.mark.parametrize(
    ("metadata", "field", "told"),
    [
        ({"labels": {"key": "x" * 64}}, "metadata.labels", "must be no more than 63 bytes"),
        (
            {"labels": {"a/b/c": "x"}},
            "metadata.labels",
            "prefix part a lowercase RFC 1123 subdomain",
        ),
        ({"labels": {"key": "-x"}}, "metadata.labels", "a valid label must be"),
        (
            {"annotations": {"big": "x" * 262_145}},
            "metadata.annotations",
            "may not be more than 262144 bytes",
        ),
        ({"name": "x" * 254}, "metadata.name", "must be no more than 253 bytes"),
    ],
)
def test_bad_metadata_is_refused(
    client: Client, metadata: dict[str, Any], field: str, told: str
) -> None:
    body = job()
    body["metadata"] |= metadata
    status, answer, _ = client.ask("POST", JOBS_PATH, body)
    causes = [cause for cause in answer["details"]["causes"] if cause["field"] == field]
    assert status == 422 and any(told in cause["message"] for cause in causes)


def test_the_name_of_a_job_must_fit_into_a_label(client: Client) -> None:
    assert client.ask("POST", JOBS_PATH, job("x" * 63))[0] == 201
    status, answer, _ = client.ask("POST", JOBS_PATH, job("x" * 64))
    assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.template.labels")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            "containers/0/env",
            [{"name": "N", "value": 1}],
            "cannot unmarshal number into Go struct field",
        ),
        ("terminationGracePeriodSeconds", "30", "cannot unmarshal string into Go struct field"),
        (
            "containers/0/resources",
            {"limits": {"cpu": "lots"}},
            "quantities must match the regular expression",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_before_anything_else(
    client: Client, path: str, value: Any, told: str
) -> None:
    status, answer, _ = client.ask("POST", JOBS_PATH, spoiled(path, value))
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert (
        answer["message"].startswith('Job in version "v1" cannot be handled as a Job: ')
        and told in answer["message"]
    )


def test_unknown_fields_are_dropped_with_a_warning_unless_strict(
    cluster: Cluster, client: Client
) -> None:
    status, answer, headers = client.ask("POST", JOBS_PATH, spoiled("containers/0/colour", "red"))
    assert status == 201 and "colour" not in answer["spec"]["template"]["spec"]["containers"][0]
    assert (
        headers["warning"] == '299 - "unknown field \\"spec.template.spec.containers[0].colour\\""'
    )


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [("template", {"metadata": {"labels": {"a": "b"}}}, 422), ("suspend", True, 200)],
)
def test_a_job_can_be_suspended_and_its_template_cannot_be_changed(
    client: Client, field: str, value: Any, status: int
) -> None:
    client.ask("POST", JOBS_PATH, job())
    answer = client.ask(
        "PATCH",
        f"{JOBS_PATH}/gpu-job",
        {"spec": {field: value}},
        content="application/merge-patch+json",
    )
    assert answer[0] == status


RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def test_a_restricted_namespace_warns_of_a_job_and_refuses_its_pod(
    cluster: Cluster, client: Client
) -> None:
    cluster.add_namespace("safe", RESTRICTED)
    _, _, headers = client.ask("POST", "/apis/batch/v1/namespaces/safe/jobs", job())
    assert 'would violate PodSecurity \\"restricted:latest\\"' in headers["warning"]
    told = cluster.until(
        lambda: [
            event
            for event in cluster.events_of("gpu-job", "safe")
            if event["reason"] == "FailedCreate"
        ]
    )
    for part in (
        "allowPrivilegeEscalation != false",
        "unrestricted capabilities",
        "runAsNonRoot != true",
        "seccompProfile",
    ):
        assert part in told[0]["message"]
    assert cluster.pods("safe") == []


def test_a_restricted_namespace_takes_a_pod_that_asks_for_nothing(
    cluster: Cluster, client: Client
) -> None:
    cluster.add_namespace("safe", RESTRICTED)
    modest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
    _, _, headers = client.ask(
        "POST",
        "/apis/batch/v1/namespaces/safe/jobs",
        job(pod=pod, container={"securityContext": modest}),
    )
    assert "warning" not in headers
    cluster.until(lambda: cluster.pods("safe"))


def test_a_refused_pod_is_made_once_there_is_room_in_the_quota(
    cluster: Cluster, client: Client
) -> None:
    quotas = "/api/v1/namespaces/default/resourcequotas"
    client.ask(
        "POST",
        quotas,
        {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}},
    )
    cluster.create(JOBS, job("first"))
    cluster.until(lambda: cluster.pod_of("first"))
    cluster.create(JOBS, job("second"))
    cluster.until(lambda: cluster.events_of("second"))
    used = cluster.until(
        lambda: client.ask("GET", f"{quotas}/gpus")[1].get("status", {}).get("used")
    )
    assert (used, cluster.pod_of("second")) == ({"requests.nvidia.com/gpu": "1"}, None)
    client.ask("DELETE", f"{JOBS_PATH}/first?propagationPolicy=Background")
    cluster.until(lambda: cluster.pod_of("second"))


# -- rights ----------------------------------------------------------------------------------------

RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "list"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
]


def test_rights_hold_for_verbs_resources_namespaces_and_subresources(cluster: Cluster) -> None:
    nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
    user = Client(
        cluster, cluster.user("system:serviceaccount:default:me", RULES, ["default"], [nodes])
    )
    assert user.ask("POST", JOBS_PATH, job())[0] == 201
    assert user.ask("GET", JOBS_PATH)[0] == 200
    assert user.ask("GET", "/api/v1/nodes")[0] == 200
    pod = cluster.until(lambda: cluster.pod_of("gpu-job"))["metadata"]["name"]
    assert user.ask("GET", f"{PODS_PATH}/{pod}")[0] == 200
    status, answer, _ = user.ask("GET", f"{PODS_PATH}/{pod}/log")
    assert status == 403
    assert (
        answer["message"]
        == f'pods "{pod}" is forbidden: User "system:serviceaccount:default:me" cannot get resource'
        ' "pods/log" in API group "" in the namespace "default"'
    )
    for method, path in (
        ("DELETE", f"{JOBS_PATH}/gpu-job"),
        ("GET", f"{JOBS_PATH}?watch=true"),
        ("GET", "/apis/batch/v1/jobs"),
    ):
        assert user.ask(method, path)[0] == 403
    status, answer, _ = user.ask("GET", "/api/v1/nodes/node-a")
    assert answer["message"].endswith(
        'cannot get resource "nodes" in API group "" at the cluster scope'
    )


def test_reviews_of_access_and_identity_are_answered(cluster: Cluster) -> None:
    user = Client(cluster, cluster.user("user", RULES, ["default"]))
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for verb, namespace, allowed in (
        ("create", "default", True),
        ("delete", "default", False),
        ("create", "other", False),
    ):
        attributes = {"verb": verb, "group": "batch", "resource": "jobs", "namespace": namespace}
        status, answer, _ = user.ask("POST", reviews, {"spec": {"resourceAttributes": attributes}})
        assert (status, answer["status"]["allowed"]) == (201, allowed)
    _, answer, _ = user.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert answer["status"]["userInfo"]["username"] == "user"


def test_a_request_without_a_token_is_anonymous(cluster: Cluster) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", cluster.front.port, timeout=10)
    connection.request("GET", PODS_PATH)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["message"].split('"')[1]) == (
        403,
        "system:anonymous",
    )
    connection.close()


# -- faults of requests ----------------------------------------------------------------------------


def test_requests_fail_as_often_as_configured(cluster: Cluster, client: Client) -> None:
    cluster.faults.fail(429, method="GET", path="/pods", times=2, retry_after=3)
    answers = [client.ask("GET", PODS_PATH) for _ in range(3)]
    assert [status for status, _, _ in answers] == [429, 429, 200]
    assert (answers[0][2]["retry-after"], answers[0][2]["content-type"]) == (
        "3",
        "text/plain; charset=utf-8",
    )
    fault = cluster.faults.fail(503, path="/jobs", times=None)
    assert [client.ask("GET", JOBS_PATH)[1]["reason"] for _ in range(3)] == [
        "ServiceUnavailable"
    ] * 3
    assert fault.count == 3
    cluster.faults.clear()
    assert client.ask("GET", JOBS_PATH)[0] == 200


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_is_cut_before_or_after_the_request_was_carried_out(
    cluster: Cluster, client: Client, after: bool
) -> None:
    cluster.faults.stall("jobs")
    cluster.faults.cut(after=after, method="POST", path="/jobs")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.ask("POST", JOBS_PATH, job())
    assert len(cluster.jobs()) == after
    assert cluster.requests.latest[-1].code == 0


def test_a_hanging_request_is_not_carried_out(cluster: Cluster, client: Client) -> None:
    cluster.faults.hang(method="POST", path="/jobs")
    connection = http.client.HTTPConnection("127.0.0.1", cluster.front.port, timeout=0.3)
    with pytest.raises(TimeoutError):
        connection.request(
            "POST", JOBS_PATH, json.dumps(job()), {"Authorization": f"Bearer {cluster.token}"}
        )
        connection.getresponse()
    connection.close()
    cluster.until(lambda: cluster.requests["create", "jobs"].count)
    assert cluster.jobs() == []


def test_a_door_cuts_off_one_client_alone(cluster: Cluster, client: Client) -> None:
    door = cluster.door()

    def connect(timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", door.port, timeout=timeout)

    def post(connection: http.client.HTTPConnection, name: str) -> None:
        body, headers = job(), {"Authorization": f"Bearer {cluster.token}"}
        body["metadata"]["name"] = name
        connection.request("POST", JOBS_PATH, json.dumps(body), headers)

    open_before, patient = connect(0.3), connect(10)
    post(open_before, "first")
    assert open_before.getresponse().read() and cluster.job("first")
    door.drop()
    for connection in (open_before, connect(0.3)):
        post(connection, "lost")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
    post(patient, "late")
    assert client.ask("GET", JOBS_PATH)[0] == 200, "other clients go on"
    door.let_through()
    assert patient.getresponse().status == 201
    patient.close()
    assert {each["metadata"]["name"] for each in cluster.jobs()} == {"first", "late"}
    door.down()
    with pytest.raises(ConnectionRefusedError):
        post(connect(1), "refused")
    assert client.ask("GET", JOBS_PATH)[0] == 200


def test_watches_can_be_dropped_silenced_or_expired(cluster: Cluster, client: Client) -> None:
    path = f"{JOBS_PATH}?watch=true&allowWatchBookmarks=true&timeoutSeconds=30"
    lines = client.lines(path)
    assert next(lines)["type"] == "BOOKMARK"
    assert cluster.faults.drop_watches() == 1
    assert [line["type"] for line in lines if line["type"] != "BOOKMARK"] == []
    lines = client.lines(path)
    assert next(lines)["type"] == "BOOKMARK"
    cluster.faults.drop_watches(cut=True)
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        list(lines)
    cluster.faults.expire_watches()
    assert [line["object"]["code"] for line in client.lines(path)] == [410]


def test_a_silent_watch_stays_silent_and_new_ones_are_not(cluster: Cluster, client: Client) -> None:
    cluster.faults.silence_watches()
    quiet = client.open("GET", f"{JOBS_PATH}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1")
    stream: Any = quiet.fp  # its socket is private
    stream.raw._sock.settimeout(1.5)
    cluster.create(JOBS, job())
    with pytest.raises(TimeoutError):
        quiet.readline()
    quiet.close()
    quiet.connection.close()  # type: ignore[attr-defined]
    cluster.faults.silence_watches(on=False)
    lines = client.lines(f"{JOBS_PATH}?watch=true&timeoutSeconds=10")
    assert next(lines)["type"] == "ADDED"
    lines.close()


def test_the_front_closes_every_connection_and_returns_on_its_port(
    cluster: Cluster, client: Client
) -> None:
    lines = client.lines(f"{JOBS_PATH}?watch=true&allowWatchBookmarks=true&timeoutSeconds=30")
    assert next(lines)["type"] == "BOOKMARK"
    port = cluster.front.port
    cluster.faults.front_down()
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        list(lines)
    with pytest.raises(ConnectionRefusedError):
        client.ask("GET", JOBS_PATH)
    cluster.create(JOBS, job())
    cluster.faults.front_up()
    assert cluster.front.port == port and client.ask("GET", JOBS_PATH)[0] == 200
    cluster.until(lambda: cluster.pod_of("gpu-job"))


def test_requests_are_counted_with_their_bytes(cluster: Cluster, client: Client) -> None:
    cluster.requests.clear()
    client.ask("POST", JOBS_PATH, job())
    client.ask("GET", f"{JOBS_PATH}/absent")
    created = cluster.requests["create", "jobs"]
    assert (created.count, dict(created.codes)) == (1, {201: 1})
    assert created.bytes_in > len(json.dumps(job())) and created.bytes_out > created.bytes_in
    assert dict(cluster.requests["get", "jobs"].codes) == {404: 1}
    assert cluster.requests.count == 2


def test_latency_makes_every_request_take_longer(cluster: Cluster, client: Client) -> None:
    cluster.faults.latency(0.2)
    began = time.monotonic()
    client.ask("GET", JOBS_PATH)
    assert time.monotonic() - began >= 0.2


def test_discovery_and_health_are_answered(client: Client) -> None:
    assert client.ask("GET", "/version")[1]["gitVersion"].startswith("v1.36")
    assert client.ask("GET", "/readyz")[1] == "ok"
    assert {item["name"] for item in client.ask("GET", "/apis")[1]["groups"]} >= {
        "batch",
        "authorization.k8s.io",
    }
    assert "jobs" in [item["name"] for item in client.ask("GET", "/apis/batch/v1")[1]["resources"]]
    assert client.ask("GET", "/apis/no.such.group/v1/things")[0] == 404
    assert client.ask("PUT", f"{JOBS_PATH}/x", job())[0] == 405


def test_pods_can_be_made_by_hand_and_priorities_are_looked_up(
    cluster: Cluster, client: Client
) -> None:
    cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 7})
    spec = {"containers": [{"name": "c", "image": "lab.local/base:1"}], "priorityClassName": "high"}
    assert (
        client.ask("POST", PODS_PATH, {"metadata": {"name": "bare"}, "spec": spec})[1]["spec"][
            "priority"
        ]
        == 7
    )
    status, answer, _ = client.ask(
        "POST",
        PODS_PATH,
        {"metadata": {"name": "bad"}, "spec": {**spec, "priorityClassName": "no"}},
    )
    assert (status, answer["message"]) == (
        403,
        'pods "bad" is forbidden: no PriorityClass with name no was found',
    )
    assert cluster.create(PODS, {"metadata": {"generateName": "made-"}, "spec": spec})["metadata"][
        "name"
    ].startswith("made-")


def test_a_policy_that_denies_pods_leaves_the_job_without_one(cluster: Cluster) -> None:
    """As recorded of a real server: only an event tells, and the pod comes once it is gone."""
    cluster.faults.policy("pods", "cost-center label is required", "rec")
    cluster.create(JOBS, job("a"))
    [event, *_] = cluster.until(lambda: cluster.events_of("a"))
    assert event["reason"] == "FailedCreate"
    words = (
        "is forbidden: ValidatingAdmissionPolicy 'rec' with binding 'rec' denied request:"
        " cost-center label is required"
    )
    assert words in event["message"]
    cluster.faults.policy("pods", None)
    assert cluster.until(lambda: cluster.pod_of("a"))
