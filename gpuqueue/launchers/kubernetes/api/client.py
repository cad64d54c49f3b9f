# Only half of the client is typed.
# mypy: disallow-untyped-calls=False
"""The adapter to the API server, and the only importer of the ``kubernetes`` client.

The client does what is laborious and risky to write again: it reads kubeconfigs and service
accounts, renews tokens, runs credential plugins, and sets up TLS and proxies. It decodes nothing:
its typed models cost over 30 times the time and memory of ours.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.config import incluster_config, kube_config

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.api.transport import Transport
from gpuqueue.settings.kubernetes import ClusterSettings

#: Connections kept open: enough for the threads that launch (8), finish and watch, and for larger
#: settings. Further connections are closed after use.
CONNECTIONS = 64


class Api(Requests):
    """The cluster of the environment: KUBECONFIG, else the service account of the pod, else the
    default kubeconfig.

    Attributes:
        namespace: GPU_JOB_NAMESPACE, else the namespace of the service account or of the kubeconfig
            context, else ``default``.
        server: the address of the API server.
        identity: text that differs between clusters: the address, and a hash of its CA.

    Raises :class:`SettingsError` when no cluster is configured.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self._configuration = client.Configuration()
        self._configuration.connection_pool_maxsize = CONNECTIONS
        # Load balancers drop idle connections silently. TCP keep-alive detects it, also while a log
        # is followed for hours.
        self._configuration.keep_alive = True
        namespace = _configure(self._configuration)
        self._client = client.ApiClient(self._configuration)
        self._renewing = threading.Lock()
        self.server: str = self._configuration.host.rstrip("/")
        self.identity = _identity(self.server, self._configuration)
        pool = self._client.rest_client.pool_manager
        super().__init__(
            Transport(pool, self.server, self._headers, settings.api_timeout),
            settings.job_namespace or namespace or "default",
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._client.rest_client.close()

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "gpuqueue"}
        with self._renewing:  # one thread renews an expired token while the others wait
            self._client.update_params_for_auth(headers, [], ["BearerToken"], None, None, None)
        # A token file may end with a newline.
        return {name: value.strip() for name, value in headers.items() if value}


def _configure(configuration: Any) -> str:
    """Fill in the configuration of the client; return its namespace, or ""."""
    if files := os.environ.get("KUBECONFIG"):
        return _from_kubeconfig(configuration, files, f"KUBECONFIG={files!r}")
    tried = ["KUBECONFIG is not set"]
    try:
        config.load_incluster_config(configuration)
        return _namespace_of_pod()
    except (config.ConfigException, OSError) as exc:
        tried.append(f"not in a pod with a service account ({exc})")
    default = Path("~/.kube/config").expanduser()
    if default.exists():
        return _from_kubeconfig(configuration, str(default), str(default))
    tried.append(f"{default} does not exist")
    raise SettingsError(
        f"no Kubernetes cluster is configured: {', '.join(tried)};"
        " set KUBECONFIG, or run in a pod whose service account token is mounted"
    )


def _from_kubeconfig(configuration: Any, files: str, source: str) -> str:
    try:
        merger = kube_config.KubeConfigMerger(files)
        if merger.config is None:
            raise config.ConfigException("no such file")
        loader = kube_config.KubeConfigLoader(
            merger.config, config_base_path=None, config_persister=merger.save_changes
        )
        loader.load_and_set(configuration)
        context = loader.current_context["context"]
        _check_plugin(
            merger.config["users"].get_with_name(context.get("user"), safe=True), configuration
        )
    except Exception as exc:  # a kubeconfig may be wrong in any way: YAML, types, missing files
        raise SettingsError(
            f"{source} cannot be used: {' '.join(str(exc).split())}; correct it, or set KUBECONFIG"
            " to another file"
        ) from exc
    return str(context.get("namespace") or "")


def _check_plugin(user: Any, configuration: Any) -> None:
    # The client only logs the failure of a credential plugin, and continues without credentials.
    if (
        user is not None
        and "exec" in user["user"]
        and not (configuration.api_key or configuration.cert_file)
    ):
        raise config.ConfigException(
            f"its plugin {user['user']['exec']['command']!r} returned no credentials (see the log)"
        )


def _namespace_of_pod() -> str:
    file = Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace")
    return file.read_text().strip() if file.exists() else ""


def _identity(server: str, configuration: Any) -> str:
    if not configuration.ssl_ca_cert:
        return server
    authority = Path(configuration.ssl_ca_cert).read_bytes()
    return f"{server} {hashlib.sha256(authority).hexdigest()[:16]}"
