"""The limits of a finisher: a quota that demands limits demands them of finishers, too. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.launchers.kubernetes.manifest.class_template import class_template
from gpuqueue.model.kube_syntax import amount

_LIMITED = ("cpu", "memory")


def with_limits_of_class(spec: dict[str, Any], gpu_class: GpuClass) -> None:
    """Give the container of a finisher the limits of CPU and memory that it lacks and its class
    sets. Its requests never exceed its limits.
    """
    set_by_class = _resources(class_template(gpu_class).spec).get("limits", {})
    missing = {name: set_by_class[name] for name in _LIMITED if name in set_by_class}
    if not missing:
        return
    resources = _resources(spec)
    limits = {**missing, **resources.get("limits", {})}
    requests = dict(resources["requests"])
    for name in missing:
        most, wanted = amount(limits[name]), amount(requests.get(name))
        if most is not None and wanted is not None and wanted > most:
            requests[name] = limits[name]
    resources |= {"limits": limits, "requests": requests}


def _resources(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources of the executor's container in a pod spec."""
    for container in spec.get("containers", ()):
        if container["name"] == CONTAINER:
            found: dict[str, Any] = container.get("resources", {})
            return found
    return {}
