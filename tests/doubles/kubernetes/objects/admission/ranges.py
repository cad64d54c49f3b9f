"""LimitRange: the limits and requests of containers that set none."""

from __future__ import annotations

from tests.doubles.kubernetes.objects.bodies import Body, containers_of
from tests.doubles.kubernetes.objects.kinds import LIMIT_RANGES
from tests.doubles.kubernetes.objects.store import Store


def complete_range(body: Body) -> None:
    """Add the defaults of a LimitRange: a default limit is the default request, too."""
    for item in body.get("spec", {}).get("limits", ()):
        if item.get("type") == "Container" and item.get("default"):
            item["defaultRequest"] = {**item["default"], **item.get("defaultRequest", {})}


def apply(store: Store, namespace: str, pod: Body) -> None:
    """Give the containers of a new pod the defaults of the namespace."""
    for body in store.bodies(LIMIT_RANGES, namespace):
        for item in body.get("spec", {}).get("limits", ()):
            if item.get("type") != "Container":
                continue
            for container in containers_of(pod["spec"]):
                for kind, field in (("limits", "default"), ("requests", "defaultRequest")):
                    if defaults := item.get(field):
                        resources = container.setdefault("resources", {})
                        resources[kind] = {**defaults, **resources.get(kind, {})}
