"""Pod Security "restricted": the pod that breaks it is refused; a Job with such a template is only
warned of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.doubles.kubernetes.objects.admission.defaults import containers_of
from tests.doubles.kubernetes.objects.errors import forbidden
from tests.doubles.kubernetes.objects.kinds import PODS

Body = dict[str, Any]
_ENFORCE, _WARN = "pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/warn"
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def enforce(namespace: Body, pod: Body) -> None:
    """Refuse a pod that a namespace does not allow.

    Raises:
        Refused: 403, in the server's words.
    """
    if _level(namespace, _ENFORCE) != "restricted":
        return
    if broken := ", ".join(_broken(pod["spec"])):
        raise forbidden(
            PODS, pod["metadata"]["name"], f'violates PodSecurity "restricted:latest": {broken}'
        )


def warn(namespace: Body, template: Body) -> list[str]:
    """What is told whoever creates something whose pods would be refused."""
    if "restricted" not in (_level(namespace, _ENFORCE), _level(namespace, _WARN)):
        return []
    broken = ", ".join(_broken(template["spec"]))
    return [f'would violate PodSecurity "restricted:latest": {broken}'] if broken else []


def _level(namespace: Body, label: str) -> str:
    return str((namespace.get("metadata", {}).get("labels") or {}).get(label, ""))


def _broken(spec: Body) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"host namespaces ({field}=true)"
    yield from _each(
        spec,
        "privileged",
        "must not set securityContext.privileged=true",
        lambda own: not own.get("privileged"),
    )
    yield from _each(
        spec,
        "allowPrivilegeEscalation != false",
        "must set securityContext.allowPrivilegeEscalation=false",
        lambda own: own.get("allowPrivilegeEscalation") is False,
    )
    yield from _each(
        spec,
        "unrestricted capabilities",
        'must set securityContext.capabilities.drop=["ALL"]',
        lambda own: (
            "ALL" in (own.get("capabilities") or {}).get("drop", [])
            and set((own.get("capabilities") or {}).get("add", [])) <= {"NET_BIND_SERVICE"}
        ),
    )
    barred = [
        volume["name"]
        for volume in spec.get("volumes") or []
        if not (set(volume) - {"name"}) <= _VOLUMES
    ]
    if barred:
        kind = "volume" if len(barred) == 1 else "volumes"
        yield f"restricted volume types ({kind} {_quoted(barred)} use restricted volume types)"
    shared = spec.get("securityContext") or {}
    if shared.get("runAsNonRoot") is not True:
        told = "pod or {} must set securityContext.runAsNonRoot=true"
        yield from _each(
            spec, "runAsNonRoot != true", told, lambda own: own.get("runAsNonRoot") is True
        )
    if shared.get("runAsUser") == 0 or any(
        (item.get("securityContext") or {}).get("runAsUser") == 0 for item in containers_of(spec)
    ):
        yield "runAsUser=0 (pod must not set runAsUser=0)"
    if (shared.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        told = (
            'pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or'
            ' "Localhost"'
        )
        yield from _each(
            spec,
            "seccompProfile",
            told,
            lambda own: (
                (own.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost")
            ),
        )


def _each(spec: Body, title: str, told: str, good: Callable[[Body], bool]) -> Iterator[str]:
    bad = [
        container["name"]
        for container in containers_of(spec)
        if not good(container.get("securityContext") or {})
    ]
    if bad:
        subject = f"{'container' if len(bad) == 1 else 'containers'} {_quoted(bad)}"
        yield f"{title} ({told.format(subject) if '{}' in told else f'{subject} {told}'})"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
