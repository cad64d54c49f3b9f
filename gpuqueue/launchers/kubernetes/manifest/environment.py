"""What containers are told by their environment: by value, by the pod's own fields, and from the
Secret. Pure.

No credential is ever given by value: whoever may read a pod's spec would have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.model.record import Record

#: Keys of the Secret → whether an executor cannot do without.
SECRET_KEYS = {
    "CELERY_BROKER_URL": True,
    "CELERY_RESULT_BACKEND": False,
    "GPUQUEUE_REDIS_URL": False,
}
#: Fields of the pod that only the cluster knows.
_OWN_FIELDS = {
    "GPUQUEUE_POD": "metadata.name",
    "GPUQUEUE_POD_UID": "metadata.uid",
    "GPUQUEUE_NODE": "spec.nodeName",
}
#: Fields of a record that travel; those beside the token are for the application and for people.
_TOLD = (
    "delivery",
    "gpu_class",
    "isolation",
    "attempt",
    "token",
    "retries",
    "nesting",
    "tenant",
    "task",
    "time_limit",
)
#: Which GPUs a container sees. The device plugin sets it, and set by hand it opens every GPU of the
#: node.
VISIBLE_GPUS = "NVIDIA_VISIBLE_DEVICES"

Variable = dict[str, Any]


def is_ours(name: str) -> bool:
    """Whether a variable is for nobody else to set."""
    return name.startswith("GPUQUEUE_") or name in SECRET_KEYS or name == VISIBLE_GPUS


def executor_variables(
    record: Record, instance: str, common: Mapping[str, str], secret: str
) -> list[Variable]:
    """Return the environment of an executor: ``common`` to all, of this attempt, of its pod, and
    from the Secret.
    """
    said: Mapping[str, Any] = record
    attempt = {
        f"GPUQUEUE_{name.upper()}": str(said[name]) for name in _TOLD if said.get(name) is not None
    }
    told = {**common, "GPUQUEUE_JOB_ID": record["id"], **attempt, "GPUQUEUE_INSTANCE": instance}
    return [
        *variables(told),
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in _OWN_FIELDS.items()
        ),
        *(_from_secret(secret, key, needed) for key, needed in SECRET_KEYS.items()),
    ]


def variables(told: Mapping[str, str]) -> list[Variable]:
    """Return variables that arrive exactly as they are given."""
    return [{"name": name, "value": literal(text)} for name, text in told.items()]


def literal(text: str) -> str:
    """Return what Kubernetes reads as this very text: it expands ``$(NAME)`` in values, commands
    and arguments.
    """
    return text.replace("$", "$$")


def _from_secret(secret: str, key: str, needed: bool) -> Variable:
    return {
        "name": key,
        "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": not needed}},
    }
