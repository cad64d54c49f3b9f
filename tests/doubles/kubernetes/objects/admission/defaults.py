"""The defaults that the API server adds to objects before it stores them."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from tests.doubles.kubernetes.objects.bodies import Body, containers_of
from tests.doubles.kubernetes.objects.wire import generated, stamp

_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_UNREACHABLE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATED_SECONDS = 300
_GRACE = 30

JOB_NAME, CONTROLLER_UID = "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"


def complete_job(job: Body, uid: str) -> None:
    """Add the defaults of a Job that will get this ``uid``."""
    spec = job["spec"]
    template = spec.setdefault("template", {})
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", spec["parallelism"])
    spec.setdefault("manualSelector", False)
    spec.setdefault("suspend", False)
    policy = spec.get("podFailurePolicy")
    spec.setdefault("podReplacementPolicy", "Failed" if policy else "TerminatingOrFailed")
    for rule in (policy or {}).get("rules", ()):
        for pattern in rule.get("onPodConditions", ()):
            pattern.setdefault("status", "True")
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    if not spec["manualSelector"]:
        spec["selector"] = {"matchLabels": {CONTROLLER_UID: uid}}
        name = job["metadata"]["name"]
        labels |= {CONTROLLER_UID: uid, JOB_NAME: name, "controller-uid": uid, "job-name": name}
    complete_template(template.setdefault("spec", {}))


def complete_template(spec: Body) -> None:
    """Add the defaults that both pod templates and pods get."""
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", _GRACE)
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    for container in containers_of(spec):
        image = container.get("image", "")
        fresh = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
        container.setdefault("imagePullPolicy", "Always" if fresh else "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for variable in container.get("env", ()):
            if field := (variable.get("valueFrom") or {}).get("fieldRef"):
                field.setdefault("apiVersion", "v1")


def complete_pod(pod: Body, priorities: Iterable[Body]) -> None:
    """Add the defaults of a pod, its priority, its service account's token and its status."""
    spec = pod["spec"]
    complete_template(spec)
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    account = spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = account
    wanted = spec.get("priorityClassName")
    spec["priority"] = next(
        (item["value"] for item in priorities if item["metadata"]["name"] == wanted), 0
    )
    for container in containers_of(spec):
        limits = container["resources"].get("limits")
        if limits:
            container["resources"]["requests"] = {
                **limits,
                **container["resources"].get("requests", {}),
            }
    _tolerate(spec.setdefault("tolerations", []))
    if spec.get("automountServiceAccountToken", True):
        _mount_token(spec)
    pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    if spec.get("schedulingGates"):
        blocked = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": None,
            "lastTransitionTime": stamp(),
        }
        pod["status"]["conditions"] = [blocked]


def complete_secret(secret: Body) -> None:
    """Add the defaults of a Secret and encode its plain data."""
    secret.setdefault("type", "Opaque")
    encode_secret(secret)


def encode_secret(secret: Body) -> None:
    """Move ``stringData`` into ``data``."""
    plain = secret.pop("stringData", None) or {}
    if plain:
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        secret["data"] = {**(secret.get("data") or {}), **coded}


def complete_namespace(namespace: Body) -> None:
    """Add the defaults of a namespace and its status."""
    metadata = namespace["metadata"]
    namespace.setdefault("spec", {"finalizers": ["kubernetes"]})
    namespace["status"] = {"phase": "Active"}
    labels = metadata.setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = metadata.get("name", "")


def _tolerate(tolerations: list[Body]) -> None:
    for key in _UNREACHABLE:
        if not any(
            item.get("key") in (key, None) and item.get("effect") in ("NoExecute", None)
            for item in tolerations
        ):
            seconds = _TOLERATED_SECONDS
            tolerations.append(
                {
                    "effect": "NoExecute",
                    "key": key,
                    "operator": "Exists",
                    "tolerationSeconds": seconds,
                }
            )


def _mount_token(spec: Body) -> None:
    name = generated("kube-api-access-")
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
        {
            "downwardAPI": {
                "items": [
                    {
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                        "path": "namespace",
                    }
                ]
            }
        },
        {
            "configMap": {
                "items": [{"key": "service-ca.crt", "path": "service-ca.crt"}],
                "name": "openshift-service-ca.crt",
            }
        },
    ]
    spec.setdefault("volumes", []).append(
        {"name": name, "projected": {"defaultMode": 0o644, "sources": sources}}
    )
    for container in containers_of(spec):
        container.setdefault("volumeMounts", []).append(
            {"mountPath": _TOKEN_PATH, "name": name, "readOnly": True}
        )


def _quality(spec: Body) -> str:
    """Return the QoS class. Only cpu and memory count, GPUs do not."""
    requests = [container["resources"].get("requests", {}) for container in containers_of(spec)]
    limits = [container["resources"].get("limits", {}) for container in containers_of(spec)]
    if not any(name in have for have in requests + limits for name in ("cpu", "memory")):
        return "BestEffort"
    whole = all(
        name in limit and request.get(name) == limit[name]
        for request, limit in zip(requests, limits, strict=True)
        for name in ("cpu", "memory")
    )
    return "Guaranteed" if whole else "Burstable"
