"""The pod template of the operator, merged into every pod like a strategic merge patch. Pure.

Maps are merged, and values of the template win. Lists with named items (containers, volumes,
variables, mounts …) are merged by name; tolerations, sources of variables and preferred nodes are
appended; any other list is replaced. Two rules differ: a template must not contradict the node
selector of a class, and init containers without a security context get the one of the executor,
since Pod Security "restricted" applies to them too.

The package ``template_rules`` checks a template when its file is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER

#: List → the field that identifies its items.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
}
_APPENDED = ("tolerations", "envFrom", "preferredDuringSchedulingIgnoredDuringExecution")
#: Kinds of volumes that hold secrets or the identity of the application.
_PRIVATE_VOLUMES = ("secret", "projected", "csi")


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """A checked template: additions to every pod. ``spec`` is a partial pod spec."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    def for_foreign_image(self) -> PodTemplate:
        """Return the template without the variables, service account and secret volumes.

        They belong to the application, while a container job can run any program.
        """
        private = {
            volume["name"]
            for volume in self.spec.get("volumes", ())
            if any(kind in volume for kind in _PRIVATE_VOLUMES)
        }
        containers = []
        for container in self.spec.get("containers", ()):
            kept = {
                name: value for name, value in container.items() if name not in ("env", "envFrom")
            }
            if "volumeMounts" in kept:
                kept["volumeMounts"] = [
                    mount for mount in kept["volumeMounts"] if mount["name"] not in private
                ]
            containers.append(kept)
        spec = {name: value for name, value in self.spec.items() if name != "serviceAccountName"}
        if containers:
            spec["containers"] = containers
        return PodTemplate(self.labels, self.annotations, spec)


def apply_template(pod_template: PodTemplate, pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod (``metadata`` and ``spec``) with the template merged into it.

    Neither argument is changed. Raises :class:`SettingsError` if both select nodes by the same
    label with different values.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    merged = _merge(spec, pod_template.spec)
    for label, value in spec.get("nodeSelector", {}).items():
        selected = merged["nodeSelector"][label]
        if selected != value:
            raise SettingsError(
                f"GPUQUEUE_POD_TEMPLATE: spec.nodeSelector.{label}={selected!r} contradicts"
                f" {value!r} in node_selector of the class or GPU_NODE_SELECTOR_VALUE; set it in"
                " one place"
            )
    if "initContainers" in merged:
        secured = next(each for each in spec["containers"] if each["name"] == CONTAINER)[
            "securityContext"
        ]
        merged["initContainers"] = [
            _merge({"securityContext": secured}, each) for each in merged["initContainers"]
        ]
    return {
        "metadata": _merge(
            metadata, {"labels": pod_template.labels, "annotations": pod_template.annotations}
        ),
        "spec": merged,
    }


def _merge(base: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in template.items():
        merged[name] = _merged(name, merged[name], value) if name in merged else value
    return merged


def _merged(name: str, base: Any, template: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(template, Mapping):
        return _merge(base, template)
    if name in _APPENDED:
        return [*base, *(each for each in template if each not in base)]
    if name in MERGE_KEYS:
        return _merge_lists(base, template, MERGE_KEYS[name])
    return template


def _merge_lists(
    base: Sequence[Mapping[str, Any]], template: Sequence[Mapping[str, Any]], key: str
) -> list[dict[str, Any]]:
    found = {each[key]: dict(each) for each in base}
    for each in template:
        found[each[key]] = _merge(found.get(each[key], {}), each)
    return list(found.values())
