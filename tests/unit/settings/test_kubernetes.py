"""Settings of a cluster, by their environment names, and what a classes file says of pods."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass, from_toml
from gpuqueue.classes.kubernetes_fields import toleration_problem
from gpuqueue.cli.view.state import gpu_class as rebuilt
from gpuqueue.errors import SettingsError
from gpuqueue.settings.kubernetes import ClusterSettings, load_cluster

#: environment name → (value, field, what it becomes)
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
            "GPU_JOB_NAMESPACE='GPU' cannot name a namespace; use up to 63 lower-case letters,"
            " digits and '-'"
        ),
    ),
    "an owner that is no label": (
        {"GPU_OWNER": "a/b"},
        "GPU_OWNER='a/b' cannot be a label's value; use up to 63 letters, digits, '.', '_', '-'",
    ),
    "a Secret with a slash": (
        {"GPU_SECRET_NAME": "a/b"},
        "GPU_SECRET_NAME='a/b' cannot name a Secret; use lower-case letters, digits, '.' and '-'",
    ),
    "an image with a space": (
        {"GPU_EXECUTOR_IMAGE": "a b"},
        "GPU_EXECUTOR_IMAGE='a b' is not an image reference; use e.g. registry/name:tag",
    ),
    "a wildcard for a registry": (
        {"GPU_IMAGE_ALLOW": "registry.example/*, *.example/team/*"},
        (
            "GPU_IMAGE_ALLOW: '*.example/team/*' has a wildcard in its registry; write e.g."
            " registry.example/team/*, or * alone for any image"
        ),
    ),
    "two patterns with a space between": (
        {"GPU_IMAGE_ALLOW": "a/* b/*"},
        "GPU_IMAGE_ALLOW: 'a/* b/*' holds a space; write e.g.",
    ),
    "an open quote": (
        {"GPU_EXECUTOR_COMMAND": "sh -c 'x"},
        (
            'GPU_EXECUTOR_COMMAND="sh -c \'x" cannot be split into words: No closing quotation;'
            " close the quote"
        ),
    ),
    "no command": (
        {"GPU_EXECUTOR_COMMAND": " "},
        "GPU_EXECUTOR_COMMAND is blank; unset it, or use e.g.",
    ),
    "a label of nodes without a value": (
        {"GPU_NODE_SELECTOR_KEY": "gpu"},
        (
            "GPU_NODE_SELECTOR_KEY='gpu' and GPU_NODE_SELECTOR_VALUE=None need each other; set both"
            " or neither"
        ),
    ),
    "a value without a label of nodes": (
        {"GPU_NODE_SELECTOR_VALUE": "t4"},
        "need each other; set both or neither",
    ),
    "a malformed label of nodes": (
        {"GPU_NODE_SELECTOR_KEY": "a/b/c", "GPU_NODE_SELECTOR_VALUE": "x"},
        (
            "GPU_NODE_SELECTOR_KEY='a/b/c' cannot be a label's key; use e.g."
            " nvidia.com/device-plugin.config"
        ),
    ),
    "a malformed value of one": (
        {"GPU_NODE_SELECTOR_KEY": "a", "GPU_NODE_SELECTOR_VALUE": "x y"},
        "GPU_NODE_SELECTOR_VALUE='x y' cannot be a label's value",
    ),
    "a unit of memory for cores": (
        {"GPU_CPU_REQUEST": "1Gi2"},
        (
            "GPU_CPU_REQUEST='1Gi2' is not a number of cores; write cores as Kubernetes does, e.g."
            " '500m' or '2'"
        ),
    ),
    "millibytes": (
        {"GPU_MEMORY_REQUEST": "512m"},
        (
            "GPU_MEMORY_REQUEST='512m' is not an amount of memory; write at least one MiB as"
            " Kubernetes does, e.g. '512Mi' or '16Gi'"
        ),
    ),
    "bytes spelled out": (
        {"GPU_MEMORY_LIMIT": "8GiB"},
        "GPU_MEMORY_LIMIT='8GiB' is not an amount of memory",
    ),
    "a limit below the request": (
        {"GPU_MEMORY_REQUEST": "2Gi", "GPU_MEMORY_LIMIT": "2G"},
        (
            "GPU_MEMORY_REQUEST='2Gi' is more than GPU_MEMORY_LIMIT='2G'; ask for no more than the"
            " limit"
        ),
    ),
    "root": (
        {"GPU_RUN_AS_USER": "0"},
        "GPU_RUN_AS_USER='0': input should be greater than or equal to 1",
    ),
    "a pull policy of no such name": (
        {"GPU_IMAGE_PULL_POLICY": "never"},
        "GPU_IMAGE_PULL_POLICY='never': input should be 'Always'",
    ),
    "no time for an answer": (
        {"GPU_API_TIMEOUT": "0"},
        "GPU_API_TIMEOUT='0': input should be greater than or equal to 0.1",
    ),
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GPU_", "GPUQUEUE_")):
            monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_sets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, field, becomes = NAMES[name]
    assert getattr(load_cluster(), field) != becomes, "the test would say nothing of a default"
    monkeypatch.setenv(name, value)
    assert getattr(load_cluster(), field) == becomes


def test_every_setting_is_looked_at() -> None:
    assert {field for _, field, _ in NAMES.values()} == set(ClusterSettings.model_fields) - {
        "node_selector_key",
        "node_selector_value",
    }


def test_key_and_value_are_a_label_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_cluster().node_selector == {}
    set_all(
        monkeypatch,
        {
            "GPU_NODE_SELECTOR_KEY": "nvidia.com/device-plugin.config",
            "GPU_NODE_SELECTOR_VALUE": "tesla-t4",
        },
    )
    assert load_cluster().node_selector == {"nvidia.com/device-plugin.config": "tesla-t4"}


def test_a_command_is_split_as_a_shell_would() -> None:
    assert load_cluster().executor_words == ["python3", "-m", "gpuqueue.executor"]
    assert ClusterSettings(executor_command="sh -c 'exec python3 -m x'").executor_words == [
        "sh",
        "-c",
        "exec python3 -m x",
    ]


@pytest.mark.parametrize(("environ", "text"), WRONG.values(), ids=WRONG)
def test_the_error_names_setting_value_and_fix_of(
    environ: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, environ)
    with pytest.raises(SettingsError) as caught:
        load_cluster()
    assert text in str(caught.value)


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"GPU_OWNER": "a b", "GPU_CPU_REQUEST": "x", "GPU_MEMORY_LIMIT": "y"})
    with pytest.raises(
        SettingsError, match=r"GPU_OWNER='a b'.*; GPU_CPU_REQUEST='x'.*; GPU_MEMORY_LIMIT='y'"
    ):
        load_cluster()


# -- what a class says of its pods -----------------------------------------------------------------

TABLE = """
[classes.a100]
exclusive_slots = 2
image = "registry.example/a100:1"
node_selector = { "nvidia.com/gpu.product" = "A100", pool = "" }
tolerations = [{ key = "team", operator = "Equal", value = "ml", effect = "NoSchedule" }, { operator = "Exists" }]
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
        "image='a b' is not an image reference; write e.g. 'registry.example/train:1'",
    ),
    "no image": ("image = ''", "image='' is not an image reference"),
    "nodes in words": (
        "node_selector = 'gpu=t4'",
        "node_selector='gpu=t4' does not map labels to values; write e.g. {",
    ),
    "a number for a label": (
        "node_selector = { gpu = 1 }",
        "node_selector={'gpu': 1} does not map labels to values",
    ),
    "a malformed label": (
        "node_selector = { 'a b' = 'x' }",
        "node_selector={'a b': 'x'} does not map labels to values",
    ),
    "one toleration alone": (
        "tolerations = { operator = 'Exists' }",
        (
            "tolerations={'operator': 'Exists'} is not a list of tolerations; write e.g. [{ key ="
            ' "team"'
        ),
    ),
    "a toleration with another's fields": (
        "tolerations = [{ name = 'x' }]",
        "is not a list of tolerations",
    ),
    "no number of cores": (
        "cpu = 'many'",
        "cpu='many' is not a number of cores; write cores as Kubernetes does",
    ),
    "no cores": ("cpu = 0", "cpu='0' is not a number of cores"),
    "true for cores": ("cpu = true", "cpu=True is not a number of cores"),
    "memory spelled out": (
        "host_memory = '64GiB'",
        "host_memory='64GiB' is not an amount of memory; write at least one MiB",
    ),
    "memory as a number": ("host_memory = 64", "host_memory=64 is not an amount of memory"),
}
TOLERATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an empty one": ({}, "is not a table"),
    "an unknown operator": ({"key": "a", "operator": "In"}, "has the unknown operator 'In'"),
    "an unknown effect": (
        {"key": "a", "operator": "Exists", "effect": "Evict"},
        "has the unknown effect 'Evict'",
    ),
    "a malformed key": ({"key": "a b", "operator": "Exists"}, "has the malformed key 'a b'"),
    "a comparison with nothing": ({"effect": "NoSchedule"}, "compares without a key and a value"),
    "existence with a value": (
        {"key": "a", "operator": "Exists", "value": "x"},
        "asks whether a key exists, and gives a value",
    ),
    "seconds without eviction": (
        {"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1},
        "has tolerationSeconds, which is a whole number for the effect NoExecute",
    ),
}


def test_a_classes_file_says_where_and_with_what_its_pods_run() -> None:
    assert from_toml(TABLE, "f.toml")["a100"] == A100


def test_half_a_core_may_be_a_number() -> None:
    assert from_toml("[classes.l4]\nshared_slots = 1\ncpu = 0.5", "f.toml")["l4"].cpu == "0.5"


def test_a_class_is_the_same_after_it_was_announced() -> None:
    again = rebuilt(json.loads(json.dumps(A100.public())))
    assert again == A100
    assert hash(again) == hash(A100)
    assert asdict(again) == asdict(A100)


@pytest.mark.parametrize(("line", "text"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_a_class_is_refused_with(line: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_toml(f"[classes.l4]\nshared_slots = 1\n{line}", "f.toml")
    assert str(caught.value).startswith("f.toml: classes.l4.")
    assert text in str(caught.value)


@pytest.mark.parametrize(("toleration", "problem"), TOLERATIONS.values(), ids=TOLERATIONS)
def test_no_toleration_is(toleration: dict[str, Any], problem: str) -> None:
    assert toleration_problem(toleration) == problem
