"""Cluster settings from the environment, and the Kubernetes fields of a classes file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.kubernetes_fields import toleration_problem
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.cli.view.state import gpu_class as rebuilt
from gpuqueue.errors import SettingsError
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings, load_cluster
from gpuqueue.store.readable import readable_class
from tests.unit.settings.conftest import SetAll

#: variable → (value, field, value of the field)
NAMES: dict[str, tuple[str, str, object]] = {
    "GPU_JOB_NAMESPACE": ("gpu-jobs", "job_namespace", "gpu-jobs"),
    "GPU_OWNER": ("prod", "owner", "prod"),
    "GPU_EXECUTOR_IMAGE": ("registry.example/shop:1", "executor_image", "registry.example/shop:1"),
    "GPU_IMAGE_PULL_POLICY": ("Always", "image_pull_policy", "Always"),
    "GPU_IMAGE_ALLOW": ("registry.example/*", "image_allow", "registry.example/*"),
    "GPU_EXECUTOR_COMMAND": ("python -m x", "executor_command", "python -m x"),
    "GPU_SECRET_NAME": ("shop-celery", "secret_name", "shop-celery"),
    "GPU_JOB_TTL_SECONDS": ("30", "job_ttl_seconds", 30),
    "GPU_CPU_REQUEST": ("2", "cpu_request", "2"),
    "GPU_MEMORY_REQUEST": ("512Mi", "memory_request", "512Mi"),
    "GPU_MEMORY_LIMIT": ("8Gi", "memory_limit", "8Gi"),
    "GPU_RUN_AS_USER": ("10001", "run_as_user", 10001),
    "GPUQUEUE_POD_TEMPLATE": ("/etc/pod.yaml", "pod_template", Path("/etc/pod.yaml")),
    "GPU_SERVICE_MESH": ("on", "service_mesh", "on"),
    "GPU_SHM_SIZE": ("0", "shm_size", "0"),
    "GPU_LAUNCH_TIMEOUT": ("1", "launch_timeout", 1.0),
    "GPU_QUOTA_TIMEOUT": ("1", "quota_timeout", 1.0),
    "GPU_UNSCHEDULABLE_TIMEOUT": ("1", "unschedulable_timeout", 1.0),
    "GPU_IMAGE_PULL_TIMEOUT": ("1", "image_pull_timeout", 1.0),
    "GPU_NODE_SILENT_SECONDS": ("1", "node_silent_seconds", 1.0),
    "GPU_IMAGE_ERROR_GRACE": ("0", "image_error_grace", 0.0),
    "GPU_HELD_TIMEOUT": ("3600", "held_timeout", 3600.0),
    "GPU_CONFIG_ERROR_GRACE": ("0", "config_error_grace", 0.0),
    "GPU_TERMINATING_TIMEOUT": ("1", "terminating_timeout", 1.0),
    "GPU_API_TIMEOUT": ("0.5", "api_timeout", 0.5),
    "GPU_WATCH_SECONDS": ("1", "watch_seconds", 1.0),
    "GPU_WATCH_SILENCE_SECONDS": ("1", "watch_silence_seconds", 1.0),
    "GPU_POD_RELIST_SECONDS": ("1", "pod_relist_seconds", 1.0),
    "GPU_LOG_TAIL_BYTES": ("1", "log_tail_bytes", 1),
}
WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a namespace in capitals": (
        {"GPU_JOB_NAMESPACE": "GPU"},
        (
            "GPU_JOB_NAMESPACE='GPU' is not a valid namespace name; use up to 63 lower-case"
            " letters, digits and '-'"
        ),
    ),
    "an owner that is not a label value": (
        {"GPU_OWNER": "a/b"},
        "GPU_OWNER='a/b' is not a valid label value; use up to 63 letters, digits, '.', '_', '-'",
    ),
    "a Secret with a slash": (
        {"GPU_SECRET_NAME": "a/b"},
        (
            "GPU_SECRET_NAME='a/b' is not a valid Secret name; use lower-case letters, digits,"
            " '.' and '-'"
        ),
    ),
    "an image with a space": (
        {"GPU_EXECUTOR_IMAGE": "a b"},
        "GPU_EXECUTOR_IMAGE='a b' is not an image reference; use e.g. registry/name:tag",
    ),
    "shared memory as a number": (
        {"GPU_SHM_SIZE": "64"},
        (
            "GPU_SHM_SIZE='64' is not a memory quantity; use at least 1 MiB, e.g. '512Mi' or"
            " '16Gi', or 0 for the size that the runtime sets"
        ),
    ),
    "a service mesh by its name": (
        {"GPU_SERVICE_MESH": "istio"},
        "GPU_SERVICE_MESH='istio'",
    ),
    "a wildcard for a registry": (
        {"GPU_IMAGE_ALLOW": "registry.example/*, *.example/team/*"},
        (
            "GPU_IMAGE_ALLOW: '*.example/team/*' has a wildcard in its registry; use e.g."
            " registry.example/team/*, or * alone for any image"
        ),
    ),
    "two patterns separated by a space": (
        {"GPU_IMAGE_ALLOW": "a/* b/*"},
        "GPU_IMAGE_ALLOW: 'a/* b/*' contains a space; use e.g.",
    ),
    "an unclosed quote": (
        {"GPU_EXECUTOR_COMMAND": "sh -c 'x"},
        (
            'GPU_EXECUTOR_COMMAND="sh -c \'x" cannot be split into words: No closing quotation;'
            " close the quote"
        ),
    ),
    "a blank command": (
        {"GPU_EXECUTOR_COMMAND": " "},
        "GPU_EXECUTOR_COMMAND is blank; unset it, or use e.g.",
    ),
    "a node label without a value": (
        {"GPU_NODE_SELECTOR_KEY": "gpu"},
        (
            "GPU_NODE_SELECTOR_KEY='gpu' and GPU_NODE_SELECTOR_VALUE=None belong together; set both"
            " or neither"
        ),
    ),
    "a value without a node label": (
        {"GPU_NODE_SELECTOR_VALUE": "t4"},
        "belong together; set both or neither",
    ),
    "an invalid node label": (
        {"GPU_NODE_SELECTOR_KEY": "a/b/c", "GPU_NODE_SELECTOR_VALUE": "x"},
        (
            "GPU_NODE_SELECTOR_KEY='a/b/c' is not a valid label key; use e.g."
            " nvidia.com/device-plugin.config"
        ),
    ),
    "an invalid value of a node label": (
        {"GPU_NODE_SELECTOR_KEY": "a", "GPU_NODE_SELECTOR_VALUE": "x y"},
        "GPU_NODE_SELECTOR_VALUE='x y' is not a valid label value",
    ),
    "a memory unit for cores": (
        {"GPU_CPU_REQUEST": "1Gi2"},
        ("GPU_CPU_REQUEST='1Gi2' is not a CPU quantity; use e.g. '500m' or '2'"),
    ),
    "millibytes": (
        {"GPU_MEMORY_REQUEST": "512m"},
        (
            "GPU_MEMORY_REQUEST='512m' is not a memory quantity; use at least 1 MiB,"
            " e.g. '512Mi' or '16Gi'"
        ),
    ),
    "bytes spelled out": (
        {"GPU_MEMORY_LIMIT": "8GiB"},
        "GPU_MEMORY_LIMIT='8GiB' is not a memory quantity",
    ),
    "a limit below the request": (
        {"GPU_MEMORY_REQUEST": "2Gi", "GPU_MEMORY_LIMIT": "2G"},
        ("GPU_MEMORY_REQUEST='2Gi' exceeds GPU_MEMORY_LIMIT='2G'; request at most the limit"),
    ),
    "root": (
        {"GPU_RUN_AS_USER": "0"},
        "GPU_RUN_AS_USER='0': input should be greater than or equal to 1",
    ),
    "a user by name": (
        {"GPU_RUN_AS_USER": "www-data"},
        "GPU_RUN_AS_USER='www-data': input should be a valid integer",
    ),
    "an unknown pull policy": (
        {"GPU_IMAGE_PULL_POLICY": "never"},
        "GPU_IMAGE_PULL_POLICY='never': input should be 'Always'",
    ),
    "an API timeout of 0": (
        {"GPU_API_TIMEOUT": "0"},
        "GPU_API_TIMEOUT='0': input should be greater than or equal to 0.1",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_environment_variable_sets_its_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, field, expected = NAMES[name]
    assert getattr(load_cluster(), field) != expected, "the default would prove nothing"
    monkeypatch.setenv(name, value)
    assert getattr(load_cluster(), field) == expected


def test_table_covers_every_setting() -> None:
    assert {field for _, field, _ in NAMES.values()} == set(ClusterSettings.model_fields) - {
        "node_selector_key",
        "node_selector_value",
    }


def test_selector_key_and_value_form_a_node_label(set_all: SetAll) -> None:
    assert load_cluster().node_selector == {}
    set_all(
        {
            "GPU_NODE_SELECTOR_KEY": "nvidia.com/device-plugin.config",
            "GPU_NODE_SELECTOR_VALUE": "tesla-t4",
        },
    )
    assert load_cluster().node_selector == {"nvidia.com/device-plugin.config": "tesla-t4"}


def test_executor_command_is_split_as_by_a_shell() -> None:
    assert load_cluster().executor_words == ["python3", "-m", "gpuqueue.executor"]
    assert ClusterSettings(executor_command="sh -c 'exec python3 -m x'").executor_words == [
        "sh",
        "-c",
        "exec python3 -m x",
    ]


@pytest.mark.parametrize(("environ", "text"), WRONG.values(), ids=WRONG)
def test_error_states_setting_value_and_fix(
    environ: dict[str, str], text: str, set_all: SetAll
) -> None:
    set_all(environ)
    with pytest.raises(SettingsError) as caught:
        load_cluster()
    assert text in str(caught.value)


def test_error_lists_every_wrong_setting(set_all: SetAll) -> None:
    set_all({"GPU_OWNER": "a b", "GPU_CPU_REQUEST": "x", "GPU_MEMORY_LIMIT": "y"})
    with pytest.raises(
        SettingsError, match=r"GPU_OWNER='a b'.*; GPU_CPU_REQUEST='x'.*; GPU_MEMORY_LIMIT='y'"
    ):
        load_cluster()


# -- the Kubernetes fields of a class --------------------------------------------------------------

TABLE = """
[classes.a100]
exclusive_slots = 2
image = "registry.example/a100:1"
node_selector = { "nvidia.com/gpu.product" = "A100", pool = "" }
tolerations = [
  { key = "team", operator = "Equal", value = "ml", effect = "NoSchedule" },
  { operator = "Exists" },
]
cpu = 4
host_memory = "64Gi"
gpus = 2
shm_size = "16Gi"
ephemeral_storage = "100Gi"
runtime_class = "nvidia"
priority_class = "gpu-batch"
service_account = "trainer"
namespace = "ml-a100"
secret_name = "gpuqueue-a100"
quota_timeout = 30
unschedulable_timeout = 1800
image_pull_timeout = 3600.5
start_timeout = 300
default_time_limit = 3600
max_time_limit = 86400

[classes.a100.pod_template.spec]
dnsPolicy = "Default"
volumes = [{ name = "data", persistentVolumeClaim = { claimName = "data" } }]
"""
A100 = GpuClass(
    "a100",
    exclusive_slots=2,
    image="registry.example/a100:1",
    node_selector={"nvidia.com/gpu.product": "A100", "pool": ""},
    tolerations=[
        {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ],
    cpu="4",
    host_memory="64Gi",
    gpus=2,
    shm_size="16Gi",
    ephemeral_storage="100Gi",
    runtime_class="nvidia",
    priority_class="gpu-batch",
    service_account="trainer",
    namespace="ml-a100",
    secret_name="gpuqueue-a100",
    quota_timeout=30,
    unschedulable_timeout=1800,
    image_pull_timeout=3600.5,
    start_timeout=300,
    default_time_limit=3600,
    max_time_limit=86400,
    pod_template={
        "spec": {
            "dnsPolicy": "Default",
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        }
    },
)
WRONG_TABLES = {
    "an image with a space": (
        "image = 'a b'",
        "image='a b' is not an image reference; use e.g. 'registry.example/train:1'",
    ),
    "an empty image": ("image = ''", "image='' is not an image reference"),
    "text for a node selector": (
        "node_selector = 'gpu=t4'",
        "node_selector='gpu=t4' does not map labels to values; use e.g. {",
    ),
    "a number for a label value": (
        "node_selector = { gpu = 1 }",
        "node_selector={'gpu': 1} does not map labels to values",
    ),
    "an invalid label key": (
        "node_selector = { 'a b' = 'x' }",
        "node_selector={'a b': 'x'} does not map labels to values",
    ),
    "a toleration outside a list": (
        "tolerations = { operator = 'Exists' }",
        (
            "tolerations={'operator': 'Exists'} is not a list of tolerations; use e.g. [{ key ="
            ' "team"'
        ),
    ),
    "a toleration with an unknown field": (
        "tolerations = [{ name = 'x' }]",
        "is not a list of tolerations",
    ),
    "text for cores": (
        "cpu = 'many'",
        "cpu='many' is not a CPU quantity; use e.g.",
    ),
    "zero cores": ("cpu = 0", "cpu='0' is not a CPU quantity"),
    "true for cores": ("cpu = true", "cpu=True is not a CPU quantity"),
    "a memory unit that Kubernetes lacks": (
        "host_memory = '64GiB'",
        "host_memory='64GiB' is not a memory quantity; use at least 1 MiB",
    ),
    "shared memory in a unit that Kubernetes lacks": (
        "shm_size = '8GB'",
        "shm_size='8GB' is not a memory quantity; use at least 1 MiB, e.g. '512Mi'",
    ),
    "a number for a disk": (
        "ephemeral_storage = 20",
        "ephemeral_storage=20 is not an amount of disk; use e.g. '20Gi'",
    ),
    "a runtime class in capitals": (
        "runtime_class = 'NVIDIA'",
        "runtime_class='NVIDIA' is not a name of Kubernetes; use lower-case letters, e.g. 'nvidia'",
    ),
    "an empty priority class": ("priority_class = ''", "priority_class='' is not a name of"),
    "a service account with a slash": (
        "service_account = 'a/b'",
        "service_account='a/b' is not a name of Kubernetes",
    ),
    "a number for a Secret": ("secret_name = 1", "secret_name=1 is not a name of Kubernetes"),
    **{
        f"{value!r} for a namespace": (
            f"namespace = {value!r}",
            f"namespace={value!r} is not a valid namespace name; use up to 63 lower-case letters",
        )
        for value in ("", "Team", "team.a", "-team", 64 * "a", 7)
    },
    "text for a pod template": (
        "pod_template = 'pod.yaml'",
        "pod_template='pod.yaml' is not a table of texts, numbers, booleans, lists and tables",
    ),
    "a time in a pod template": (
        "pod_template = { metadata = { labels = { since = 2026-01-01 } } }",
        "is not a table of texts, numbers, booleans, lists and tables",
    ),
    "no time to wait": (
        "held_timeout = 0",
        "held_timeout=0 is not a time to wait; use seconds of at least 1, or 'never'",
    ),
    "a time to wait without an end": ("held_timeout = inf", "held_timeout=inf is not a time"),
    "true for a time to wait": ("held_timeout = true", "held_timeout=True is not a time to wait"),
    "another word for a time to wait": ("held_timeout = 'ever'", "held_timeout='ever' is not a"),
    "memory as a number": ("host_memory = 64", "host_memory=64 is not a memory quantity"),
}
TOLERATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an empty toleration": ({}, "is not a table"),
    "an unknown operator": ({"key": "a", "operator": "In"}, "has the unknown operator 'In'"),
    "an unknown effect": (
        {"key": "a", "operator": "Exists", "effect": "Evict"},
        "has the unknown effect 'Evict'",
    ),
    "an invalid key": ({"key": "a b", "operator": "Exists"}, "has the invalid key 'a b'"),
    "Equal without a key": (
        {"effect": "NoSchedule"},
        "has the operator Equal without a key and a value",
    ),
    "Exists with a value": (
        {"key": "a", "operator": "Exists", "value": "x"},
        "has the operator Exists with a value",
    ),
    "seconds without NoExecute": (
        {"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1},
        "has tolerationSeconds, which must be a whole number with the effect NoExecute",
    ),
}


def test_classes_file_sets_the_kubernetes_fields() -> None:
    assert from_toml(TABLE, "f.toml")["a100"] == A100


def test_cpu_can_be_a_bare_number() -> None:
    assert from_toml("[classes.l4]\nshared_slots = 1\ncpu = 0.5", "f.toml")["l4"].cpu == "0.5"


def test_class_is_equal_after_a_round_trip_as_json() -> None:
    again = rebuilt(json.loads(json.dumps(A100.public())))
    shown = replace(A100, pod_template={})  # which only dispatchers know
    assert again == shown
    assert hash(again) == hash(shown)
    assert asdict(again) == asdict(shown)


def test_readers_take_every_field_of_a_class_as_it_was_stored() -> None:
    stored = A100.public()
    assert readable_class("a100", json.dumps(stored)) == json.loads(json.dumps(stored))


def test_a_class_replaces_the_settings_that_it_sets() -> None:
    settings = ClusterSettings(secret_name="all", unschedulable_timeout=1, launch_timeout=2)
    own = of_class(settings, A100)
    assert own.secret_name == "gpuqueue-a100"
    assert (own.quota_timeout, own.unschedulable_timeout) == (30, 1800)
    assert (own.image_pull_timeout, own.launch_timeout) == (3600.5, 2)
    assert of_class(settings, GpuClass("t4")) == settings


@pytest.mark.parametrize(("line", "text"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_invalid_kubernetes_field_is_refused(line: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_toml(f"[classes.l4]\nshared_slots = 1\n{line}", "f.toml")
    assert str(caught.value).startswith("f.toml: classes.l4.")
    assert text in str(caught.value)


@pytest.mark.parametrize(("toleration", "problem"), TOLERATIONS.values(), ids=TOLERATIONS)
def test_toleration_problem(toleration: dict[str, Any], problem: str) -> None:
    assert toleration_problem(toleration) == problem


def test_no_user_is_asked_for_where_the_platform_assigns_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPU_RUN_AS_USER", "platform")
    assert load_cluster().run_as_user is None


@pytest.mark.parametrize(("text", "value"), [("'never'", "never"), ("90", 90), ("1.5", 1.5)])
def test_a_class_sets_how_long_its_jobs_wait_while_it_is_held(text: str, value: object) -> None:
    table = f"[classes.a100]\nexclusive_slots = 1\nheld_timeout = {text}\n"
    found = from_toml(table, "classes.toml")["a100"]
    assert found.held_timeout == value
    assert rebuilt(json.loads(json.dumps(asdict(found)))) == found
