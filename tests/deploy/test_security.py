"""Pods comply with Pod Security "restricted", are read-only and have no unnecessary tokens; network
policies allow only required connections.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from gpuqueue.launchers.kubernetes.manifest.names import (
    ATTEMPT_ROLE,
    CONTAINER_ROLE,
    FINISHER_ROLE,
    MANAGED_BY,
    OWNER,
    labels,
)
from gpuqueue.model.record import Record
from gpuqueue.settings.dispatcher import Settings
from tests.deploy.rendering import EVERYTHING, OVERLAYS, Object, Objects, render

#: The value set whose platform assigns users.
ASSIGNED = "openshift"
#: Value sets with the built-in Redis.
TRIALS = ("trial", ASSIGNED)

EVERY = pytest.mark.parametrize(("source", "name"), EVERYTHING)


@EVERY
def test_every_pod_is_fit_for_pod_security_restricted(source: str, name: str) -> None:
    for workload, template in render(source, name).pods():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, workload
        assert ("runAsUser" in pod["securityContext"]) is (name != ASSIGNED)
        assert pod["securityContext"].get("runAsUser", 1) > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


#: Values → where dispatchers keep whole logs.
LOGS = {"openshift": {"/data/logs"}}


@EVERY
def test_every_pod_writes_only_to_its_tmp_and_its_data_volume(source: str, name: str) -> None:
    for workload, template in render(source, name).pods():
        (container,) = template["spec"]["containers"]
        writable = {
            each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")
        }
        is_dispatcher = "dispatcher" in workload
        own = LOGS[name] if is_dispatcher and name in LOGS else set()
        own = {"/data"} if container["name"] == "redis" else own
        assert writable == {"/tmp"} | own, workload


@EVERY
def test_only_dispatchers_have_a_token(source: str, name: str) -> None:
    found = render(source, name)
    assert all(each["automountServiceAccountToken"] is False for each in found.of("ServiceAccount"))
    for workload, template in found.pods():
        is_dispatcher = (
            template["metadata"]["labels"]["app.kubernetes.io/component"] == "dispatcher"
        )
        assert template["spec"]["automountServiceAccountToken"] is is_dispatcher, workload
        assert template["spec"]["enableServiceLinks"] is False, workload


@EVERY
def test_every_image_is_pinned_by_tag_or_digest(source: str, name: str) -> None:
    for workload, template in render(source, name).pods():
        (container,) = template["spec"]["containers"]
        reference = container["image"].rpartition("/")[2]
        assert re.search(r"@sha256:[0-9a-f]{64}$|:[\w.-]+$", reference), workload
        assert not reference.endswith(":latest")


@EVERY
def test_every_container_asks_for_what_it_needs_and_is_probed(source: str, name: str) -> None:
    for workload, template in render(source, name).pods():
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, workload
        assert "memory" in container["resources"]["limits"]
        assert not any(
            "nvidia.com" in each for kind in container["resources"].values() for each in kind
        )
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@EVERY
def test_probes_spare_a_busy_dispatcher_and_its_grace_period_suffices(
    source: str, name: str
) -> None:
    for _, template in render(source, name).pods():
        (container,) = template["spec"]["containers"]
        if container["name"] != "dispatcher":
            continue
        live = container["livenessProbe"]
        assert live["periodSeconds"] * live["failureThreshold"] >= 120
        assert (live["httpGet"], container["startupProbe"]["httpGet"]) == (
            {"path": "/healthz", "port": "metrics"},
        ) * 2
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
        assert container["ports"] == [{"name": "metrics", "containerPort": 9464, "protocol": "TCP"}]
        assert (
            template["spec"]["terminationGracePeriodSeconds"]
            >= 2 * Settings.model_fields["leave_seconds"].default
        )


@EVERY
def test_dispatchers_are_replaced_one_by_one_and_never_drained_together(
    source: str, name: str
) -> None:
    found = render(source, name)
    budgets = [each["spec"] for each in found.of("PodDisruptionBudget")]
    assert len({str(each["selector"]) for each in budgets}) == len(budgets)
    for each in found.of("Deployment"):
        tags = each["spec"]["template"]["metadata"]["labels"]
        if tags["app.kubernetes.io/component"] == "dispatcher":
            assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
            spread = each["spec"]["template"]["spec"]["topologySpreadConstraints"]
            assert spread[0]["labelSelector"] == each["spec"]["selector"]
            chosen = [budget for budget in budgets if selects(budget["selector"], tags)]
            assert [
                (one["maxUnavailable"], one["unhealthyPodEvictionPolicy"]) for one in chosen
            ] in ([], [(1, "AlwaysAllow")])


@EVERY
def test_selectors_select_the_pods_that_they_are_for_and_no_others(source: str, name: str) -> None:
    found = render(source, name)
    pods = {workload: template["metadata"]["labels"] for workload, template in found.pods()}
    for each in found.of("Deployment", "StatefulSet"):
        chosen = [
            workload for workload, tags in pods.items() if selects(each["spec"]["selector"], tags)
        ]
        assert chosen == [each["metadata"]["name"]]
    for each in found.of("Service"):
        chosen = [
            workload
            for workload, tags in pods.items()
            if selects({"matchLabels": each["spec"]["selector"]}, tags)
        ]
        assert chosen
        components = {pods[workload]["app.kubernetes.io/component"] for workload in chosen}
        assert components == {each["metadata"]["labels"]["app.kubernetes.io/component"]}
        ports = {
            port["name"]
            for workload, template in found.pods()
            if workload in chosen
            for port in of(template)["ports"]
        }
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports


@EVERY
def test_nothing_here_is_taken_for_an_executor(source: str, name: str) -> None:
    for each in render(source, name):
        assert each["metadata"].get("labels", {}).get(MANAGED_BY) != "gpuqueue"
    for workload, template in render(source, name).pods():
        assert MANAGED_BY not in template["metadata"]["labels"], workload


def of(template: Object) -> Any:
    return template["spec"]["containers"][0]


def selects(selector: Object, tags: Object) -> bool:
    """Evaluate a selector as Kubernetes does, for the operators in use here."""
    without = selector.get("matchExpressions", [])
    assert {each["operator"] for each in without} <= {"NotIn"}
    left_out = any(tags.get(each["key"]) in each["values"] for each in without)
    return selector["matchLabels"].items() <= tags.items() and not left_out


# -- secrets ---------------------------------------------------------------------------------------


@EVERY
def test_no_credential_stands_outside_of_secrets(source: str, name: str) -> None:
    found = render(source, name)
    for each in found:
        if each["kind"] != "Secret":
            assert not re.search(
                r"redis(s)?://[^\s\"']*@|not-a-real-password", yaml.safe_dump(each)
            ), each["metadata"]["name"]
    assert bool(found.of("Secret")) == (name in TRIALS)


def test_templates_of_secrets_hold_no_secret_and_are_never_applied() -> None:
    (template,) = OVERLAYS.parent.rglob("*.template.yaml")
    for each in yaml.safe_load_all(template.read_text()):
        for text in each["stringData"].values():
            assert "USER:PASSWORD" in text
    for kustomization in OVERLAYS.parent.rglob("kustomization.yaml"):
        resources = yaml.safe_load(kustomization.read_text())["resources"]
        assert not [each for each in resources if each.endswith(template.name)]


# -- who may talk to whom --------------------------------------------------------------------------

RECORD: Record = {
    "delivery": "d",
    "id": "d",
    "task": "t",
    "gpu_class": "t4",
    "isolation": "shared",
    "attempt": 1,
    "token": "t",
}
#: Pods of Jobs with the labels of dispatchers.
EXECUTOR, FINISHER, CONTAINER = (
    labels("vision", role, RECORD) for role in (ATTEMPT_ROLE, FINISHER_ROLE, CONTAINER_ROLE)
)
JOBS = {"executor": EXECUTOR, "finisher": FINISHER, "container": CONTAINER}


def ports_of(policy: Object) -> list[list[int]]:
    return [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]


def dns(name: str) -> list[int]:
    return [5353, 5353] if name == ASSIGNED else [53, 53]


def policies(found: Objects, tags: Object) -> list[Object]:
    return [
        each["spec"]
        for each in found.of("NetworkPolicy")
        if selects(each["spec"]["podSelector"], tags)
    ]


@EVERY
def test_every_pod_has_one_policy_for_both_directions(source: str, name: str) -> None:
    found = render(source, name)
    for workload, labelled in [
        *((name, pod["metadata"]["labels"]) for name, pod in found.pods()),
        *JOBS.items(),
    ]:
        (policy,) = policies(found, labelled)
        assert policy["policyTypes"] == ["Ingress", "Egress"], workload
    assert len(found.of("NetworkPolicy")) == len({*(tags(each) for _, each in found.pods())}) + 2


def tags(template: Object) -> str:
    return str(template["metadata"]["labels"]["app.kubernetes.io/component"])


@EVERY
def test_executors_accept_no_traffic_and_reach_dns_redis_and_allowed_hosts(
    source: str, name: str
) -> None:
    found = render(source, name)
    (policy,) = policies(found, EXECUTOR)
    assert policies(found, FINISHER) == [policy]
    assert not policy.get("ingress")
    assert ports_of(policy) == [dns(name), [6379], *([[443]] if name == "everything" else [])]
    assert all(rule["to"] for rule in policy["egress"]), "a rule without peers lets out to anywhere"


@EVERY
def test_container_jobs_reach_dns_and_allowed_hosts_but_never_redis(source: str, name: str) -> None:
    found = render(source, name)
    (policy,) = policies(found, CONTAINER)
    assert not policy.get("ingress")
    assert ports_of(policy) == [dns(name), *([[8443]] if name == "everything" else [])]
    assert all(rule["to"] for rule in policy["egress"]), "a rule without peers lets out to anywhere"
    redis = [
        each for each in found.of("NetworkPolicy") if each["metadata"]["name"].endswith("-redis")
    ]
    for each in redis:
        peers = each["spec"]["ingress"][0]["from"]
        assert not any(
            selects(peer["podSelector"], CONTAINER) for peer in peers if peer["podSelector"]
        )


@EVERY
def test_only_dispatchers_reach_the_api_server(source: str, name: str) -> None:
    found = render(source, name)
    for workload, template in found.pods():
        (policy,) = policies(found, template["metadata"]["labels"])
        to_anywhere = [rule for rule in policy.get("egress", ()) if not rule.get("to")]
        is_dispatcher = tags(template) == "dispatcher"
        assert all({port["port"] for port in rule["ports"]} == {443, 6443} for rule in to_anywhere)
        assert bool(to_anywhere) == (is_dispatcher and name != "everything"), workload


@EVERY
def test_every_listening_port_is_open_to_named_peers_alone(source: str, name: str) -> None:
    found = render(source, name)
    for workload, template in found.pods():
        (policy,) = policies(found, template["metadata"]["labels"])
        (rule,) = policy["ingress"]
        assert rule["from"], workload
        assert {port["port"] for port in rule["ports"]} == {
            each["containerPort"] for each in of(template)["ports"]
        }


def test_the_built_in_redis_accepts_executors_and_opens_no_connection() -> None:
    found = render("chart", "trial")
    (policy,) = policies(found, dict(found.pods())["gpu-gpuqueue-redis"]["metadata"]["labels"])
    assert policy["egress"] == []
    peers = policy["ingress"][0]["from"]
    assert any(selects(each["podSelector"], EXECUTOR) for each in peers if each["podSelector"])
    for workload, template in found.pods():
        assert any(
            selects(each["podSelector"], template["metadata"]["labels"])
            for each in peers
            if each["podSelector"]
        ), workload


def test_with_an_owner_other_queues_executors_are_not_meant() -> None:
    found = render("chart", "everything")
    for each in JOBS.values():
        assert policies(found, each)
        assert not policies(found, {**each, OWNER: "another"})
