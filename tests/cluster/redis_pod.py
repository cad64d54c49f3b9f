"""A Redis in the tests' namespace: a pod that Pod Security "restricted" allows, a Service for pods,
a port of this machine.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from typing import Any

import redis

from tests.cluster.answers import raw
from tests.cluster.forward import Forward
from tests.support.waiting import until

IMAGE = "redis:7.4-alpine"
PORT = 6379


def start(
    core: Any, namespace: str, name: str, undo: ExitStack, patience: float
) -> tuple[str, str]:
    """Start one and wait until it answers; its URL as pods reach it, and as this machine does."""
    password = secrets.token_urlsafe(24)
    raw(core.create_namespaced_service, namespace, service(name))
    undo.callback(raw, core.delete_namespaced_service, name, namespace)
    raw(core.create_namespaced_pod, namespace, pod(name, password))
    undo.callback(raw, core.delete_namespaced_pod, name, namespace, grace_period_seconds=0)

    def status() -> Any:
        return raw(core.read_namespaced_pod, name, namespace)["status"]

    def ready() -> bool:
        return any(
            (each["type"], each["status"]) == ("Ready", "True")
            for each in status().get("conditions", ())
        )

    until(ready, patience, f"the pod {name} is ready", lambda: str(status()))
    forward = Forward(name, namespace, PORT)
    undo.callback(forward.close)
    here = f"redis://:{password}@127.0.0.1:{forward.port}/0"

    def answers() -> bool:
        with redis.Redis.from_url(here, socket_timeout=10) as asked:
            try:
                return bool(asked.ping())
            except redis.ConnectionError:
                return False

    hint = "or is `pods/portforward` not allowed? Give CLUSTER_REDIS_URL and CLUSTER_REDIS_URL_HERE"
    until(answers, patience, f"the Redis of pod {name} answers through the API server; {hint}")
    return f"redis://:{password}@{name}.{namespace}.svc:{PORT}/0", here


def service(name: str) -> dict[str, Any]:
    """By what name pods find it."""
    return {
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": PORT}]},
    }


def pod(name: str, password: str) -> dict[str, Any]:
    """Keep nothing on disk, and require the password."""
    options = ["--save", "", "--appendonly", "no", "--requirepass", password]
    container = {
        "name": "redis",
        "image": os.environ.get("CLUSTER_REDIS_IMAGE", IMAGE),
        "command": ["redis-server", *options],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }
