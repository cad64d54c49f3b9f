"""The resources that the API server serves, and their place in the URL space."""

from __future__ import annotations

from dataclasses import dataclass

#: The version of the API server and of the kubelets.
VERSION = "v1.36.2"


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """A kind of object. ``plural`` is the name in URLs; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of objects of this kind."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def title(self) -> str:
        """The plural in messages of the server: ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def kind_title(self) -> str:
        """The kind in messages of the server: ``Job.batch``."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
LIMIT_RANGES = Resource("", "v1", "limitranges", "LimitRange")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
JOBS = Resource("batch", "v1", "jobs", "Job")
PRIORITY_CLASSES = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False
)
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)

STORED = (
    NAMESPACES,
    NODES,
    PODS,
    EVENTS,
    SECRETS,
    CONFIG_MAPS,
    QUOTAS,
    LIMIT_RANGES,
    SERVICE_ACCOUNTS,
    JOBS,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
)

#: The server responds to their creation and stores none.
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

#: (group, plural) → resource
BY_PATH = {(resource.group, resource.plural): resource for resource in (*STORED, *REVIEWS)}

#: resource → subresources
SUBRESOURCES = {
    PODS: ("log", "eviction", "status"),
    SERVICE_ACCOUNTS: ("token",),
    JOBS: ("status",),
}
