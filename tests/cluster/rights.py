"""A kubeconfig that may do what a dispatcher needs, and nothing else: a ServiceAccount with a Role
of exactly those rights.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kubernetes import client, config

from gpuqueue.launchers.kubernetes.api.access import DISPATCHER
from tests.cluster.answers import raw

ROLES = "rbac.authorization.k8s.io"


def limited(core: Any, namespace: str, name: str, directory: Path, undo: ExitStack) -> Path:
    """Make one. CLUSTER_SERVICE_ACCOUNT names a ServiceAccount that has its Role already.

    Raises :class:`kubernetes.client.ApiException`: 403 where Roles may not be made.
    """
    account = os.environ.get("CLUSTER_SERVICE_ACCOUNT")
    if not account:
        account = name
        roles = client.RbacAuthorizationV1Api()
        raw(core.create_namespaced_service_account, namespace, {"metadata": {"name": name}})
        undo.callback(raw, core.delete_namespaced_service_account, name, namespace)
        raw(roles.create_namespaced_role, namespace, role(name))
        undo.callback(raw, roles.delete_namespaced_role, name, namespace)
        raw(roles.create_namespaced_role_binding, namespace, binding(name, namespace))
        undo.callback(raw, roles.delete_namespaced_role_binding, name, namespace)
    asked = {"spec": {"audiences": [], "expirationSeconds": 3600}}
    token = raw(core.create_namespaced_service_account_token, account, namespace, asked)["status"][
        "token"
    ]
    path = directory / "limited.json"
    path.touch(0o600)
    path.write_text(json.dumps(kubeconfig(core.api_client.configuration, token, namespace)))
    return path


def role(name: str) -> Any:
    """The rights in a Role, a rule for each."""
    rules = [
        client.V1PolicyRule(
            api_groups=[right.group],
            resources=[
                f"{right.resource}/{right.subresource}" if right.subresource else right.resource
            ],
            verbs=[right.verb],
        )
        for right in DISPATCHER
    ]
    return client.V1Role(metadata=client.V1ObjectMeta(name=name), rules=rules)


def binding(name: str, namespace: str) -> Any:
    """The Role given to the ServiceAccount of its name."""
    return client.V1RoleBinding(
        metadata=client.V1ObjectMeta(name=name),
        role_ref=client.V1RoleRef(api_group=ROLES, kind="Role", name=name),
        subjects=[client.RbacV1Subject(kind="ServiceAccount", name=name, namespace=namespace)],
    )


def kubeconfig(known: Any, token: str, namespace: str) -> dict[str, Any]:
    """The cluster that this process uses, for another user."""
    cluster = {"server": known.host}
    if known.ssl_ca_cert:
        cluster["certificate-authority"] = str(known.ssl_ca_cert)
    if not known.verify_ssl:
        cluster["insecure-skip-tls-verify"] = True
    if known.tls_server_name:
        cluster["tls-server-name"] = known.tls_server_name
    if known.proxy:
        cluster["proxy-url"] = known.proxy
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}
        ],
        "current-context": "test",
    }


def loaded(path: Path) -> Any:
    """The client's configuration of a kubeconfig."""
    made = client.Configuration()
    config.load_kube_config(str(path), client_configuration=made)
    return made
