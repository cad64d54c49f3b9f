"""Objects that only ``gpuqueue doctor`` reads: nodes, namespaces, keys of Secrets, access reviews,
and the server version. Pure.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from gpuqueue.launchers.kubernetes.api.objects import Condition, Decoded, Meta


class NamespaceStatus(Decoded, frozen=True):
    """``status`` of a namespace. ``phase`` is Active or Terminating."""

    phase: str = ""


class Namespace(Decoded, frozen=True):
    """A namespace."""

    metadata: Meta = Meta()
    status: NamespaceStatus = NamespaceStatus()


class Taint(Decoded, frozen=True):
    """A taint of a node."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Decoded, frozen=True):
    """``spec`` of a node. ``unschedulable`` is true for a cordoned node."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeStatus(Decoded, frozen=True):
    """``status`` of a node. ``allocatable`` maps resources to quantities (``"8"``, ``"3920m"``)."""

    allocatable: dict[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()


class Node(Decoded, frozen=True):
    """A node."""

    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        """Whether its kubelet reports it as ready."""
        return any(
            condition.type == "Ready" and condition.status == "True"
            for condition in self.status.conditions
        )


class Secret(Decoded, frozen=True):
    """A Secret. Only its keys are read; the values are dropped at once."""

    data: dict[str, Any] | None = None


class ReviewStatus(Decoded, frozen=True):
    """Whether access is allowed, and the reason."""

    allowed: bool = False
    reason: str = ""
    evaluation_error: str = ""


class Review(Decoded, frozen=True):
    """The response to a SelfSubjectAccessReview."""

    status: ReviewStatus


class Version(Decoded, frozen=True):
    """The response of ``/version``."""

    git_version: str
