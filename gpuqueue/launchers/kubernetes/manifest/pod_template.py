"""The operator's pod template, laid over every pod: a strategic merge, as Kubernetes' own. Pure.

Maps are merged, and the template's values win. Lists whose items have a name are merged by it
(containers, volumes, variables, mounts …), tolerations, sources of variables and preferences of
nodes are appended, any other list is replaced. Two things differ: a template may not ask for other
nodes than a class does, and init containers get the security context of ours where they say
nothing, since Pod Security "restricted" looks at them as well.

What a template may say is checked when it is read: see overlay_rules.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER

#: List → the field by which its items are the same.
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
#: Volumes that carry what belongs to the application or its identity.
_PRIVATE_VOLUMES = ("secret", "projected", "csi")


@dataclass(frozen=True, slots=True)
class Overlay:
    """A checked template: what pods get beside what we say. ``spec`` is a pod's."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    def for_foreign_image(self) -> Overlay:
        """Return it without what is the application's: its variables, its service account, and its
        secrets as files.

        A container job may be anybody's program.
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
        return Overlay(self.labels, self.annotations, spec)


def apply(overlay: Overlay, template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template (``metadata`` and ``spec``) with the overlay laid over it; neither is
    changed.

    Raises :class:`SettingsError` where both ask for a label of nodes, with different values.
    """
    metadata, spec = template["metadata"], template["spec"]
    merged = _merge(spec, overlay.spec)
    for label, value in spec.get("nodeSelector", {}).items():
        theirs = merged["nodeSelector"][label]
        if theirs != value:
            raise SettingsError(
                f"GPUQUEUE_POD_TEMPLATE: spec.nodeSelector.{label}={theirs!r} contradicts {value!r}"
                " of the class's node_selector or GPU_NODE_SELECTOR_VALUE; say it in one place"
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
            metadata, {"labels": overlay.labels, "annotations": overlay.annotations}
        ),
        "spec": merged,
    }


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in theirs.items():
        merged[name] = _merged(name, merged[name], value) if name in merged else value
    return merged


def _merged(name: str, ours: Any, theirs: Any) -> Any:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return _merge(ours, theirs)
    if name in _APPENDED:
        return [*ours, *(each for each in theirs if each not in ours)]
    if name in MERGE_KEYS:
        return _merge_lists(ours, theirs, MERGE_KEYS[name])
    return theirs


def _merge_lists(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], key: str
) -> list[dict[str, Any]]:
    found = {each[key]: dict(each) for each in ours}
    for each in theirs:
        found[each[key]] = _merge(found.get(each[key], {}), each)
    return list(found.values())
