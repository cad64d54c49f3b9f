"""The resources that the double serves, and where they live in the URL space."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """A kind of object: ``plural`` as in URLs, ``group`` empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What objects of this kind say in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def title(self) -> str:
        """The plural as the server's messages write it: ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def kind_title(self) -> str:
        """The kind as the server's messages write it: ``Job.batch``."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
JOBS = Resource("batch", "v1", "jobs", "Job")
PRIORITY_CLASSES = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False
)

STORED = (
    NAMESPACES,
    NODES,
    PODS,
    EVENTS,
    SECRETS,
    CONFIG_MAPS,
    QUOTAS,
    SERVICE_ACCOUNTS,
    JOBS,
    PRIORITY_CLASSES,
)

#: Answered when they are created, and kept nowhere.
REVIEWS = (
    Resource(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        namespaced=False,
    ),
    Resource(
        "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False
    ),
)

#: (group, plural) → the resource
BY_PATH = {(resource.group, resource.plural): resource for resource in (*STORED, *REVIEWS)}

#: resource → the subresources that are served
SUBRESOURCES = {
    PODS: ("log", "eviction", "status"),
    SERVICE_ACCOUNTS: ("token",),
    JOBS: ("status",),
}
