"""Environment variables of containers: literal values, fields of the pod, keys of the Secret. Pure.

Never here: credentials as literal values, since everyone who can read the pod spec would see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.model.executor_env import INSTANCE, NODE, POD, POD_UID, record_variables
from gpuqueue.model.record import Record

#: Keys of the Secret → whether executors require them.
SECRET_KEYS = {
    "CELERY_BROKER_URL": True,
    "CELERY_RESULT_BACKEND": False,
    "GPUQUEUE_REDIS_URL": False,
    "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": False,
    "GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS": False,
}
_POD_FIELDS = {POD: "metadata.name", POD_UID: "metadata.uid", NODE: "spec.nodeName"}
#: The GPUs of a container. Only the device plugin may set it: another value can expose all GPUs of
#: the node.
VISIBLE_GPUS = "NVIDIA_VISIBLE_DEVICES"
#: What hides the GPUs of a node from a container.
NO_GPU = {VISIBLE_GPUS: "void"}

Variable = dict[str, Any]


def is_ours(name: str) -> bool:
    """Whether only gpuqueue or the device plugin may set a variable."""
    return name.startswith("GPUQUEUE_") or name in SECRET_KEYS or name == VISIBLE_GPUS


def executor_variables(
    record: Record, instance: str, common: Mapping[str, str], secret: str
) -> list[Variable]:
    """Return the environment of an executor.

    It has the variables ``common`` to all executors, those of the attempt and its pod, and those
    from the Secret.
    """
    return [
        *variables({**common, **record_variables(record), INSTANCE: instance}),
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in _POD_FIELDS.items()
        ),
        *(_from_secret(secret, key, needed) for key, needed in SECRET_KEYS.items()),
    ]


def variables(values: Mapping[str, str]) -> list[Variable]:
    """Return variables whose values reach the container unchanged."""
    return [{"name": name, "value": literal(text)} for name, text in values.items()]


def literal(text: str) -> str:
    """Escape a text: Kubernetes expands ``$(NAME)`` in values, commands and arguments."""
    return text.replace("$", "$$")


def _from_secret(secret: str, key: str, needed: bool) -> Variable:
    return {
        "name": key,
        "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": not needed}},
    }
