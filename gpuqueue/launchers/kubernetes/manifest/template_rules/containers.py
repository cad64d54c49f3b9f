"""Rules for containers: few fields of the executor, and every safe field of init containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.launchers.kubernetes.manifest.environment import is_ours
from gpuqueue.launchers.kubernetes.manifest.pod_template import MERGE_KEYS
from gpuqueue.launchers.kubernetes.manifest.template_rules.shape import (
    NOT_ALLOWED,
    NOTHING,
    Fixed,
    Known,
    Problem,
    Problems,
    fields,
    items,
    maps,
)
from gpuqueue.model.kube_syntax import amount, is_dns_label

RESTRICTED = 'leave it out: Pod Security "restricted" forbids it'
_EXECUTOR: Known = {
    "name": str,
    "env": list,
    "envFrom": list,
    "volumeMounts": list,
    "resources": dict,
    "imagePullPolicy": str,
    "securityContext": dict,
}
_EXECUTOR_FIXED: Fixed = {
    "image": (NOTHING, "set GPU_EXECUTOR_IMAGE, or image of a class"),
    "command": (NOTHING, "set GPU_EXECUTOR_COMMAND"),
    "args": (NOTHING, "set GPU_EXECUTOR_COMMAND"),
    "terminationMessagePolicy": (
        "FallbackToLogsOnError",
        "leave it out: errors of jobs quote the end of the log",
    ),
}
_SECURITY: Known = {
    "runAsUser": int,
    "runAsGroup": int,
    "readOnlyRootFilesystem": bool,
    "seccompProfile": dict,
    "appArmorProfile": dict,
    "capabilities": dict,
}
_SECURITY_FIXED: Fixed = {
    "runAsNonRoot": (True, RESTRICTED),
    "privileged": (False, RESTRICTED),
    "allowPrivilegeEscalation": (False, RESTRICTED),
}
_RESOURCE_FIELDS: Known = {"requests": dict, "limits": dict, "claims": list}
_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def executor(at: str, container: Mapping[str, Any]) -> Problems:
    """Check a container of the pod. Only one is allowed: the executor."""
    name = container.get("name")
    if name != CONTAINER:
        fix = f"name it {CONTAINER!r}, or move it to initContainers with restartPolicy: Always"
        yield Problem(
            f"{at}.name",
            name,
            "is a second container, which would keep the pod from ending",
            fix,
        )
        return
    yield from fields(at, container, _EXECUTOR, _EXECUTOR_FIXED)
    mounts = f"{at}.volumeMounts"
    yield from items(mounts, container.get("volumeMounts"), MERGE_KEYS["volumeMounts"])
    for where, mount in maps(mounts, container.get("volumeMounts")):
        if not is_dns_label(mount.get("name")):
            yield Problem(
                f"{where}.name",
                mount.get("name"),
                "is not a volume name",
                "use a name from volumes",
            )
    for where, variable in maps(f"{at}.env", container.get("env")):
        if is_ours(str(variable.get("name"))):
            fix = "leave it out: the dispatcher, its Secret or the device plugin sets it"
            yield Problem(f"{where}.name", variable["name"], NOT_ALLOWED, fix)
    yield from _any_container(at, container)


def init_container(at: str, container: Mapping[str, Any]) -> Problems:
    """Check an init container. It ends before the executor starts, or is a sidecar."""
    name, image = container.get("name"), container.get("image")
    if name == CONTAINER or not is_dns_label(name):
        fix = f"use lower-case letters, digits and '-', but not {CONTAINER!r}"
        yield Problem(f"{at}.name", name, "is not a valid name of an init container", fix)
    if not isinstance(image, str) or image.split() != [image]:
        yield Problem(
            f"{at}.image", image, "is not an image reference", "use e.g. registry.example/proxy:1"
        )
    if container.get("restartPolicy", "Always") != "Always":
        fix = "use Always for a sidecar, or leave it out if it ends before the executor starts"
        yield Problem(
            f"{at}.restartPolicy",
            container["restartPolicy"],
            "is not allowed for an init container",
            fix,
        )
    yield from _any_container(at, container)


def security(at: str, context: object, known: Known) -> Problems:
    """Check a security context, of a pod or a container, against Pod Security "restricted"."""
    if not isinstance(context, dict):
        return
    yield from fields(at, context, known, _SECURITY_FIXED)
    if context.get("runAsUser") == 0:
        yield Problem(f"{at}.runAsUser", 0, "is root", "use another number, or set GPU_RUN_AS_USER")
    for name in ("seccompProfile", "appArmorProfile"):
        profile = context.get(name)
        if isinstance(profile, dict) and profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield Problem(
                f"{at}.{name}.type",
                profile.get("type"),
                "is unconfined",
                "use RuntimeDefault or Localhost",
            )
    capabilities = context.get("capabilities")
    if isinstance(capabilities, dict):
        dropped, added = capabilities.get("drop", ["ALL"]), capabilities.get("add", [])
        if dropped != ["ALL"]:
            yield Problem(
                f"{at}.capabilities.drop",
                dropped,
                "does not drop ALL",
                "leave it out: all are dropped",
            )
        if added not in ([], ["NET_BIND_SERVICE"]):
            yield Problem(
                f"{at}.capabilities.add", added, "adds more than NET_BIND_SERVICE", RESTRICTED
            )


def _any_container(at: str, container: Mapping[str, Any]) -> Problems:
    yield from items(f"{at}.env", container.get("env"), MERGE_KEYS["env"])
    for where, variable in maps(f"{at}.env", container.get("env")):
        if "valueFrom" not in variable and not isinstance(variable.get("value", ""), str):
            yield Problem(f"{where}.value", variable["value"], "is not a string", "quote it")
    yield from security(f"{at}.securityContext", container.get("securityContext"), _SECURITY)
    resources = container.get("resources")
    if isinstance(resources, dict):
        yield from fields(f"{at}.resources", resources, _RESOURCE_FIELDS)
        for kind in ("requests", "limits"):
            yield from _amounts(f"{at}.resources.{kind}", resources.get(kind))
        yield from items(f"{at}.resources.claims", resources.get("claims"), MERGE_KEYS["claims"])
        for where, claim in maps(f"{at}.resources.claims", resources.get("claims")):
            yield from fields(where, claim, {"name": str, "request": str})


def _amounts(at: str, amounts: object) -> Problems:
    for name, value in amounts.items() if isinstance(amounts, dict) else ():
        if name not in _RESOURCES:
            fix = f"allowed: {', '.join(_RESOURCES)}; the class sets the GPU"
            yield Problem(f"{at}.{name}", value, NOT_ALLOWED, fix)
        elif amount(value) is None:
            yield Problem(
                f"{at}.{name}", value, "is not a quantity", "quote it, e.g. '500m' or '2Gi'"
            )
