"""Values by which the chart fits into clusters as others run them: names and labels, security
contexts, identities of a cloud, spreading, egress, more objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuqueue.classes.gpu_class import GpuClass
from tests.deploy.rendering import (
    SETS,
    Object,
    Objects,
    Refused,
    chart,
    chart_set,
    overlay,
    values,
)
from tests.deploy.test_chart import dispatcher, having, notes
from tests.deploy.test_kustomize import BASE
from tests.deploy.test_settings import dispatchers, job, read

HEX = "0123456789abcdef" * 4
#: Problem → the values, and the message about them.
REFUSED: dict[str, tuple[Object, str]] = {
    "a label that the chart sets": (
        having(commonLabels={"app.kubernetes.io/instance": "x"}),
        (
            "commonLabels.app.kubernetes.io/instance=x is a label that the chart or Kubernetes"
            " sets; use another key"
        ),
    ),
    "a label of the queue": (
        having(commonLabels={"gpuqueue.io/owner": "x"}),
        "commonLabels.gpuqueue.io/owner=x is a label that the chart",
    ),
    "a label of Jobs": (having(commonLabels={"job-name": "x"}), "commonLabels.job-name=x"),
    "a label with a space": (
        having(commonLabels={"team": "a b"}),
        "at '/commonLabels/team': 'a b' does not match pattern",
    ),
    "a label with a bad key": (
        having(commonLabels={"a/b/c": "x"}),
        "invalid propertyName 'a/b/c'",
    ),
    "a name with capitals": (having(nameOverride="GPU"), "at '/nameOverride': 'GPU' does not"),
    "an object without a name": (
        having(extraObjects=[{"apiVersion": "v1", "kind": "ConfigMap"}]),
        "extraObjects[0] is no object; set apiVersion, kind and metadata.name",
    ),
    "an object that is a number": (having(extraObjects=[1]), "at '/extraObjects/0': got number"),
    "root": (
        having(podSecurityContext={"runAsUser": 0}),
        "at '/podSecurityContext/runAsUser': minimum: got 0, want 1",
    ),
    "root by another way": (
        having(podSecurityContext={"runAsNonRoot": False}),
        "at '/podSecurityContext/runAsNonRoot': value must be true",
    ),
    "a field of another context": (
        having(podSecurityContext={"capabilities": {}}),
        "at '/podSecurityContext': additional properties 'capabilities' not allowed",
    ),
    "a privileged container": (
        having(containerSecurityContext={"privileged": True}),
        "at '/containerSecurityContext/privileged': value must be false",
    ),
    "capabilities": (
        having(containerSecurityContext={"capabilities": {"drop": []}}),
        "at '/containerSecurityContext/capabilities/drop'",
    ),
    "no profile": (
        having(podSecurityContext={"seccompProfile": {"type": "Unconfined"}}),
        "at '/podSecurityContext/seccompProfile/type'",
    ),
    "annotations of no service account": (
        having(jobs__serviceAccount=False, jobs__serviceAccountAnnotations={"a": "b"}),
        (
            "jobs.serviceAccountAnnotations without jobs.serviceAccount: there is no service"
            " account to annotate; set jobs.serviceAccount, or annotate your own"
        ),
    ),
    "a constraint without a key": (
        having(
            dispatchers=dispatcher(
                topologySpreadConstraints=[{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]
            )
        ),
        "at '/dispatchers/0/topologySpreadConstraints/0': missing property 'topologyKey'",
    ),
    "a constraint with a wrong word": (
        having(
            dispatcherDefaults__topologySpreadConstraints=[
                {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "Never"}
            ]
        ),
        "at '/dispatcherDefaults/topologySpreadConstraints/0/whenUnsatisfiable'",
    ),
    "an egress rule with a wrong word": (
        having(network__executors__egress=[{"peers": []}]),
        "at '/network/executors/egress/0': additional properties 'peers' not allowed",
    ),
    "an egress rule with a port of none": (
        having(network__dispatchers__egress=[{"ports": [{"port": 0}]}]),
        "at '/network/dispatchers/egress/0/ports/0/port'",
    ),
    "a relative address of the docs": (
        having(monitoring={"rules": {"docsUrl": "docs/operate/alerts.md"}}),
        "at '/monitoring/rules/docsUrl': 'docs/operate/alerts.md' does not match pattern",
    ),
    "a digest of jobs that is none": (
        having(jobs__image="shop@sha256:1"),
        "jobs.image=shop@sha256:1 has an invalid digest; use NAME@sha256: and 64 hexadecimal",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_chart_refuses(case: str) -> None:
    given, said = REFUSED[case]
    with pytest.raises(Refused) as refused:
        chart(given)
    assert said in str(refused.value)


# -- names and labels ------------------------------------------------------------------------------


def test_the_name_of_the_chart_is_replaced_in_names_and_selectors() -> None:
    found = chart(having(nameOverride="queue"))
    (deployment,) = found.of("Deployment")
    assert deployment["metadata"]["name"] == "gpu-queue-dispatcher-t4"
    assert deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "queue"
    both = chart(having(nameOverride="queue", fullnameOverride="jobs"))
    (deployment,) = both.of("Deployment")
    assert deployment["metadata"]["name"] == "jobs-dispatcher-t4"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/name"] == "queue"


def test_common_labels_are_on_every_object_and_pod_and_in_no_selector() -> None:
    labels = values("everything")["commonLabels"]
    found = Objects(
        each
        for each in chart_set("everything")
        if each["metadata"]["name"] not in ("gpu-batch", "gpu-gpuqueue-extra")
    )
    assert len(found) > 25
    for each in found:
        assert labels.items() <= each["metadata"]["labels"].items(), each["metadata"]["name"]
    for name, pod in found.pods():
        assert labels.items() <= pod["metadata"]["labels"].items(), name
    text = yaml.safe_dump([each["spec"] for each in found.of("Service", "NetworkPolicy")])
    assert "cost-center" not in text
    assert all(
        "cost-center" not in str(each["spec"]["selector"]) for each in found.of("Deployment")
    )


def test_a_pods_own_label_wins_over_a_common_one() -> None:
    given = having(commonLabels={"team": "all"}, dispatchers=dispatcher(podLabels={"team": "gpu"}))
    ((_, pod),) = chart(given).pods()
    assert pod["metadata"]["labels"]["team"] == "gpu"
    assert len(pod["metadata"]["labels"]) == 5


def test_more_objects_are_created_as_they_are_or_as_templates() -> None:
    found = chart_set("everything")
    # A map with braces, as alerts have them, is no template.
    assert found.one("PriorityClass", "gpu-batch")["description"] == "{{ jobs }} that wait"
    assert found.one("ConfigMap", "gpu-gpuqueue-extra")["data"] == {"release": "gpu"}


# -- security contexts -----------------------------------------------------------------------------


def contexts(pod: Object) -> list[Object]:
    return [pod["securityContext"], *(each["securityContext"] for each in pod["containers"])]


def test_where_the_platform_assigns_ids_no_pod_asks_for_one(tmp_path: Path) -> None:
    found = chart_set("openshift")
    pods = [pod["spec"] for _, pod in found.pods()]
    for _, pod in dispatchers(found):
        _, cluster = read(found, pod, tmp_path)
        pods.append(job(GpuClass("t4", shared_slots=1), cluster)["spec"]["template"]["spec"])
    assert len(pods) == 4
    for each in pods:
        assert each["securityContext"]["runAsNonRoot"] is True
        assert each["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for context in contexts(each):
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()


def test_security_contexts_are_merged_over_the_defaults() -> None:
    given = having(
        podSecurityContext={"runAsUser": 2000, "fsGroupChangePolicy": "OnRootMismatch"},
        containerSecurityContext={"seccompProfile": {"type": "RuntimeDefault"}},
    )
    ((_, pod),) = chart(given).pods()
    assert contexts(pod["spec"]) == [
        {
            "runAsNonRoot": True,
            "runAsUser": 2000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    ]


# -- identities, Secrets and images ----------------------------------------------------------------


def test_every_service_account_can_have_the_identity_of_a_cloud() -> None:
    found = {
        each["metadata"]["name"].removeprefix("gpu-gpuqueue-"): each["metadata"].get("annotations")
        for each in chart_set("everything").of("ServiceAccount")
    }
    given = values("everything")
    assert found == {
        "job-launcher": given["serviceAccount"]["annotations"],
        "executor": given["jobs"]["serviceAccountAnnotations"],
        "flower": given["flower"]["serviceAccountAnnotations"],
    }
    assert all(found.values())


def secrets_of(pod: Object) -> set[str]:
    (container,) = pod["spec"]["containers"]
    return {
        each["valueFrom"]["secretKeyRef"]["name"]
        for each in container["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }


def test_flower_reads_its_own_secret_and_no_other_pod_does() -> None:
    found = {name: secrets_of(pod) for name, pod in chart_set("everything").pods()}
    flower = found.pop("gpu-gpuqueue-flower")
    assert flower == {"redis-flower"}
    dispatchers = {"redis-dispatchers", "log-sink"}
    assert all(each == dispatchers for each in found.values()) and found
    assert "get secret redis-flower" in notes(values("everything"))


@pytest.mark.parametrize("name", ["dev", "production"])
def test_flower_of_the_overlays_reads_its_own_secret_too(name: str) -> None:
    found = {workload: secrets_of(pod) for workload, pod in overlay(name).pods()}
    assert found.pop("gpu-flower") == {"gpuqueue-flower"}
    assert all(each == {"gpuqueue"} for each in found.values()) and found
    template = next(BASE.glob("*.template.yaml")).read_text()
    secrets = {
        each["metadata"]["name"]: each["stringData"] for each in yaml.safe_load_all(template)
    }
    assert "CELERY_BROKER_URL" in secrets["gpuqueue-flower"]


def test_flower_restarts_for_a_new_address_only_if_it_uses_it() -> None:
    def annotations(url: str, own: str) -> Any:
        given = having(
            redis={"url": url, "flowerSecret": own},
            flower={"enabled": True, "auth": {"existingSecret": "a"}},
        )
        return dict(chart(given).pods())["gpu-gpuqueue-flower"]["metadata"].get("annotations")

    assert annotations("redis://a", "") != annotations("redis://b", "")
    assert annotations("redis://a", "own") is annotations("redis://b", "own") is None


def test_a_digest_identifies_an_image_of_any_tag() -> None:
    given = having(
        image={"repository": "registry.example/d", "tag": "latest", "digest": f"sha256:{HEX}"},
        jobs__image=f"registry.example/shop:1@sha256:{HEX}",
    )
    ((_, pod),) = chart(given).pods()
    assert pod["spec"]["containers"][0]["image"] == f"registry.example/d@sha256:{HEX}"


# -- spreading and network -------------------------------------------------------------------------


def test_constraints_count_the_pods_of_their_dispatcher_by_default() -> None:
    found = chart_set("everything").one("Deployment", "gpu-gpuqueue-dispatcher-t4")["spec"]
    zone, node = found["template"]["spec"]["topologySpreadConstraints"]
    assert zone == {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "matchLabelKeys": ["pod-template-hash"],
        "labelSelector": found["selector"],
    }
    assert node["labelSelector"] == {"matchLabels": {"team": "vision"}}
    other = chart_set("everything").one("Deployment", "gpu-gpuqueue-dispatcher-mig")["spec"]
    (spread,) = other["template"]["spec"]["topologySpreadConstraints"]
    assert spread == {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": other["selector"],
    }


@pytest.mark.parametrize("part", ["dispatchers", "executors", "containers", "flower"])
def test_more_egress_is_added_to_the_policy_of_its_pods_alone(part: str) -> None:
    rules = values("everything")["network"][part]["egress"]
    holders = [
        each["metadata"]["name"]
        for each in chart_set("everything").of("NetworkPolicy")
        if any(rule in each["spec"]["egress"] for rule in rules)
    ]
    assert holders == [f"gpu-gpuqueue-{part}"]


@pytest.mark.parametrize("name", SETS)
def test_every_object_has_a_namespace_or_is_no_object_of_the_chart(name: str) -> None:
    for each in chart_set(name):
        wide = ("PriorityClass", "ClusterRole", "ClusterRoleBinding")
        assert each["metadata"].get("namespace") or each["kind"] in wide
