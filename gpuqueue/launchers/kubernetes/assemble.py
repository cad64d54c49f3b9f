"""Assemble the Kubernetes launcher from settings, and check that the cluster accepts its Jobs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.launchers.base import Observations, OnEnd
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import attempt_manifest
from gpuqueue.launchers.kubernetes.manifest.names import default_owner
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template
from gpuqueue.model.record import Record
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings, load_cluster

logger = logging.getLogger(__name__)


def assemble(
    settings: Settings,
    classes: Mapping[str, GpuClass],
    on_end: OnEnd,
    observations: Observations,
) -> KubernetesLauncher:
    """Make the launcher. Raises :class:`SettingsError`, also for errors of the API server."""
    cluster = load_cluster()
    api = Api(cluster)
    common = context(settings, cluster, api)
    check(api, classes, cluster, common)
    return KubernetesLauncher(api, cluster, common, classes, on_end, observations)


def context(settings: Settings, cluster: ClusterSettings, api: Api) -> ManifestContext:
    """Return what all Jobs of this dispatcher share."""
    return ManifestContext(
        namespace=api.namespace,
        owner=cluster.owner or default_owner(api.namespace, api.identity, settings.redis_url),
        app=settings.app,
        log_level=settings.log_level,
        tombstone_seconds=settings.tombstone_seconds,
        grace_seconds=settings.grace_seconds,
        start_timeout=settings.start_timeout,
        load_timeout=settings.load_timeout or settings.start_timeout,
        start=settings.start,
        pod_template=load_pod_template(cluster.pod_template) if cluster.pod_template else None,
    )


def check(
    api: Requests,
    classes: Mapping[str, GpuClass],
    cluster: ClusterSettings,
    common: ManifestContext,
) -> None:
    """Send a Job of each class as a dry run, so that the API server reports errors at the start.

    Raises :class:`SettingsError`. An unreachable server only logs a warning: launches wait for it.
    """
    for gpu_class in classes.values():
        try:
            api.create_job(sample(gpu_class, cluster, common), dry_run=True)
        except InvalidJob as exc:
            raise SettingsError(f"class {gpu_class.name!r}: {exc}") from exc
        except ApiError as exc:
            if not exc.passing:
                raise SettingsError(
                    f"the cluster rejects a Job of class {gpu_class.name!r}: {exc}"
                ) from exc
            logger.warning(
                "a Job of class %s was not checked: %s",
                gpu_class.name,
                exc,
                extra={"action": "not_checked"},
            )


def sample(
    gpu_class: GpuClass, cluster: ClusterSettings, common: ManifestContext
) -> dict[str, Any]:
    """Return a Job of this class for no real job."""
    record: Record = {
        "delivery": "gpuqueue-check",
        "id": "gpuqueue-check",
        "task": "gpuqueue.check",
        "gpu_class": gpu_class.name,
        "isolation": gpu_class.default_isolation,
        "attempt": 1,
        "token": "check",
    }
    return attempt_manifest(record, gpu_class, cluster, common)
