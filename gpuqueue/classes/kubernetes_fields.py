"""What a class says of its pods in Kubernetes: image, nodes, tolerations, host resources. Checked
as it is read from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.model.kube_syntax import (
    CPU_FIX,
    MEMORY_FIX,
    is_cpu,
    is_label_key,
    is_label_value,
    is_memory,
)

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TOLERATION = ("key", "operator", "value", "effect", "tolerationSeconds")


def placement(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a class's table that are for Kubernetes, checked.

    Raises :class:`SettingsError` naming file (``where``), field, value and fix.
    """
    found = {name: table[name] for name in _FIELDS if name in table}
    if type(found.get("cpu")) in (int, float):  # so it is written in TOML
        found["cpu"] = str(found["cpu"])
    for name, value in found.items():
        is_right, problem = _FIELDS[name]
        if not is_right(value):
            raise SettingsError(f"{where}.{name}={value!r} {problem}")
    return found


def toleration_problem(value: object) -> str | None:
    """Say what is wrong with a toleration, if anything: the scheduler's API would refuse every pod
    that had it.
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
        return f"has the malformed key {value['key']!r}"
    if operator == "Equal" and ("key" not in value or not _is_value(value.get("value", ""))):
        return "compares without a key and a value"
    if operator == "Exists" and "value" in value:
        return "asks whether a key exists, and gives a value"
    seconds = value.get("tolerationSeconds", 0)
    if type(seconds) is not int or ("tolerationSeconds" in value and effect != "NoExecute"):
        return "has tolerationSeconds, which is a whole number for the effect NoExecute"
    return None


def is_node_selector(value: object) -> bool:
    """Whether this maps labels of nodes to their values."""
    return isinstance(value, Mapping) and all(
        is_label_key(key) and _is_value(text) for key, text in value.items()
    )


def _is_value(text: object) -> bool:
    return text == "" or is_label_value(text)


def _is_image(value: object) -> bool:
    return isinstance(value, str) and value.split() == [value]


def _are_tolerations(value: object) -> bool:
    return isinstance(value, list) and not any(map(toleration_problem, value))


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "image": (_is_image, "is not an image reference; write e.g. 'registry.example/train:1'"),
    "node_selector": (
        is_node_selector,
        'does not map labels to values; write e.g. { "nvidia.com/gpu.product" = "Tesla-T4" }',
    ),
    "tolerations": (
        _are_tolerations,
        (
            'is not a list of tolerations; write e.g. [{ key = "team", operator = "Exists", effect'
            ' = "NoSchedule" }]'
        ),
    ),
    "cpu": (is_cpu, f"is not a number of cores; {CPU_FIX}"),
    "host_memory": (is_memory, f"is not an amount of memory; {MEMORY_FIX}"),
}
