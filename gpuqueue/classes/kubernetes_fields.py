"""The Kubernetes fields of a class: image, nodes, host resources, names, pod template. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.model.kube_syntax import (
    CPU_FIX,
    MEMORY_FIX,
    NAMESPACE_FIX,
    TIMEOUT_FIX,
    is_cpu,
    is_dns_label,
    is_label_key,
    is_label_value,
    is_memory,
    is_subdomain,
    is_timeout,
)

#: The size of /dev/shm that leaves it to the container runtime, which mostly gives 64 MiB.
NO_SHM = "0"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TOLERATION = ("key", "operator", "value", "effect", "tolerationSeconds")


def kubernetes_fields(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the Kubernetes fields of a class's table, checked.

    ``where`` is file and table. Raises :class:`SettingsError` with file, field, value, problem and
    fix.
    """
    values = {name: table[name] for name in _FIELDS if name in table}
    if type(values.get("cpu")) in (int, float):  # TOML allows a bare number of cores
        values["cpu"] = str(values["cpu"])
    for name, value in values.items():
        is_valid, problem = _FIELDS[name]
        if not is_valid(value):
            raise SettingsError(f"{where}.{name}={value!r} {problem}")
    return values


def toleration_problem(value: object) -> str | None:
    """Return the problem of a toleration, None if it is valid.

    The API server would refuse every pod with an invalid one.
    """
    if not isinstance(value, Mapping) or not value:
        return "is not a table"
    for name in value:
        if name not in _TOLERATION:
            return f"has the unknown field {name!r}"
    operator, effect = value.get("operator", "Equal"), value.get("effect", "NoSchedule")
    if operator not in ("Exists", "Equal"):
        return f"has the unknown operator {operator!r}"
    if effect not in _EFFECTS:
        return f"has the unknown effect {effect!r}"
    if "key" in value and not is_label_key(value["key"]):
        return f"has the invalid key {value['key']!r}"
    if operator == "Equal" and ("key" not in value or not _is_value(value.get("value", ""))):
        return "has the operator Equal without a key and a value"
    if operator == "Exists" and "value" in value:
        return "has the operator Exists with a value"
    seconds = value.get("tolerationSeconds", 0)
    if type(seconds) is not int or ("tolerationSeconds" in value and effect != "NoExecute"):
        return "has tolerationSeconds, which must be a whole number with the effect NoExecute"
    return None


def is_node_selector(value: object) -> bool:
    """Whether this maps label keys to label values."""
    return isinstance(value, Mapping) and all(
        is_label_key(key) and _is_value(text) for key, text in value.items()
    )


def _is_shm_size(value: object) -> bool:
    return value == NO_SHM or is_memory(value)


def _is_template(value: object) -> bool:
    return isinstance(value, Mapping) and _is_json(value)


def _is_json(value: object) -> bool:
    """Whether JSON has such values: a time of TOML, for one, it does not have."""
    if isinstance(value, Mapping):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _is_value(text: object) -> bool:
    return text == "" or is_label_value(text)


def _is_image(value: object) -> bool:
    return isinstance(value, str) and value.split() == [value]


def _are_tolerations(value: object) -> bool:
    return isinstance(value, list) and not any(map(toleration_problem, value))


def _are_nodes(value: object) -> bool:
    names = value if isinstance(value, list) else []
    return bool(names) and all(map(is_subdomain, names)) and len(set(names)) == len(names)


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "image": (_is_image, "is not an image reference; use e.g. 'registry.example/train:1'"),
    "node_selector": (
        is_node_selector,
        'does not map labels to values; use e.g. { "nvidia.com/gpu.product" = "Tesla-T4" }',
    ),
    "tolerations": (
        _are_tolerations,
        (
            'is not a list of tolerations; use e.g. [{ key = "team", operator = "Exists",'
            ' effect = "NoSchedule" }]'
        ),
    ),
    "nodes": (
        _are_nodes,
        "is not a list of different node names; use e.g. ['gpu-a', 'gpu-b'], or leave it out",
    ),
    "held_timeout": (is_timeout, f"is not a time to wait; {TIMEOUT_FIX}"),
    "cpu": (is_cpu, f"is not a CPU quantity; {CPU_FIX}"),
    "host_memory": (is_memory, f"is not a memory quantity; {MEMORY_FIX}"),
    "shm_size": (
        _is_shm_size,
        f"is not a memory quantity; {MEMORY_FIX}, or '0' for the size that the runtime sets",
    ),
    "ephemeral_storage": (is_memory, "is not an amount of disk; use e.g. '20Gi'"),
    **{
        name: (is_subdomain, f"is not a name of Kubernetes; use lower-case letters, e.g. {each!r}")
        for name, each in (
            ("runtime_class", "nvidia"),
            ("priority_class", "gpu-batch"),
            ("service_account", "trainer"),
            ("secret_name", "gpuqueue-a100"),
        )
    },
    "namespace": (is_dns_label, f"is not a valid namespace name; {NAMESPACE_FIX}"),
    "pod_template": (
        _is_template,
        (
            "is not a table of texts, numbers, booleans, lists and tables; use e.g."
            ' { spec = { dnsPolicy = "Default" } }'
        ),
    ),
}
