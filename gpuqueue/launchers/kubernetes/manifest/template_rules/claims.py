"""Rules for claims of devices (Dynamic Resource Allocation): of a pod, and in its containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.launchers.kubernetes.manifest.template_rules.shape import (
    Problem,
    Problems,
    fields,
    maps,
)
from gpuqueue.model.kube_syntax import is_dns_label

_SOURCES = ("resourceClaimTemplateName", "resourceClaimName")


def claims(at: str, spec: Mapping[str, Any]) -> Problems:
    """Check the claims of a pod spec at the path ``at``, and that containers use no others."""
    for where, claim in maps(f"{at}.resourceClaims", spec.get("resourceClaims")):
        yield from _claim(where, claim)
    yield from _claimed(at, spec)


def _claim(at: str, claim: Mapping[str, Any]) -> Problems:
    """Check a claim of devices (DRA): its name, and where it comes from."""
    yield from fields(at, claim, {"name": str, **dict.fromkeys(_SOURCES, str)})
    if not is_dns_label(claim.get("name")):
        fix = "use lower-case letters, digits and '-'"
        yield Problem(f"{at}.name", claim.get("name"), "is not a valid name of a claim", fix)
    sources = [name for name in _SOURCES if name in claim]
    if len(sources) != 1:
        fix = f"set {' or '.join(_SOURCES)}: a template gives each pod a claim, and pods share"
        yield Problem(at, claim, "does not have one source", f"{fix} a named claim")


def _claimed(at: str, spec: Mapping[str, Any]) -> Problems:
    """Check that containers use the claims of the pod only."""
    known = {each.get("name") for _, each in maps("", spec.get("resourceClaims"))}
    for kind in ("containers", "initContainers"):
        for where, container in maps(f"{at}.{kind}", spec.get(kind)):
            resources = container.get("resources")
            claims = resources.get("claims") if isinstance(resources, dict) else None
            for below, claim in maps(f"{where}.resources.claims", claims):
                if claim.get("name") not in known:
                    fix = "use the name of one of spec.resourceClaims"
                    yield Problem(f"{below}.name", claim.get("name"), "is not a claim", fix)
