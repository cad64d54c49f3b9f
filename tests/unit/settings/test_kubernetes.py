"""Cluster settings from the environment, and the Kubernetes fields of a classes file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.kubernetes_fields import toleration_problem
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.cli.view.state import gpu_class as rebuilt
from gpuqueue.errors import SettingsError
from gpuqueue.settings.kubernetes import ClusterSettings, load_cluster
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
    "GPU_LAUNCH_TIMEOUT": ("1", "launch_timeout", 1.0),
    "GPU_QUOTA_TIMEOUT": ("1", "quota_timeout", 1.0),
    "GPU_UNSCHEDULABLE_TIMEOUT": ("1", "unschedulable_timeout", 1.0),
    "GPU_IMAGE_PULL_TIMEOUT": ("1", "image_pull_timeout", 1.0),
    "GPU_IMAGE_ERROR_GRACE": ("0", "image_error_grace", 0.0),
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
    assert again == A100
    assert hash(again) == hash(A100)
    assert asdict(again) == asdict(A100)


@pytest.mark.parametrize(("line", "text"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_invalid_kubernetes_field_is_refused(line: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_toml(f"[classes.l4]\nshared_slots = 1\n{line}", "f.toml")
    assert str(caught.value).startswith("f.toml: classes.l4.")
    assert text in str(caught.value)


@pytest.mark.parametrize(("toleration", "problem"), TOLERATIONS.values(), ids=TOLERATIONS)
def test_toleration_problem(toleration: dict[str, Any], problem: str) -> None:
    assert toleration_problem(toleration) == problem
