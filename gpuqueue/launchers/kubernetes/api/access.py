"""What the code asks of the API server: the rights that a dispatcher needs, and those that only the
doctor has a use for.
"""

from __future__ import annotations

from typing import NamedTuple


class Right(NamedTuple):
    """One verb on one resource, as RBAC writes it."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespaced: bool = True

    def __str__(self) -> str:
        """As ``kubectl auth can-i`` is asked: ``get pods/log``."""
        name = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {name}" + (f"/{self.subresource}" if self.subresource else "")


#: Every request of ``requests.py`` that launching and following makes; a test compares them.
DISPATCHER = (
    Right("create", "jobs", "batch"),
    Right("get", "jobs", "batch"),
    Right("list", "jobs", "batch"),
    Right("delete", "jobs", "batch"),
    Right("list", "pods"),
    Right("watch", "pods"),
    Right("get", "pods", subresource="log"),
    Right("list", "events"),
)
#: Looked at by ``gpuqueue doctor`` where they are allowed; nothing else needs them.
DOCTOR = (
    Right("get", "namespaces"),
    Right("get", "secrets"),
    Right("list", "nodes", namespaced=False),
)
