"""What a class adds to its pods: its fields and its own pod template, as one template. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate, merge
from gpuqueue.launchers.kubernetes.manifest.template_rules.pod import parse_class_template

#: Field of a class → field of a pod.
_FIELDS = {
    "runtime_class": "runtimeClassName",
    "priority_class": "priorityClassName",
    "service_account": "serviceAccountName",
}


def class_template(gpu_class: GpuClass) -> PodTemplate:
    """Return the template of a class, which is merged over that of all pods.

    Raises :class:`SettingsError` with class, field, value and fix.
    """
    own = parse_class_template(dict(gpu_class.pod_template), gpu_class.name)
    if not gpu_class.gpus and not own.spec.get("resourceClaims"):
        raise SettingsError(
            f"class {gpu_class.name!r}: gpus=0, and pod_template.spec has no resourceClaims; claim"
            " a GPU there, or set gpus to 1"
        )
    spec: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        if value := getattr(gpu_class, name):
            if field in own.spec:
                raise SettingsError(
                    f"class {gpu_class.name!r}: {name}={value!r} and pod_template.spec.{field}="
                    f"{own.spec[field]!r} set the same; remove one of the two"
                )
            spec[field] = value
    if resources := _resources(gpu_class):
        spec["containers"] = [{"name": CONTAINER, "resources": resources}]
    return replace(own, spec=merge(spec, own.spec))


def _resources(gpu_class: GpuClass) -> dict[str, dict[str, str]]:
    """Return the resources that the class sets: they replace those of the template of all pods."""
    memory, disk = gpu_class.host_memory, gpu_class.ephemeral_storage
    amounts = {"cpu": gpu_class.cpu, "memory": memory, "ephemeral-storage": disk}
    requests = {name: text for name, text in amounts.items() if text}
    limits = {name: text for name, text in requests.items() if name != "cpu"}
    return {
        **({"requests": requests} if requests else {}),
        **({"limits": limits} if limits else {}),
    }
