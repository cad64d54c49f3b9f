"""The doctor's check of ResourceQuotas that demand what the pods of a class do not set.

A Job passes such a quota, and its pod never comes: a dry run of the Job shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.launchers.kubernetes.api.cluster_objects import DEMANDED, LimitRange, Quota
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.manifest.job import Manifest
from gpuqueue.launchers.kubernetes.status.refusals import fix_of_demand


def demands(api: Requests, jobs: Mapping[str, Manifest]) -> Iterator[Check]:
    """Compare the quotas of each namespace with the ``jobs`` of classes there. Quotas with scopes
    are left out: they may not concern these pods.
    """
    read: dict[str, tuple[list[Quota], list[LimitRange]] | ApiError] = {}
    for name, job in jobs.items():
        namespace = job["metadata"]["namespace"]
        if namespace not in read:
            within = api if namespace == api.namespace else api.within(namespace)
            read[namespace] = found = _read(within)
            if isinstance(found, ApiError):
                yield _unknown(namespace, found)
        found = read[namespace]
        if not isinstance(found, ApiError):
            yield from _of_class(name, job["spec"]["template"]["spec"], *found)


def _read(api: Requests) -> tuple[list[Quota], list[LimitRange]] | ApiError:
    try:
        quotas = api.list_quotas()
        return quotas, api.list_limit_ranges() if quotas else []
    except ApiError as exc:
        return exc


def _unknown(namespace: str, exc: ApiError) -> Check:
    if isinstance(exc, Forbidden):
        fix = "run the doctor as a user with the rights `list resourcequotas` and `limitranges`"
        return Check("quota", Level.WARN, f"namespace {namespace}: not checked", fix)
    return Check("quota", Level.WARN, f"namespace {namespace}: {exc}", "run the doctor again")


def _of_class(
    name: str, pod: Mapping[str, Any], quotas: list[Quota], ranges: list[LimitRange]
) -> Iterator[Check]:
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    for quota in quotas:
        missing = {
            resource: [each["name"] for each in containers if not _sets(each, resource, ranges)]
            for resource in sorted(DEMANDED.intersection(quota.spec.hard))
            if not quota.spec.has_scopes
        }
        for resource, without in missing.items():
            if without:
                saw = (
                    f"{name}: quota {quota.metadata.name} refuses its pods: must specify"
                    f" {resource} for: {', '.join(sorted(without))}"
                )
                yield Check("quota", Level.FAIL, saw, fix_of_demand(resource))


def _sets(container: Mapping[str, Any], resource: str, ranges: list[LimitRange]) -> bool:
    """Whether a container has an amount of a resource, by itself or by the default of a range."""
    kind, _, name = resource.rpartition(".")
    resources = container.get("resources", {})
    limited = name in resources.get("limits", {})
    limited = limited or any(name in each.defaults for each in ranges)
    if kind == "limits":
        return limited
    # A limit is the request of a container without one.
    requested = any(name in each.default_requests for each in ranges)
    return limited or requested or name in resources.get("requests", {})
