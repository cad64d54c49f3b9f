"""A class's pod is the class's: fields, pod template, shared memory, limits, claims of devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.manifest.job import (
    attempt_manifest,
    container_manifest,
    finisher_manifest,
)
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate
from gpuqueue.launchers.kubernetes.manifest.warm import settings_name, warm_variables
from gpuqueue.model.warm_pod import WarmPod
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.deploy.test_schemas import NEWEST, check
from tests.support.pages import Page
from tests.unit.launchers.kubernetes.manifest.test_job import (
    COMMON,
    CONTAINER,
    FULL,
    RECORD,
    SETTINGS,
    SHM,
    container_of,
    pod_of,
    record,
    shm,
)

L4 = GpuClass("t4", shared_slots=8)
OWN = GpuClass(
    "t4",
    exclusive_slots=1,
    runtime_class="nvidia",
    priority_class="gpu-batch",
    service_account="trainer",
    secret_name="gpuqueue-l4",
    ephemeral_storage="20Gi",
    host_memory="32Gi",
    pod_template={
        "metadata": {"labels": {"team": "vision"}},
        "job": {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "vision"}}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "dnsPolicy": "Default",
            "containers": [
                {"name": "executor", "env": [{"name": "HOME", "value": "/cache"}]},
            ],
        },
    },
)
GENERAL = PodTemplate(
    labels={"team": "all", "site": "north"},
    job_labels={"kueue.x-k8s.io/queue-name": "all", "cost": "gpu"},
    spec={
        "runtimeClassName": "other",
        "priorityClassName": "low",
        "serviceAccountName": "default",
        "dnsPolicy": "None",
        "containers": [
            {"name": "executor", "resources": {"limits": {"memory": "8Gi", "cpu": "2"}}},
        ],
    },
)


def attempt(gpu_class: GpuClass, settings: ClusterSettings = SETTINGS, **more: Any) -> Any:
    return attempt_manifest(record(**more), gpu_class, settings, COMMON)


def secrets(manifest: Any) -> set[str]:
    return {
        each["valueFrom"]["secretKeyRef"]["name"]
        for each in container_of(manifest)["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }


# -- fields and template ---------------------------------------------------------------------------


def test_a_class_sets_its_pods_over_the_template_of_all() -> None:
    made = attempt_manifest(RECORD, OWN, SETTINGS, replace(COMMON, pod_template=GENERAL))
    pod = pod_of(made)
    assert (pod["runtimeClassName"], pod["priorityClassName"]) == ("nvidia", "gpu-batch")
    assert (pod["serviceAccountName"], pod["dnsPolicy"]) == ("trainer", "Default")
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert secrets(made) == {"gpuqueue-l4"}
    assert container_of(made)["resources"] == {
        "requests": {"cpu": "250m", "memory": "32Gi", "ephemeral-storage": "20Gi"},
        "limits": {
            "nvidia.com/gpu": "1",
            "memory": "32Gi",
            "cpu": "2",
            "ephemeral-storage": "20Gi",
        },
    }
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["site"]) == ("vision", "north")
    of_job = made["metadata"]["labels"]
    assert (of_job["kueue.x-k8s.io/queue-name"], of_job["cost"]) == ("vision", "gpu")
    check(made, NEWEST)


def test_a_class_without_a_field_keeps_the_template_of_all() -> None:
    made = attempt_manifest(RECORD, L4, SETTINGS, replace(COMMON, pod_template=GENERAL))
    assert pod_of(made)["runtimeClassName"] == "other"
    assert container_of(made)["resources"]["limits"]["memory"] == "8Gi"


def test_a_container_job_of_a_class_has_no_service_account_or_variables() -> None:
    made = container_manifest(CONTAINER, OWN, FULL, COMMON)
    pod = pod_of(made)
    assert "serviceAccountName" not in pod
    assert secrets(made) == set()
    assert "HOME" not in [each["name"] for each in container_of(made)["env"]]
    assert (pod["runtimeClassName"], pod["priorityClassName"]) == ("nvidia", "gpu-batch")


def test_a_finisher_has_identity_and_secret_of_the_class_only() -> None:
    made = finisher_manifest(RECORD, "f", 120, OWN, SETTINGS, COMMON)
    pod = pod_of(made)
    absent = {"runtimeClassName", "priorityClassName", "nodeSelector", "volumes"}
    assert pod.keys().isdisjoint(absent)
    assert (pod["serviceAccountName"], secrets(made)) == ("trainer", {"gpuqueue-l4"})
    assert container_of(made)["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"memory": "32Gi"},
    }
    assert {"name": "HOME", "value": "/cache"} in container_of(made)["env"]
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]


def test_a_finisher_has_the_limits_of_the_class_and_requests_no_more() -> None:
    limits = {"cpu": "100m", "memory": "2Gi", "ephemeral-storage": "1Gi"}
    spec = {"containers": [{"name": "executor", "resources": {"limits": limits}}]}
    limited = replace(L4, pod_template={"spec": spec})
    made = finisher_manifest(RECORD, "f", 120, limited, SETTINGS, COMMON)
    assert container_of(made)["resources"] == {
        "requests": {"cpu": "100m", "memory": "1Gi"},
        "limits": {"cpu": "100m", "memory": "2Gi"},
    }


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a field that no template may set": (
        {"pod_template": {"spec": {"restartPolicy": "Always"}}},
        "class 't4': pod_template: spec.restartPolicy='Always' is not allowed in a pod template",
    ),
    "a label of gpuqueue for its Jobs": (
        {"pod_template": {"job": {"metadata": {"labels": {"gpuqueue.io/owner": "x"}}}}},
        "class 't4': pod_template: job.metadata.labels.gpuqueue.io/owner='x' is not allowed",
    ),
    "a field that is set twice": (
        {"runtime_class": "a", "pod_template": {"spec": {"runtimeClassName": "b"}}},
        (
            "class 't4': runtime_class='a' and pod_template.spec.runtimeClassName='b' set the same;"
            " remove one of the two"
        ),
    ),
    "nodes that contradict node_selector": (
        {"node_selector": {"a": "x"}, "pod_template": {"spec": {"nodeSelector": {"a": "y"}}}},
        (
            "class 't4': pod_template: spec.nodeSelector.a='y' contradicts 'x' in node_selector of"
            " the class, GPU_NODE_SELECTOR_VALUE or GPUQUEUE_POD_TEMPLATE; set it in one place"
        ),
    ),
    "no GPU": (
        {"gpus": 0},
        (
            "class 't4': gpus=0, and pod_template.spec has no resourceClaims; claim a GPU there, or"
            " set gpus to 1"
        ),
    ),
    "more shared memory than the limit": (
        {"shm_size": "5Gi"},
        (
            "class 't4': shm_size='5Gi' exceeds the memory limit '4Gi' of its jobs, which its"
            " content counts against; lower it, or raise host_memory"
        ),
    ),
}


@pytest.mark.parametrize(("fields", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_class_is_refused_with_field_value_and_fix(
    fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        attempt(GpuClass("t4", exclusive_slots=1, **fields), FULL)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": 2},
        {"shm_size": "1Gi"},
        {"ephemeral_storage": "1Gi"},
        {"runtime_class": "a"},
        {"priority_class": "a"},
        {"service_account": "a"},
        {"secret_name": "a"},
        {"max_time_limit": 60},
        {"pod_template": {"metadata": {"labels": {"a": "b"}}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_pod_of_other_class_fields_is_another_kind_of_pod(fields: dict[str, Any]) -> None:
    changed = replace(L4, **fields)
    assert settings_name(changed, SETTINGS, COMMON) != settings_name(L4, SETTINGS, COMMON)


def test_the_pods_of_a_class_in_the_docs_are_valid() -> None:
    (text,) = Page("docs/howto/gpu-classes.md").blocks("toml", "## The pods of a class")
    ((name, gpu_class),) = from_toml(text, "classes.toml").items()
    job = record(gpu_class=name, isolation="exclusive")
    made = attempt_manifest(job, gpu_class, SETTINGS, COMMON)
    assert container_of(made)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod_of(made)["volumes"][-1] == shm("32Gi")
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    check(made, NEWEST)
    check(finisher_manifest(job, "f", 1, gpu_class, SETTINGS, COMMON), NEWEST)


# -- shared memory ---------------------------------------------------------------------------------


def test_shared_memory_has_the_size_of_the_settings() -> None:
    made = attempt(L4)
    assert pod_of(made)["volumes"] == [shm("8Gi")]
    assert container_of(made)["volumeMounts"] == [SHM]


SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the class": ({"shm_size": "2Gi"}, {}, "2Gi"),
    "within the memory of the class": ({"host_memory": "4Gi"}, {}, "4Gi"),
    "within the memory of the settings": ({}, {"memory_limit": "2Gi"}, "2Gi"),
    "as much as the memory": ({"host_memory": "8Gi", "shm_size": "8Gi"}, {}, "8Gi"),
    "the settings": ({"host_memory": "64Gi"}, {"shm_size": "1Gi"}, "1Gi"),
}


@pytest.mark.parametrize(("of_class", "of_all", "size"), SIZES.values(), ids=SIZES)
def test_shared_memory_never_exceeds_the_memory_limit(
    of_class: dict[str, Any], of_all: dict[str, Any], size: str
) -> None:
    settings = SETTINGS.model_copy(update=of_all)
    assert pod_of(attempt(replace(L4, **of_class), settings))["volumes"] == [shm(size)]


def test_shared_memory_can_be_left_to_the_runtime() -> None:
    bare = attempt(replace(L4, shm_size="0"))
    assert "volumes" not in pod_of(bare)
    assert "volumeMounts" not in container_of(bare)


@pytest.mark.parametrize("path", ["/dev/shm", "/dev/shm/"])
def test_a_mount_of_a_template_at_dev_shm_is_the_only_one(path: str) -> None:
    template = {
        "spec": {
            "volumes": [{"name": "mine", "emptyDir": {"medium": "Memory"}}],
            "containers": [
                {"name": "executor", "volumeMounts": [{"name": "mine", "mountPath": path}]}
            ],
        }
    }
    made = attempt(replace(L4, pod_template=template))
    assert pod_of(made)["volumes"] == template["spec"]["volumes"]
    assert container_of(made)["volumeMounts"] == [{"name": "mine", "mountPath": path}]


# -- time limits -----------------------------------------------------------------------------------

LIMITS = replace(L4, default_time_limit=60.0)
BOTH = replace(L4, default_time_limit=60.0, max_time_limit=600.0)
#: 900 for the image, 120 for the start, 10 of grace.
AROUND = 1030


@pytest.mark.parametrize(
    ("gpu_class", "limit", "deadline"),
    [
        (LIMITS, 30.0, 30 + AROUND),
        (LIMITS, 60.0, None),
        (BOTH, 60.0, 600 + AROUND),
        (BOTH, 500.0, 500 + AROUND),
        (replace(L4, max_time_limit=600.0), 600.0, 600 + AROUND),
        (replace(LIMITS, image_pull_timeout=100.0, start_timeout=20.0), 30.0, 160),
    ],
    ids=[
        "of the message",
        "the default: the task may declare more",
        "the default: the task may declare up to the largest",
        "of the message, below the largest",
        "the largest",
        "with the clocks of the class",
    ],
)
def test_the_deadline_of_a_pod_never_cuts_a_limit_that_its_task_declares(
    gpu_class: GpuClass, limit: float, deadline: float | None
) -> None:
    made = attempt(gpu_class, time_limit=limit)
    assert pod_of(made).get("activeDeadlineSeconds") == deadline


def test_a_warm_pod_takes_no_job_that_its_deadline_would_cut() -> None:
    def longest(gpu_class: GpuClass, limit: float) -> float | None:
        warm = record(warm=5.0, time_limit=limit)
        (text,) = warm_variables(warm, gpu_class, SETTINGS, COMMON).values()
        pod = WarmPod.parse(text)
        assert pod is not None
        return pod.longest

    assert longest(LIMITS, 30.0) == 30
    assert longest(LIMITS, 60.0) is None
    assert longest(BOTH, 60.0) == 600


def test_a_warm_pod_and_its_class_name_the_same_settings() -> None:
    own = replace(L4, namespace="team-a", secret_name="team", quota_timeout=7, warm_seconds=60)
    made = attempt_manifest(record(warm=60.0), own, SETTINGS, COMMON)
    (text,) = [
        each["value"] for each in container_of(made)["env"] if each["name"] == "GPUQUEUE_WARM_POD"
    ]
    pod = WarmPod.parse(text)
    assert pod is not None and pod.settings == settings_name(own, SETTINGS, COMMON)


def test_jobs_of_a_class_are_in_its_namespace() -> None:
    own = replace(L4, namespace="team-a")
    for made in (
        attempt_manifest(RECORD, own, SETTINGS, COMMON),
        container_manifest(CONTAINER, own, FULL, COMMON),
        finisher_manifest(RECORD, "f", 1, own, SETTINGS, COMMON),
    ):
        assert made["metadata"]["namespace"] == "team-a"
        instances = [
            each["value"]
            for each in container_of(made)["env"]
            if each["name"] == "GPUQUEUE_INSTANCE"
        ]
        assert all(each.startswith("team-a/") for each in instances)
    assert (
        attempt_manifest(RECORD, L4, SETTINGS, COMMON)["metadata"]["namespace"] == COMMON.namespace
    )


# -- claims of devices -----------------------------------------------------------------------------


def test_the_class_of_the_docs_claims_its_gpu() -> None:
    (text,) = Page("docs/operate/gpu-nodes.md").blocks("toml", "## DRA")
    ((name, gpu_class),) = from_toml(text, "classes.toml").items()
    job = record(gpu_class=name, isolation="exclusive")
    made = attempt_manifest(job, gpu_class, SETTINGS, COMMON)
    pod, container = pod_of(made), container_of(made)
    assert pod["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "whole-gpu"}]
    assert container["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "claims": [{"name": "gpu"}],
    }
    check(made, NEWEST)
    finisher = finisher_manifest(record(gpu_class=name), "f", 1, gpu_class, SETTINGS, COMMON)
    assert "resourceClaims" not in pod_of(finisher)
    assert "claims" not in container_of(finisher)["resources"]
