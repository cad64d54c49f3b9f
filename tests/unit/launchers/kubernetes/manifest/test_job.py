"""Manifests of Jobs, compared as whole objects, since absent fields matter too."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import GpuClass, chords_class, mig_class
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.environment import executor_variables, literal
from gpuqueue.launchers.kubernetes.manifest.job import (
    attempt_manifest,
    container_manifest,
    finisher_manifest,
)
from gpuqueue.launchers.kubernetes.manifest.names import finisher_name, job_name, record_of
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate
from gpuqueue.model.celery_redis import NAMES
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings

T4 = GpuClass("t4", shared_slots=8, exclusive_slots=1)
A100 = GpuClass(
    "a100",
    exclusive_slots=2,
    image="registry.example/a100:1",
    node_selector={"nvidia.com/gpu.product": "A100"},
    tolerations=[{"key": "team", "operator": "Exists"}],
    cpu="4",
    host_memory="64Gi",
)
SETTINGS = ClusterSettings(executor_image="registry.example/shop:1")
#: Every field is set.
FULL = ClusterSettings(
    executor_image="registry.example/shop:1",
    image_allow="registry.example/*",
    image_pull_policy="Always",
    executor_command="/opt/venv/bin/python -m gpuqueue.executor",
    secret_name="shop-celery",
    job_ttl_seconds=60,
    node_selector_key="pool",
    node_selector_value="gpu",
    cpu_request="500m",
    memory_request="2Gi",
    memory_limit="4Gi",
    run_as_user=10001,
    image_pull_timeout=300,
)
COMMON = ManifestContext("gpu-jobs", "prod", app="shop.celery:app")
RECORD: Record = {
    "delivery": "a~1",
    "id": "a",
    "task": "shop.train",
    "gpu_class": "t4",
    "isolation": "shared",
    "attempt": 2,
    "token": "secret-token",
    "retries": 1,
}
NAME = job_name("prod", RECORD)
KEPT = (
    '{"attempt":2,"delivery":"a~1","gpu_class":"t4","id":"a","isolation":"shared","owner":"prod","retries":1,'
    '"task":"shop.train","token":"secret-token"}'
)
LABELS = {
    "app.kubernetes.io/name": "gpu-executor",
    "app.kubernetes.io/managed-by": "gpuqueue",
    "gpuqueue.io/owner": "prod",
    "gpuqueue.io/role": "attempt",
    "gpuqueue.io/job": "a",
    "gpuqueue.io/attempt": "2",
    "gpuqueue.io/class": "t4",
    "gpuqueue.io/isolation": "shared",
}
METADATA: dict[str, dict[str, str]] = {
    "labels": LABELS,
    "annotations": {"gpuqueue.io/record": KEPT},
}
NO_MESH_LABELS = {"sidecar.istio.io/inject": "false", "kuma.io/sidecar-injection": "disabled"}
NO_MESH_ANNOTATIONS = {
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
    "consul.hashicorp.com/connect-inject": "false",
}
STAYS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
POD_METADATA = {
    "labels": {**LABELS, **NO_MESH_LABELS},
    "annotations": {"gpuqueue.io/record": KEPT, **STAYS, **NO_MESH_ANNOTATIONS},
}
FROM_THE_CLUSTER = [
    {"name": "GPUQUEUE_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "GPUQUEUE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    {"name": "GPUQUEUE_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
]
FROM_THE_SECRET = [
    {
        "name": name,
        "valueFrom": {"secretKeyRef": {"name": "gpuqueue", "key": name, "optional": optional}},
    }
    for name, optional in (
        ("CELERY_BROKER_URL", False),
        ("CELERY_RESULT_BACKEND", True),
        ("GPUQUEUE_REDIS_URL", True),
        ("GPUQUEUE_BROKER_TRANSPORT_OPTIONS", True),
        ("GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS", True),
    )
]
SHM = {"name": "gpuqueue-shm", "mountPath": "/dev/shm"}


def shm(size: str) -> dict[str, Any]:
    return {"name": "gpuqueue-shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}


POD: dict[str, Any] = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": 10,
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "volumes": [shm("8Gi")],
    "containers": [
        {
            "name": "executor",
            "image": "registry.example/shop:1",
            "command": ["python3", "-m", "gpuqueue.executor"],
            "volumeMounts": [SHM],
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": {
                "requests": {"cpu": "250m", "memory": "1Gi"},
                "limits": {"nvidia.com/gpu": "1"},
            },
            "env": [
                {"name": "GPUQUEUE_APP", "value": "shop.celery:app"},
                {"name": "GPUQUEUE_LAYOUT", "value": "1"},
                {"name": "GPUQUEUE_LOG_LEVEL", "value": "INFO"},
                {"name": "GPUQUEUE_TOMBSTONE_SECONDS", "value": "86400"},
                {"name": "GPUQUEUE_GRACE_SECONDS", "value": "10"},
                {"name": "GPUQUEUE_LOAD_TIMEOUT", "value": "120"},
                {"name": "PYTHONUNBUFFERED", "value": "1"},
                {"name": "GPUQUEUE_JOB_ID", "value": "a"},
                {"name": "GPUQUEUE_DELIVERY", "value": "a~1"},
                {"name": "GPUQUEUE_TASK", "value": "shop.train"},
                {"name": "GPUQUEUE_GPU_CLASS", "value": "t4"},
                {"name": "GPUQUEUE_ISOLATION", "value": "shared"},
                {"name": "GPUQUEUE_RETRIES", "value": "1"},
                {"name": "GPUQUEUE_ATTEMPT", "value": "2"},
                {"name": "GPUQUEUE_TOKEN", "value": "secret-token"},
                {"name": "GPUQUEUE_INSTANCE", "value": f"gpu-jobs/{NAME}"},
                *FROM_THE_CLUSTER,
                *FROM_THE_SECRET,
            ],
        }
    ],
}
JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": NAME, "namespace": "gpu-jobs", **METADATA},
    "spec": {
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": 600 + 86_400,
        "template": {"metadata": POD_METADATA, "spec": POD},
    },
}


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return pod


def container_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(manifest)["containers"]
    return container  # type: ignore[no-any-return]


def env_of(manifest: dict[str, Any]) -> dict[str, str]:
    return {
        each["name"]: each["value"] for each in container_of(manifest)["env"] if "value" in each
    }


def record(**more: Any) -> Record:
    made: Any = {**RECORD, **more}
    return made  # type: ignore[no-any-return]


# -- attempts --------------------------------------------------------------------------------------


def test_job_of_an_attempt_with_default_settings() -> None:
    assert attempt_manifest(RECORD, T4, SETTINGS, COMMON) == JOB


def test_job_of_an_attempt_with_every_setting() -> None:
    full = record(
        gpu_class="a100",
        isolation="exclusive",
        nesting=3,
        tenant="vision",
        name="train",
        time_limit=3600.5,
        image="registry.example/mine:7",
        avoid=["node-7", "node-9"],
        priority=3,
        state="granted",
    )
    common = replace(
        COMMON,
        app=None,
        log_level="DEBUG",
        tombstone_seconds=7200,
        grace_seconds=29.5,
        start_timeout=60,
        load_timeout=300,
        start="spawn",
    )
    name = job_name("prod", full)
    kept = (
        '{"attempt":2,"delivery":"a~1","gpu_class":"a100","id":"a","image":"registry.example/mine:7","isolation":"exclusive",'
        '"name":"train","nesting":3,"owner":"prod","retries":1,"task":"shop.train","tenant":"vision","time_limit":3600.5,'
        '"token":"secret-token"}'
    )
    labels = {
        **LABELS,
        "gpuqueue.io/class": "a100",
        "gpuqueue.io/isolation": "exclusive",
        "gpuqueue.io/tenant": "vision",
    }
    metadata = {"labels": labels, "annotations": {"gpuqueue.io/record": kept}}
    assert attempt_manifest(full, A100, FULL, common) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "gpu-jobs", **metadata},
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": 60 + 86_400,
            "template": {
                "metadata": {
                    "labels": {**labels, **NO_MESH_LABELS},
                    "annotations": {"gpuqueue.io/record": kept, **STAYS, **NO_MESH_ANNOTATIONS},
                },
                "spec": {
                    "restartPolicy": "Never",
                    "activeDeadlineSeconds": 3990,  # 3600.5 + 300 + 60 + 29.5
                    "terminationGracePeriodSeconds": 30,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "nodeSelector": {"pool": "gpu", "nvidia.com/gpu.product": "A100"},
                    "tolerations": [
                        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                        {"key": "team", "operator": "Exists"},
                    ],
                    "affinity": {
                        "nodeAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": [
                                {
                                    "weight": 100,
                                    "preference": {
                                        "matchFields": [
                                            {
                                                "key": "metadata.name",
                                                "operator": "NotIn",
                                                "values": ["node-7"],
                                            },
                                            {
                                                "key": "metadata.name",
                                                "operator": "NotIn",
                                                "values": ["node-9"],
                                            },
                                        ]
                                    },
                                }
                            ]
                        }
                    },
                    "volumes": [shm("8Gi")],
                    "containers": [
                        {
                            "name": "executor",
                            "volumeMounts": [SHM],
                            "image": "registry.example/mine:7",
                            "imagePullPolicy": "Always",
                            "command": ["/opt/venv/bin/python", "-m", "gpuqueue.executor"],
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "resources": {
                                "requests": {"cpu": "4", "memory": "64Gi"},
                                "limits": {"nvidia.com/gpu": "1", "memory": "64Gi"},
                            },
                            "env": [
                                {"name": "GPUQUEUE_LAYOUT", "value": "1"},
                                {"name": "GPUQUEUE_LOG_LEVEL", "value": "DEBUG"},
                                {"name": "GPUQUEUE_TOMBSTONE_SECONDS", "value": "7200"},
                                {"name": "GPUQUEUE_GRACE_SECONDS", "value": "29.5"},
                                {"name": "GPUQUEUE_LOAD_TIMEOUT", "value": "300"},
                                {"name": "GPUQUEUE_START", "value": "spawn"},
                                {"name": "PYTHONUNBUFFERED", "value": "1"},
                                {"name": "GPUQUEUE_JOB_ID", "value": "a"},
                                {"name": "GPUQUEUE_DELIVERY", "value": "a~1"},
                                {"name": "GPUQUEUE_TASK", "value": "shop.train"},
                                {"name": "GPUQUEUE_GPU_CLASS", "value": "a100"},
                                {"name": "GPUQUEUE_ISOLATION", "value": "exclusive"},
                                {"name": "GPUQUEUE_TENANT", "value": "vision"},
                                {"name": "GPUQUEUE_RETRIES", "value": "1"},
                                {"name": "GPUQUEUE_NESTING", "value": "3"},
                                {"name": "GPUQUEUE_TIME_LIMIT", "value": "3600.5"},
                                {"name": "GPUQUEUE_ATTEMPT", "value": "2"},
                                {"name": "GPUQUEUE_TOKEN", "value": "secret-token"},
                                {"name": "GPUQUEUE_INSTANCE", "value": f"gpu-jobs/{name}"},
                                *FROM_THE_CLUSTER,
                                *json.loads(
                                    json.dumps(FROM_THE_SECRET).replace(
                                        '"gpuqueue"', '"shop-celery"'
                                    )
                                ),
                            ],
                        }
                    ],
                },
            },
        },
    }


RESOURCES: dict[str, tuple[GpuClass, ClusterSettings, dict[str, Any]]] = {
    "one GPU, by the resource of its class": (
        GpuClass("t4", "nvidia.com/gpu.shared", shared_slots=8),
        SETTINGS,
        {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"nvidia.com/gpu.shared": "1"}},
    ),
    "one slice of a MIG profile": (
        mig_class("nvidia.com/mig-1g.5gb", 7),
        SETTINGS,
        {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"nvidia.com/mig-1g.5gb": "1"}},
    ),
    "host resources of the settings": (
        T4,
        FULL,
        {
            "requests": {"cpu": "500m", "memory": "2Gi"},
            "limits": {"nvidia.com/gpu": "1", "memory": "4Gi"},
        },
    ),
    "whole GPUs of one node": (
        GpuClass("a100", exclusive_slots=2, gpus=4),
        SETTINGS,
        {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": "4"}},
    ),
    "disk of the node": (
        GpuClass("a100", exclusive_slots=2, ephemeral_storage="20Gi"),
        SETTINGS,
        {
            "requests": {"cpu": "250m", "memory": "1Gi", "ephemeral-storage": "20Gi"},
            "limits": {"nvidia.com/gpu": "1", "ephemeral-storage": "20Gi"},
        },
    ),
    "host resources of the class, which win": (
        A100,
        FULL,
        {
            "requests": {"cpu": "4", "memory": "64Gi"},
            "limits": {"nvidia.com/gpu": "1", "memory": "64Gi"},
        },
    ),
}


@pytest.mark.parametrize(("gpu_class", "settings", "resources"), RESOURCES.values(), ids=RESOURCES)
def test_resources_of_an_attempt(
    gpu_class: GpuClass, settings: ClusterSettings, resources: dict[str, Any]
) -> None:
    assert (
        container_of(attempt_manifest(RECORD, gpu_class, settings, COMMON))["resources"]
        == resources
    )


@pytest.mark.parametrize("make", [attempt_manifest, container_manifest])
def test_a_job_of_several_gpus_asks_for_all_of_them_and_can_be_adopted(make: Any) -> None:
    each = GpuClass("a100", exclusive_slots=8)
    asked = record(
        gpus=4, isolation="exclusive", container={"image": "i"}, image=SETTINGS.executor_image
    )
    made = make(asked, each, SETTINGS, COMMON)
    assert container_of(made)["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    found = record_of(made["metadata"]["annotations"])
    assert found is not None and found["gpus"] == 4


DEADLINES = {
    "time for the pull, the start and the grace": (60.0, 10.0, 1090),
    "a fraction of a second, rounded up": (0.25, 0.0, 1021),
    "at most the maximum of Kubernetes": (1e12, 10.0, 2**31 - 1),
}


@pytest.mark.parametrize(("limit", "grace", "seconds"), DEADLINES.values(), ids=DEADLINES)
def test_deadline_adds_image_pull_start_and_grace_to_the_time_limit(
    limit: float, grace: float, seconds: int
) -> None:
    made = attempt_manifest(
        record(time_limit=limit), T4, SETTINGS, replace(COMMON, grace_seconds=grace)
    )
    assert pod_of(made)["activeDeadlineSeconds"] == seconds


def test_no_user_id_is_asked_for_where_the_platform_assigns_one() -> None:
    settings = ClusterSettings(GPU_RUN_AS_USER="platform", executor_image="shop:1")
    made = attempt_manifest(RECORD, T4, settings, COMMON)
    assert pod_of(made)["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_grace_of_0_becomes_1_second() -> None:
    made = attempt_manifest(RECORD, T4, SETTINGS, replace(COMMON, grace_seconds=0))
    assert pod_of(made)["terminationGracePeriodSeconds"] == 1


def test_node_selector_of_the_class_overrides_the_settings() -> None:
    other = replace(A100, node_selector={"pool": "a100"})
    assert pod_of(attempt_manifest(RECORD, other, FULL, COMMON))["nodeSelector"] == {"pool": "a100"}


def test_a_pod_keeps_away_from_nodes_that_are_set_aside_and_tries_one() -> None:
    def named(operator: str, node: str) -> dict[str, Any]:
        return {"key": "metadata.name", "operator": operator, "values": [node]}

    nodes = record(away=["n1", "n2"], near="n3", avoid=["n1", "n3", "n4"])
    pod = pod_of(attempt_manifest(nodes, T4, SETTINGS, COMMON))
    assert pod["affinity"]["nodeAffinity"] == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [named("NotIn", "n1"), named("NotIn", "n2")]}]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchFields": [named("NotIn", "n4")]}},
            {"weight": 100, "preference": {"matchFields": [named("In", "n3")]}},
        ],
    }


ALL_PODS, SHARED_ONLY, EXCLUSIVE_ONLY = ["shared", "exclusive"], ["shared"], ["exclusive"]


@pytest.mark.parametrize(
    ("isolation", "slots", "avoided"),
    [
        ("shared", 1, EXCLUSIVE_ONLY),
        ("exclusive", 1, ALL_PODS),
        ("exclusive", 7, SHARED_ONLY),
    ],
)
def test_a_pod_with_a_domain_runs_on_that_node_or_nowhere(
    isolation: str, slots: int, avoided: list[str]
) -> None:
    nodes = record(domain="n1", isolation=isolation, away=["n1", "n2"], avoid=["n1"])
    pod = pod_of(attempt_manifest(nodes, replace(T4, exclusive_slots=slots), SETTINGS, COMMON))
    only = [
        {"key": "metadata.name", "operator": "In", "values": ["n1"]},
        {"key": "metadata.name", "operator": "NotIn", "values": ["n2"]},
    ]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    assert pod["affinity"]["nodeAffinity"] == {
        required: {"nodeSelectorTerms": [{"matchFields": only}]}
    }
    (apart,) = pod["affinity"]["podAntiAffinity"][required]
    selected = apart["labelSelector"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert selected["matchLabels"].items() <= LABELS.items()
    assert selected["matchExpressions"][1]["values"] == avoided


def test_a_pod_whose_node_does_not_exist_yet_goes_where_its_domain_goes() -> None:
    waits = record(domain="new_7", away=["n2"], avoid=["n3"])
    made = attempt_manifest(waits, T4, SETTINGS, COMMON)
    affinity, required = pod_of(made)["affinity"], "requiredDuringSchedulingIgnoredDuringExecution"
    kept_off = {"key": "metadata.name", "operator": "NotIn", "values": ["n2"]}
    not_there = {"nodeSelectorTerms": [{"matchFields": [kept_off]}]}
    assert affinity["nodeAffinity"][required] == not_there
    _, others = affinity["podAntiAffinity"][required]
    (own,) = affinity["podAffinity"][required]
    for term, operator in ((others, "NotIn"), (own, "In")):
        assert term["topologyKey"] == "kubernetes.io/hostname"
        selected = term["labelSelector"]
        assert selected["matchLabels"].items() <= LABELS.items()
        kinds = {"key": "gpuqueue.io/origin", "operator": operator, "values": ["new_7"]}
        assert selected["matchExpressions"][1] == kinds
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert labels["gpuqueue.io/origin"] == "new_7"


def test_later_pods_of_a_node_that_came_for_others_carry_their_label() -> None:
    made = attempt_manifest(record(domain="n1", origin="new_7"), T4, SETTINGS, COMMON)
    assert made["spec"]["template"]["metadata"]["labels"]["gpuqueue.io/origin"] == "new_7"
    affinity = pod_of(made)["affinity"]
    assert "podAffinity" not in affinity
    assert len(affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]) == 1


def test_a_template_adds_to_what_keeps_pods_apart() -> None:
    required, theirs = "requiredDuringSchedulingIgnoredDuringExecution", {"topologyKey": "zone"}
    template = PodTemplate(spec={"affinity": {"podAntiAffinity": {required: [theirs]}}})
    common = replace(COMMON, pod_template=template)
    pod = pod_of(attempt_manifest(record(domain="n1"), T4, SETTINGS, common))
    found = pod["affinity"]["podAntiAffinity"][required]
    assert (len(found), found[1]) == (2, theirs)


def test_gpu_toleration_appears_once() -> None:
    same = replace(
        T4, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    )
    assert attempt_manifest(RECORD, same, SETTINGS, COMMON) == JOB


def test_image_that_is_no_longer_allowed_raises() -> None:
    with pytest.raises(InvalidJob, match=r"gpu\.image='evil.example/x' is not an allowed image"):
        attempt_manifest(record(image="evil.example/x"), T4, SETTINGS, COMMON)


def test_manifest_is_deterministic_and_leaves_its_inputs_unchanged() -> None:
    before = copy.deepcopy((RECORD, A100, FULL, COMMON))
    made = attempt_manifest(RECORD, A100, FULL, COMMON)
    assert made == attempt_manifest(RECORD, A100, FULL, COMMON)
    made["metadata"]["labels"]["mine"] = made["spec"]["template"]["spec"]["tolerations"][1][
        "mine"
    ] = "x"
    container_of(made)["securityContext"]["capabilities"]["drop"].append("x")
    assert before == (RECORD, A100, FULL, COMMON)
    assert attempt_manifest(RECORD, A100, FULL, COMMON)["metadata"]["labels"] == LABELS
    assert pod_metadata(attempt_manifest(RECORD, A100, FULL, COMMON)) == POD_METADATA


def test_manifest_contains_no_credential() -> None:
    # Executors get Redis URLs only by reference, so no URL can appear.
    by_value = {
        each["name"]
        for each in container_of(attempt_manifest(RECORD, A100, FULL, COMMON))["env"]
        if "value" in each
    }
    assert by_value.isdisjoint(NAMES)


# -- the environment -------------------------------------------------------------------------------


def expanded(text: str, variables: dict[str, str]) -> str:
    """Expand ``$(NAME)`` by the documented rules: ``$$`` is a dollar, unknown names stay."""
    done, rest = "", text
    while rest:
        if rest.startswith("$$"):
            done, rest = done + "$", rest[2:]
        elif rest.startswith("$(") and ")" in rest:
            name, _, rest = rest[2:].partition(")")
            done += variables.get(name, f"$({name})")
        else:
            done, rest = done + rest[0], rest[1:]
    return done


@given(st.text("$()aA", max_size=12) | st.text())
def test_any_text_reaches_the_container_unchanged(text: str) -> None:
    assert expanded(literal(text), {"a": "x", "A": "y", "": "z"}) == text


def test_task_id_with_variable_syntax_is_not_expanded() -> None:
    made = attempt_manifest(
        record(id="$(GPUQUEUE_TOKEN)", delivery="$(GPUQUEUE_TOKEN)~1"), T4, SETTINGS, COMMON
    )
    assert env_of(made)["GPUQUEUE_JOB_ID"] == "$$(GPUQUEUE_TOKEN)"
    assert env_of(made)["GPUQUEUE_DELIVERY"] == "$$(GPUQUEUE_TOKEN)~1"


def test_every_variable_appears_once() -> None:
    names = [
        each["name"]
        for each in executor_variables(record(time_limit=1.0), "n/j", {"GPUQUEUE_APP": "x"}, "s")
    ]
    assert len(names) == len(set(names))


# -- autoscalers and service meshes ----------------------------------------------------------------


def pod_metadata(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    metadata: dict[str, dict[str, str]] = manifest["spec"]["template"]["metadata"]
    return metadata


def of_others(manifest: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and annotations of a pod that are not gpuqueue's."""
    labels, annotations = (
        {
            name: value
            for name, value in tags.items()
            if not name.startswith(("gpuqueue.io/", "app.kubernetes.io/"))
        }
        for tags in (pod_metadata(manifest)["labels"], pod_metadata(manifest)["annotations"])
    )
    return labels, annotations


def test_autoscalers_leave_attempts_and_container_jobs_alone() -> None:
    for made in (
        attempt_manifest(RECORD, T4, SETTINGS, COMMON),
        container_manifest(CONTAINER, T4, FULL, COMMON),
    ):
        assert of_others(made)[1].items() >= STAYS.items()
    assert STAYS.keys().isdisjoint(
        of_others(finisher_manifest(RECORD, "f", 1, T4, SETTINGS, COMMON))[1]
    )


def test_no_pod_joins_a_service_mesh_by_default() -> None:
    for made in (
        attempt_manifest(RECORD, T4, SETTINGS, COMMON),
        container_manifest(CONTAINER, T4, FULL, COMMON),
        finisher_manifest(RECORD, "f", 1, T4, SETTINGS, COMMON),
    ):
        labels, annotations = of_others(made)
        assert labels == NO_MESH_LABELS
        assert annotations.items() >= NO_MESH_ANNOTATIONS.items()


def test_service_mesh_on_leaves_pods_to_the_mesh() -> None:
    settings = ClusterSettings(executor_image="x:1", service_mesh="on")
    made = attempt_manifest(RECORD, T4, settings, COMMON)
    assert of_others(made) == ({}, STAYS)
    assert of_others(finisher_manifest(RECORD, "f", 1, T4, settings, COMMON)) == ({}, {})


def test_template_can_override_what_keeps_others_away() -> None:
    template = PodTemplate(
        labels={"sidecar.istio.io/inject": "true"},
        annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
    )
    made = attempt_manifest(RECORD, T4, SETTINGS, replace(COMMON, pod_template=template))
    labels, annotations = of_others(made)
    assert labels["sidecar.istio.io/inject"] == "true"
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


# -- finishers -------------------------------------------------------------------------------------


def test_finisher_job_requests_no_gpu_and_runs_on_any_node() -> None:
    name = finisher_name("prod", RECORD, "f1")
    expected = copy.deepcopy(JOB)
    expected["metadata"]["name"] = name
    for metadata in (expected["metadata"], expected["spec"]["template"]["metadata"]):
        metadata["labels"] = {**metadata["labels"], "gpuqueue.io/role": "finisher"}
    for key in STAYS:
        del expected["spec"]["template"]["metadata"]["annotations"][key]
    # 60 for quota, 600 for a node, 900 for the image, 120.5 for the finish
    expected["spec"]["activeDeadlineSeconds"] = 1681
    expected["spec"]["ttlSecondsAfterFinished"] = 600  # its result is not read from its pod
    container = container_of(expected)
    container["resources"] = {"requests": {"cpu": "250m", "memory": "1Gi"}}
    del container["volumeMounts"], pod_of(expected)["volumes"]  # it loads no data
    container["env"][7:7] = [
        {"name": "GPUQUEUE_FINISHER", "value": "f1"},
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
    ]
    container["env"][17]["value"] = f"gpu-jobs/{name}"
    assert finisher_manifest(RECORD, "f1", 120.5, T4, SETTINGS, COMMON) == expected


def test_finisher_takes_image_and_tolerations_of_the_class_only() -> None:
    made = finisher_manifest(record(time_limit=60.0, avoid=["n"]), "f1", 120, A100, FULL, COMMON)
    pod = pod_of(made)
    assert pod.keys().isdisjoint({"nodeSelector", "affinity", "activeDeadlineSeconds"})
    assert pod["tolerations"][1:] == [{"key": "team", "operator": "Exists"}]
    assert container_of(made)["image"] == "registry.example/a100:1"
    assert container_of(made)["resources"] == {
        "requests": {"cpu": "500m", "memory": "2Gi"},
        "limits": {"memory": "4Gi"},
    }


def test_an_attempt_at_an_unlock_requests_no_gpu() -> None:
    unlock = record(gpu_class="chords", image="registry.example/a100:1", time_limit=60.0)
    made = attempt_manifest(unlock, chords_class([T4, A100]), SETTINGS, COMMON)
    pod = pod_of(made)
    assert pod.keys().isdisjoint({"nodeSelector", "affinity"})
    assert pod["tolerations"][1:] == [{"key": "team", "operator": "Exists"}]
    assert container_of(made)["image"] == "registry.example/a100:1", "of the class of its body"
    assert container_of(made)["resources"] == {"requests": {"cpu": "250m", "memory": "1Gi"}}
    assert env_of(made)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "activeDeadlineSeconds" in pod


def preferred_nodes(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    affinity = pod_of(manifest).get("affinity", {"nodeAffinity": {}})["nodeAffinity"]
    (term,) = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [None])
    return term["preference"]["matchFields"] if term else []


def test_finisher_prefers_the_node_that_has_its_image() -> None:
    made = finisher_manifest(record(node="node-a"), "f1", 120, T4, SETTINGS, COMMON)
    assert preferred_nodes(made) == [
        {"key": "metadata.name", "operator": "In", "values": ["node-a"]}
    ]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"node": "node-a", "avoid": ["node-b", "node-a"]},
        {"node": "node-a", "task": "gpuqueue.run", "container": {}},
    ],
    ids=["never on a node", "its node is at fault", "the node has the image of a container job"],
)
def test_finisher_prefers_no_node_without_its_image(more: dict[str, Any]) -> None:
    assert preferred_nodes(finisher_manifest(record(**more), "f1", 1, T4, SETTINGS, COMMON)) == []


def test_finisher_has_no_runtime_priority_or_claims_of_the_template() -> None:
    template = PodTemplate(
        spec={
            "runtimeClassName": "nvidia",
            "priorityClassName": "gpu",
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
            "dnsPolicy": "Default",
            "containers": [
                {
                    "name": "executor",
                    "resources": {"claims": [{"name": "gpu"}], "limits": {"cpu": "2"}},
                    "volumeMounts": [],
                }
            ],
        }
    )
    made = finisher_manifest(
        RECORD, "f1", 120, T4, SETTINGS, replace(COMMON, pod_template=template)
    )
    pod = pod_of(made)
    assert pod.keys().isdisjoint({"runtimeClassName", "priorityClassName", "resourceClaims"})
    assert pod["dnsPolicy"] == "Default"
    assert container_of(made)["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"cpu": "2"},
    }


def test_finisher_uses_the_image_of_the_job() -> None:
    made = finisher_manifest(record(image="registry.example/mine:7"), "f1", 120, A100, FULL, COMMON)
    assert container_of(made)["image"] == "registry.example/mine:7"


def test_finisher_of_a_container_job_does_not_use_its_image() -> None:
    foreign = record(task="gpuqueue.run", image="registry.example/theirs:1", container={})
    assert (
        container_of(finisher_manifest(foreign, "f1", 120, T4, FULL, COMMON))["image"]
        == "registry.example/shop:1"
    )


# -- container jobs --------------------------------------------------------------------------------

CONTAINER = record(
    task="gpuqueue.run",
    image="registry.example/theirs:1",
    container={
        "command": ["sh", "-c"],
        "args": ["echo $$ $(HOSTNAME)"],
        "env": {"STEPS": "10", "PRICE": "$(X)"},
        "working_dir": "/data",
    },
)


def test_container_job_gets_nothing_of_the_application() -> None:
    name = job_name("prod", CONTAINER)
    kept = (
        '{"attempt":2,"container":true,"delivery":"a~1","gpu_class":"t4","id":"a","image":"registry.example/theirs:1",'
        '"isolation":"shared","owner":"prod","retries":1,"task":"gpuqueue.run","token":"secret-token"}'
    )
    labelled = {
        **LABELS,
        "gpuqueue.io/role": "container",
    }  # network policies deny it Redis
    metadata = {"labels": labelled, "annotations": {"gpuqueue.io/record": kept}}
    expected = copy.deepcopy(JOB)
    expected["metadata"] = {"name": name, "namespace": "gpu-jobs", **metadata}
    expected["spec"]["template"]["metadata"] = {
        "labels": {**labelled, **NO_MESH_LABELS},
        "annotations": {"gpuqueue.io/record": kept, **STAYS, **NO_MESH_ANNOTATIONS},
    }
    container_of(expected).update(
        image="registry.example/theirs:1",
        command=["sh", "-c"],
        args=["echo $$$$ $$(HOSTNAME)"],
        workingDir="/data",
        env=[
            {"name": "STEPS", "value": "10"},
            {"name": "PRICE", "value": "$$(X)"},
            {"name": "GPUQUEUE_JOB_ID", "value": "a"},
        ],
    )
    allowing = SETTINGS.model_copy(update={"image_allow": "registry.example/*"})
    assert container_manifest(CONTAINER, T4, allowing, COMMON) == expected


def test_container_without_a_command_runs_the_default_of_its_image() -> None:
    made = container_of(
        container_manifest(
            record(image="registry.example/theirs:1", container={}), T4, FULL, COMMON
        )
    )
    assert made.keys().isdisjoint({"command", "args", "workingDir"})
    assert made["env"] == [{"name": "GPUQUEUE_JOB_ID", "value": "a"}]


def test_container_job_has_nodes_of_its_class_and_a_deadline() -> None:
    made = container_manifest(
        record(image="registry.example/x:1", container={}, time_limit=60.0), A100, FULL, COMMON
    )
    attempt = attempt_manifest(record(time_limit=60.0), A100, FULL, COMMON)
    same = ("nodeSelector", "tolerations", "activeDeadlineSeconds", "securityContext")
    assert [pod_of(made)[name] for name in same] == [pod_of(attempt)[name] for name in same]
    assert container_of(made)["resources"] == container_of(attempt)["resources"]


def test_container_cannot_expose_the_gpus_of_other_jobs() -> None:
    opening = record(
        image="registry.example/x:1", container={"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}
    )
    with pytest.raises(
        InvalidJob,
        match=(
            r"env\.NVIDIA_VISIBLE_DEVICES='all' would expose the GPUs of other jobs; leave it out"
        ),
    ):
        container_manifest(opening, T4, FULL, COMMON)


def test_adopted_container_job_cannot_be_launched_again() -> None:
    adopted = record(image="registry.example/x:1", container=True)
    with pytest.raises(
        InvalidJob,
        match="container=True is unknown, since Redis lost it; send the job again",
    ):
        container_manifest(adopted, T4, FULL, COMMON)


# -- with a pod template ---------------------------------------------------------------------------

TEMPLATE = PodTemplate(
    {"team": "ml"},
    {"note": "x"},
    {
        "priorityClassName": "gpu",
        "serviceAccountName": "trainer",
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "key", "secret": {"secretName": "k"}},
        ],
        "containers": [
            {
                "name": "executor",
                "env": [{"name": "MINE", "value": "1"}],
                "envFrom": [{"secretRef": {"name": "app"}}],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "key", "mountPath": "/key"},
                ],
            }
        ],
    },
)


def test_template_applies_to_the_pod_but_not_to_the_job() -> None:
    made = attempt_manifest(RECORD, T4, SETTINGS, replace(COMMON, pod_template=TEMPLATE))
    expected = copy.deepcopy(JOB)
    expected["spec"]["template"]["metadata"] = {
        "labels": {**POD_METADATA["labels"], "team": "ml"},
        "annotations": {**POD_METADATA["annotations"], "note": "x"},
    }
    rest = copy.deepcopy(dict(TEMPLATE.spec))
    (container,) = rest.pop("containers")
    pod_of(expected).update(rest, volumes=[*rest["volumes"], shm("8Gi")])
    container_of(expected)["env"] += container["env"]
    container_of(expected).update(
        envFrom=container["envFrom"], volumeMounts=[*container["volumeMounts"], SHM]
    )
    assert made == expected


def test_finisher_gets_the_template_too() -> None:
    made = finisher_manifest(
        RECORD, "f1", 120, T4, SETTINGS, replace(COMMON, pod_template=TEMPLATE)
    )
    assert pod_of(made)["serviceAccountName"] == "trainer"
    assert container_of(made)["envFrom"] == [{"secretRef": {"name": "app"}}]


def test_jobs_of_attempts_get_the_labels_for_jobs_and_finishers_do_not() -> None:
    template = PodTemplate(
        job_labels={"kueue.x-k8s.io/queue-name": "gpu"}, job_annotations={"note": "x"}
    )
    common = replace(COMMON, pod_template=template)
    made = attempt_manifest(RECORD, T4, SETTINGS, common)
    expected = copy.deepcopy(JOB)
    expected["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpu"
    expected["metadata"]["annotations"]["note"] = "x"
    expected["spec"]["template"]["metadata"] = POD_METADATA
    assert made == expected
    container_job = container_manifest(CONTAINER, T4, FULL, common)
    assert container_job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    # A queue of the cluster must not hold a finish.
    assert finisher_manifest(RECORD, "f", 1, T4, SETTINGS, common) == finisher_manifest(
        RECORD, "f", 1, T4, SETTINGS, COMMON
    )


def test_container_job_gets_the_template_without_secrets() -> None:
    bare = container_manifest(CONTAINER, T4, FULL, COMMON)
    made = container_manifest(CONTAINER, T4, FULL, replace(COMMON, pod_template=TEMPLATE))
    expected = copy.deepcopy(bare)
    expected["spec"]["template"]["metadata"]["labels"]["team"] = "ml"
    expected["spec"]["template"]["metadata"]["annotations"]["note"] = "x"
    volumes = [*TEMPLATE.spec["volumes"], *pod_of(expected)["volumes"]]
    pod_of(expected).update(priorityClassName="gpu", volumes=volumes)
    container_of(expected)["volumeMounts"].insert(0, {"name": "data", "mountPath": "/data"})
    assert made == expected


def test_template_that_contradicts_the_class_raises() -> None:
    other = replace(COMMON, pod_template=PodTemplate(spec={"nodeSelector": {"pool": "cpu"}}))
    with pytest.raises(SettingsError) as caught:
        attempt_manifest(RECORD, T4, FULL, other)
    assert (
        str(caught.value)
        == "GPUQUEUE_POD_TEMPLATE: spec.nodeSelector.pool='cpu' contradicts 'gpu' in node_selector"
        " of the class or GPU_NODE_SELECTOR_VALUE; set it in one place"
    )
