"""Assemble the Kubernetes launcher from settings, and check that the cluster accepts its Jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import ClusterNotReady, InvalidJob, SettingsError
from gpuqueue.launchers.base import Observations, OnEnd, WholeLogs
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import (
    ApiError,
    Forbidden,
    Invalid,
    NotFound,
)
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import default_owner, selector
from gpuqueue.launchers.kubernetes.manifest.sample import sample
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings, load_cluster
from gpuqueue.store.owners import Owners

logger = logging.getLogger(__name__)
#: The namespace whose UID tells clusters apart.
SYSTEM = "kube-system"


def assemble(
    settings: Settings,
    classes: Mapping[str, GpuClass],
    on_end: OnEnd,
    observations: Observations,
    owners: Owners,
    whole_logs: WholeLogs | None = None,
) -> KubernetesLauncher:
    """Make the launcher. Raises :class:`SettingsError`, also for errors of the API server, and
    :class:`ClusterNotReady` if it must answer first.
    """
    cluster = load_cluster()
    api = Api(cluster)
    owner = owner_of(api, cluster, settings.redis_url, owners, namespaces_of(classes))
    common = context(settings, cluster, api, owner)
    check(api, classes, cluster, common)
    return KubernetesLauncher(api, cluster, common, classes, on_end, observations, whole_logs)


def namespaces_of(classes: Mapping[str, GpuClass]) -> set[str]:
    """Return the namespaces that classes name."""
    return {each.namespace for each in classes.values() if each.namespace}


def owner_of(
    api: Api,
    cluster: ClusterSettings,
    redis_url: str,
    owners: Owners,
    namespaces: Iterable[str] = (),
    *,
    keep: bool = True,
) -> str:
    """Return the name on every Job of this queue in this cluster. It is decided once, and kept in
    Redis by marks of the cluster: the UID of its namespace ``kube-system``, where that may be read,
    and its address with its CA. A cluster without a known mark is one of those that this Redis
    knows if it runs Jobs of it, there or in the ``namespaces`` of classes. ``keep=False`` only
    looks.

    Raises :class:`ClusterNotReady` if that cannot be told now.
    """
    if cluster.owner:
        return cluster.owner
    marks = [api.identity]
    try:
        if system := api.get_namespace(SYSTEM):
            marks.insert(0, f"uid {system.metadata.uid}")
    except ApiError as exc:
        if exc.passing and not owners.known(marks):
            _wait_for(exc, owners)
    found = owners.known(marks) or _by_its_jobs(api, namespaces, owners)
    owner = found or default_owner(api.namespace, api.identity, redis_url)
    return owners.keep(marks, owner) if keep else owner


def _by_its_jobs(api: Api, namespaces: Iterable[str], owners: Owners) -> str | None:
    """Return the owner of Jobs that run here."""
    others = sorted({*namespaces} - {api.namespace})
    for within in (api, *(api.within(each) for each in others)):
        for each in owners.others():
            try:
                if within.list_jobs(selector(each))[0]:
                    return each
            except ApiError as exc:
                # Without a class's rights, its jobs wait, and those of the others go on.
                if exc.passing and (within is api or not isinstance(exc, Forbidden)):
                    _wait_for(exc, owners)
    return None


def _wait_for(exc: ApiError, owners: Owners) -> None:
    """Raise :class:`ClusterNotReady`, unless this Redis knows no other cluster."""
    if owners.others():
        raise ClusterNotReady(f"whose Jobs run in the cluster is not known: {exc}") from exc


def context(settings: Settings, cluster: ClusterSettings, api: Api, owner: str) -> ManifestContext:
    """Return what all Jobs of this dispatcher share."""
    return ManifestContext(
        namespace=api.namespace,
        owner=owner,
        app=settings.app,
        log_level=settings.log_level,
        tombstone_seconds=settings.tombstone_seconds,
        grace_seconds=settings.grace_seconds,
        start_timeout=settings.start_timeout,
        load_timeout=settings.load_timeout or settings.start_timeout,
        start=settings.start,
        states=settings.states,
        pod_template=load_pod_template(cluster.pod_template) if cluster.pod_template else None,
    )


def check(
    api: Requests,
    classes: Mapping[str, GpuClass],
    cluster: ClusterSettings,
    common: ManifestContext,
) -> None:
    """Send a Job of each class as a dry run, so that the API server reports errors at the start.

    Raises :class:`SettingsError` for what the settings are at fault. An unreachable server, a
    missing right or namespace, or a policy only log a warning: launches wait, and a restart must
    not stop.
    """
    for gpu_class in classes.values():
        if not gpu_class.has_gpu:  # its jobs bring their image
            continue
        try:
            dry_run(api, sample(gpu_class, cluster, common))
        except InvalidJob as exc:
            raise SettingsError(f"class {gpu_class.name!r}: {exc}") from exc
        except ApiError as exc:
            of_cluster = isinstance(exc, Forbidden | NotFound)
            of_policy = exc.denied or (isinstance(exc, Invalid) and not exc.fields)
            if not (exc.passing or of_cluster or of_policy):
                raise SettingsError(
                    f"the cluster rejects a Job of class {gpu_class.name!r}: {exc}"
                ) from exc
            logger.warning(
                "a Job of class %s was not checked: %s",
                gpu_class.name,
                exc,
                extra={"action": "not_checked"},
            )


def dry_run(api: Requests, manifest: Mapping[str, Any]) -> None:
    """Ask the server to dry-run a Job in its namespace. Raises ApiError."""
    namespace = manifest["metadata"]["namespace"]
    within = api if namespace == api.namespace else api.within(namespace)
    within.create_job(manifest, dry_run=True)
