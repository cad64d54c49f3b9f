"""The pod template of the operator, merged into every pod like a strategic merge patch. Pure.

Maps are merged, and values of the template win. Lists with named items (containers, volumes,
variables, mounts …) are merged by name; tolerations, sources of variables and preferred nodes are
appended; required nodes must meet both; any other list is replaced. Two rules differ: a template
must not contradict the node selector of a class, and init containers without a security context
get the one of the executor, since Pod Security "restricted" applies to them too.

The package ``template_rules`` checks a template when its file is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    "resourceClaims": "name",
    "claims": "name",
}
_APPENDED = (
    "tolerations",
    "envFrom",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "requiredDuringSchedulingIgnoredDuringExecution",
)
#: The template of every pod.
GENERAL = "GPUQUEUE_POD_TEMPLATE"
_SELECTORS = {
    True: "node_selector of the class or GPU_NODE_SELECTOR_VALUE",
    False: f"node_selector of the class, GPU_NODE_SELECTOR_VALUE or {GENERAL}",
}
#: Kinds of volumes that hold secrets or the identity of the application.
_PRIVATE_VOLUMES = ("secret", "projected", "csi")
#: Fields of a pod that finishers do without: they have no GPU, and must not wait for one.
_OF_GPU_JOBS = ("runtimeClassName", "priorityClassName", "resourceClaims")
#: Fields of a pod that choose its nodes.
_NODES = ("nodeSelector", "affinity", "topologySpreadConstraints", "schedulerName")


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """A checked template: additions to every pod. ``spec`` is a partial pod spec.

    ``job_labels`` and ``job_annotations`` are those of the Jobs of attempts; ``source`` is what
    messages name.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    job_labels: Mapping[str, str] = field(default_factory=dict)
    job_annotations: Mapping[str, str] = field(default_factory=dict)
    source: str = GENERAL

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
        return replace(self, spec=spec)

    def for_finisher(self, *, anywhere: bool = False) -> PodTemplate:
        """Return the template without what only a job with a GPU needs: its runtime, priority,
        claims of devices, and the labels of its Job, by which a queue of the cluster could hold it.
        ``anywhere``: without its nodes and the resources of its container, too.
        """
        left_out = (*_OF_GPU_JOBS, *(_NODES if anywhere else ()))
        spec = {name: value for name, value in self.spec.items() if name not in left_out}
        if "containers" in spec:
            spec["containers"] = [
                _with_resources(each, {} if anywhere else each.get("resources", {}))
                for each in spec["containers"]
            ]
        return replace(self, spec=spec, job_labels={}, job_annotations={})


def _with_resources(container: Mapping[str, Any], resources: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in resources.items() if name != "claims"}
    others = {name: value for name, value in container.items() if name != "resources"}
    return {**others, "resources": kept} if kept else others


def apply_template(pod_template: PodTemplate, pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod (``metadata`` and ``spec``) with the template merged into it.

    Neither argument is changed. Raises :class:`SettingsError` if both select nodes by the same
    label with different values.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    merged = merge(spec, pod_template.spec)
    for label, value in spec.get("nodeSelector", {}).items():
        selected = merged["nodeSelector"][label]
        if selected != value:
            raise SettingsError(
                f"{pod_template.source}: spec.nodeSelector.{label}={selected!r} contradicts"
                f" {value!r} in {_SELECTORS[pod_template.source == GENERAL]}; set it in one place"
            )
    if "initContainers" in merged:
        secured = next(each for each in spec["containers"] if each["name"] == CONTAINER)[
            "securityContext"
        ]
        merged["initContainers"] = [
            merge({"securityContext": secured}, each) for each in merged["initContainers"]
        ]
    return {
        "metadata": merge(
            metadata, {"labels": pod_template.labels, "annotations": pod_template.annotations}
        ),
        "spec": merged,
    }


def merge(base: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a map with a template merged into it, as the module describes."""
    merged = dict(base)
    for name, value in template.items():
        merged[name] = _merged(name, merged[name], value) if name in merged else value
    return merged


def _merged(name: str, base: Any, template: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(template, Mapping):
        return merge(base, template)
    if name in _APPENDED:
        return [*base, *(each for each in template if each not in base)]
    if name == "nodeSelectorTerms":
        return [_both(each, other) for each in base for other in template]
    if name in MERGE_KEYS:
        return _merge_lists(base, template, MERGE_KEYS[name])
    return template


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the term of the nodes that meet two terms. An empty term is met by no node."""
    if not (one and other):
        return {}
    kinds = sorted({*one, *other})
    return {kind: [*one.get(kind, ()), *other.get(kind, ())] for kind in kinds}


def _merge_lists(
    base: Sequence[Mapping[str, Any]], template: Sequence[Mapping[str, Any]], key: str
) -> list[dict[str, Any]]:
    found = {each[key]: dict(each) for each in base}
    for each in template:
        found[each[key]] = merge(found.get(each[key], {}), each)
    return list(found.values())
