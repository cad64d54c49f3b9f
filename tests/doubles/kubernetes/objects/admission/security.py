"""Pod Security "restricted": the server refuses a pod that violates it, and adds a warning to the
response for a Job with such a template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tests.doubles.kubernetes.objects.bodies import Body, containers_of
from tests.doubles.kubernetes.objects.errors import forbidden
from tests.doubles.kubernetes.objects.kinds import PODS

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
    """Check a pod against the level that its namespace enforces.

    Raises:
        Refused: 403, the pod violates the level.
    """
    if _level(namespace, _ENFORCE) != "restricted":
        return
    if violations := ", ".join(_violations(pod["spec"])):
        raise forbidden(
            PODS,
            pod["metadata"]["name"],
            f'violates PodSecurity "restricted:latest": {violations}',
        )


def warn(namespace: Body, template: Body) -> list[str]:
    """Return the warnings for a pod template that violates the level of the namespace."""
    if "restricted" not in (_level(namespace, _ENFORCE), _level(namespace, _WARN)):
        return []
    violations = ", ".join(_violations(template["spec"]))
    return [f'would violate PodSecurity "restricted:latest": {violations}'] if violations else []


def _level(namespace: Body, label: str) -> str:
    return str((namespace.get("metadata", {}).get("labels") or {}).get(label, ""))


def _violations(spec: Body) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"host namespaces ({field}=true)"
    yield from _each(
        spec,
        "privileged",
        "must not set securityContext.privileged=true",
        lambda context: not context.get("privileged"),
    )
    yield from _each(
        spec,
        "allowPrivilegeEscalation != false",
        "must set securityContext.allowPrivilegeEscalation=false",
        lambda context: context.get("allowPrivilegeEscalation") is False,
    )
    yield from _each(
        spec,
        "unrestricted capabilities",
        'must set securityContext.capabilities.drop=["ALL"]',
        lambda context: (
            "ALL" in (context.get("capabilities") or {}).get("drop", [])
            and set((context.get("capabilities") or {}).get("add", [])) <= {"NET_BIND_SERVICE"}
        ),
    )
    forbidden_volumes = [
        volume["name"]
        for volume in spec.get("volumes") or []
        if not (set(volume) - {"name"}) <= _VOLUMES
    ]
    if forbidden_volumes:
        kind = "volume" if len(forbidden_volumes) == 1 else "volumes"
        names = _quoted(forbidden_volumes)
        yield f"restricted volume types ({kind} {names} use restricted volume types)"
    shared = spec.get("securityContext") or {}
    if shared.get("runAsNonRoot") is not True:
        advice = "pod or {} must set securityContext.runAsNonRoot=true"
        yield from _each(
            spec,
            "runAsNonRoot != true",
            advice,
            lambda context: context.get("runAsNonRoot") is True,
        )
    if shared.get("runAsUser") == 0 or any(
        (item.get("securityContext") or {}).get("runAsUser") == 0 for item in containers_of(spec)
    ):
        yield "runAsUser=0 (pod must not set runAsUser=0)"
    if (shared.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        advice = (
            'pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or'
            ' "Localhost"'
        )
        yield from _each(
            spec,
            "seccompProfile",
            advice,
            lambda context: (
                (context.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost")
            ),
        )


def _each(spec: Body, title: str, advice: str, good: Callable[[Body], bool]) -> Iterator[str]:
    bad = [
        container["name"]
        for container in containers_of(spec)
        if not good(container.get("securityContext") or {})
    ]
    if bad:
        subject = f"{'container' if len(bad) == 1 else 'containers'} {_quoted(bad)}"
        yield f"{title} ({advice.format(subject) if '{}' in advice else f'{subject} {advice}'})"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
