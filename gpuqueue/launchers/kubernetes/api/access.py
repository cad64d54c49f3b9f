"""RBAC rights: those that a dispatcher needs, and those that only ``gpuqueue doctor`` uses."""

from __future__ import annotations

from typing import NamedTuple


class Right(NamedTuple):
    """One verb on one resource, in the terms of RBAC."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespaced: bool = True

    def __str__(self) -> str:
        """Return the arguments of ``kubectl auth can-i``: ``get pods/log``."""
        name = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {name}" + (f"/{self.subresource}" if self.subresource else "")


#: One right per request that launching and following make; a test compares them.
DISPATCHER = (
    Right("create", "jobs", "batch"),
    Right("get", "jobs", "batch"),
    Right("list", "jobs", "batch"),
    Right("watch", "jobs", "batch"),
    Right("delete", "jobs", "batch"),
    Right("list", "pods"),
    Right("watch", "pods"),
    Right("get", "pods", subresource="log"),
    Right("list", "events"),
    Right("watch", "events"),
)
#: For classes whose domains are the nodes of the cluster, by a ClusterRole.
BY_NODE = (Right("list", "nodes", namespaced=False),)
#: Those that a Role of an earlier version lacks: the leader lists again and again instead.
WITH_LISTS_INSTEAD = frozenset({Right("watch", "jobs", "batch"), Right("watch", "events")})
#: ``gpuqueue confirm-gone`` reads the node if it is allowed to, and the leader that of a deleted
#: pod.
OPERATOR = (Right("get", "nodes", namespaced=False),)
#: ``gpuqueue doctor`` reads these if it is allowed to; nothing else needs them.
DOCTOR = (
    Right("get", "namespaces"),
    Right("get", "secrets"),
    Right("list", "resourcequotas"),
    Right("list", "limitranges"),
    Right("list", "nodes", namespaced=False),
)
