"""Rules for a whole template: structure, labels, annotations, and the pod except containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue.classes.kubernetes_fields import is_node_selector, toleration_problem
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.manifest.names import MANAGED_BY, NAME, PREFIX
from gpuqueue.launchers.kubernetes.manifest.pod_template import (
    GENERAL,
    MERGE_KEYS,
    PodTemplate,
)
from gpuqueue.launchers.kubernetes.manifest.shared_memory import VOLUME as SHM_VOLUME
from gpuqueue.launchers.kubernetes.manifest.template_rules.claims import claims
from gpuqueue.launchers.kubernetes.manifest.template_rules.containers import (
    RESTRICTED,
    executor,
    init_container,
    security,
)
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
    shown,
    without_nulls,
)
from gpuqueue.model.kube_syntax import is_dns_label, is_label_key, is_label_value

_POD: Known = {
    "volumes": list,
    "containers": list,
    "initContainers": list,
    "imagePullSecrets": list,
    "tolerations": list,
    "topologySpreadConstraints": list,
    "resourceClaims": list,
    "hostAliases": list,
    "nodeSelector": dict,
    "affinity": dict,
    "securityContext": dict,
    "dnsConfig": dict,
    "dnsPolicy": str,
    "priorityClassName": str,
    "runtimeClassName": str,
    "schedulerName": str,
    "serviceAccountName": str,
}
_POD_FIXED: Fixed = {
    "restartPolicy": ("Never", "leave it out: a pod runs once, and Celery owns retries"),
    "automountServiceAccountToken": (
        False,
        "mount a token with a projected volume (serviceAccountToken)",
    ),
    "enableServiceLinks": (
        False,
        "leave it out: jobs do not need the addresses of Services",
    ),
    "shareProcessNamespace": (
        False,
        "leave it out: the executor must be the first process of its container",
    ),
    "hostNetwork": (False, RESTRICTED),
    "hostPID": (False, RESTRICTED),
    "hostIPC": (False, RESTRICTED),
    "activeDeadlineSeconds": (NOTHING, "leave it out: the time_limit of the job sets it"),
    "terminationGracePeriodSeconds": (NOTHING, "set GPUQUEUE_GRACE_SECONDS"),
    "nodeName": (NOTHING, "use nodeSelector or affinity: the scheduler counts the GPUs"),
}
_POD_SECURITY: Known = {
    "runAsUser": int,
    "runAsGroup": int,
    "fsGroup": int,
    "fsGroupChangePolicy": str,
    "supplementalGroups": list,
    "supplementalGroupsPolicy": str,
    "seccompProfile": dict,
    "appArmorProfile": dict,
}
_VOLUMES = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
_IN_OBJECT: Known = {"metadata": dict, "spec": dict}
_JOB: Known = {"job": dict}
_JOB_LABELS = ("job-name", "controller-uid")
_STRUCTURE = (
    "use {metadata: {labels, annotations}, spec: {...}, job: {metadata: {labels, annotations}}},"
    " or metadata and spec as template of kind PodTemplate, apiVersion v1"
)


def parse_pod_template(document: object, source: str) -> PodTemplate:
    """Check and return a template.

    Args:
        document: ``{metadata: {labels, annotations}, spec: {...}}``, or the same as ``template`` of
            a PodTemplate; beside them ``job: {metadata: {labels, annotations}}``.
        source: the file, for messages.

    Raises :class:`SettingsError` with the file, and path, value and fix of every problem.
    """
    return _parsed(document, f"{GENERAL}={source!r}", GENERAL)


def parse_class_template(document: object, gpu_class: str) -> PodTemplate:
    """Check and return the template of a class, as :func:`parse_pod_template` does."""
    where = f"class {gpu_class!r}: pod_template"
    return _parsed(document, where, where)


def _parsed(document: object, where: str, source: str) -> PodTemplate:
    found = without_nulls(document)
    if not isinstance(found, dict):
        raise SettingsError(f"{where} is not a pod template but {shown(found)}; {_STRUCTURE}")
    at, template = "", found
    if "kind" in found or "apiVersion" in found:
        kind = f"{found.get('apiVersion')} {found.get('kind')}"
        at, template = "template", found.get("template", {})
        if kind != "v1 PodTemplate" or not isinstance(template, dict):
            raise SettingsError(f"{where} is not a pod template but a {kind}; {_STRUCTURE}")
    job = found.get("job", {})
    wrong = fields("", {"job": job}, _JOB) if at else ()  # else checked with the others
    if problems := [*_template(at, template), *wrong, *_job("job", job)]:
        raise SettingsError(f"{where}: {'; '.join(map(str, problems))}")
    metadata, of_job = template.get("metadata", {}), job.get("metadata", {})
    return PodTemplate(
        metadata.get("labels", {}),
        metadata.get("annotations", {}),
        template.get("spec", {}),
        of_job.get("labels", {}),
        of_job.get("annotations", {}),
        source,
    )


def _template(at: str, template: Mapping[str, Any]) -> Problems:
    yield from fields(at, template, _IN_OBJECT if at else {**_IN_OBJECT, **_JOB})
    dot = at and f"{at}."
    yield from _metadata(f"{dot}metadata", template.get("metadata"))
    spec = template.get("spec")
    if isinstance(spec, dict):
        yield from _pod(f"{dot}spec", spec)


def _job(at: str, job: object) -> Problems:
    """Check the section of Jobs: their labels and annotations, e.g. of a queue of the cluster."""
    if isinstance(job, dict):
        yield from fields(at, job, {"metadata": dict})
        yield from _metadata(f"{at}.metadata", job.get("metadata"))


def _metadata(at: str, metadata: object) -> Problems:
    if not isinstance(metadata, dict):
        return
    yield from fields(at, metadata, {"labels": dict, "annotations": dict})
    yield from _tags(
        f"{at}.labels",
        metadata.get("labels"),
        lambda text: text == "" or is_label_value(text),
    )
    yield from _tags(
        f"{at}.annotations", metadata.get("annotations"), lambda text: isinstance(text, str)
    )


def _tags(at: str, tags: object, is_value: Callable[[object], bool]) -> Problems:
    for key, value in tags.items() if isinstance(tags, dict) else ():
        path = f"{at}.{key}"
        if not is_label_key(key):
            yield Problem(path, value, "has an invalid key", "use name or dns.prefix/name")
        elif key.startswith((PREFIX, "batch.kubernetes.io/")) or key in (
            NAME,
            MANAGED_BY,
            *_JOB_LABELS,
        ):
            yield Problem(path, value, NOT_ALLOWED, "use another key")
        elif not is_value(value):
            yield Problem(
                path,
                value,
                "is not a valid value",
                "quote it; a label value has up to 63 letters, digits, '.', '_', '-'",
            )


def _pod(at: str, spec: Mapping[str, Any]) -> Problems:
    yield from fields(at, spec, _POD, _POD_FIXED)
    for name in (
        "volumes",
        "containers",
        "initContainers",
        "imagePullSecrets",
        "hostAliases",
        "resourceClaims",
    ):
        yield from items(f"{at}.{name}", spec.get(name), MERGE_KEYS[name])
    for where, volume in maps(f"{at}.volumes", spec.get("volumes")):
        yield from _volume(where, volume)
    for where, container in maps(f"{at}.containers", spec.get("containers")):
        yield from executor(where, container)
    for where, container in maps(f"{at}.initContainers", spec.get("initContainers")):
        yield from init_container(where, container)
    yield from claims(at, spec)
    tolerations, selector = spec.get("tolerations"), spec.get("nodeSelector")
    for number, each in enumerate(tolerations if isinstance(tolerations, list) else ()):
        if problem := toleration_problem(each):
            fix = "use e.g. {key: team, operator: Exists, effect: NoSchedule}"
            yield Problem(f"{at}.tolerations[{number}]", each, problem, fix)
    if isinstance(selector, dict) and not is_node_selector(selector):
        yield Problem(
            f"{at}.nodeSelector", selector, "does not map labels to values", "quote its values"
        )
    yield from security(f"{at}.securityContext", spec.get("securityContext"), _POD_SECURITY)


def _volume(at: str, volume: Mapping[str, Any]) -> Problems:
    if not is_dns_label(volume.get("name")):
        yield Problem(
            f"{at}.name",
            volume.get("name"),
            "is not a valid volume name",
            "use lower-case letters, digits and '-'",
        )
    elif volume["name"] == SHM_VOLUME:
        fix = "use another name; set shm_size of the class, or GPU_SHM_SIZE"
        yield Problem(f"{at}.name", SHM_VOLUME, NOT_ALLOWED, fix)
    kinds = [name for name in volume if name != "name"]
    if len(kinds) != 1 or kinds[0] not in _VOLUMES:
        fix = f'use one of {", ".join(_VOLUMES)}: Pod Security "restricted" forbids others'
        yield Problem(at, volume, "is not an allowed volume", fix)
