"""What the API says of a cluster, as far as ``doctor`` reads it: nodes, namespaces, Secrets' keys,
what we may do.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from gpuqueue.launchers.kubernetes.api.objects import Condition, Decoded, Meta


class NamespaceStatus(Decoded, frozen=True):
    """``phase``: Active or Terminating."""

    phase: str = ""


class Namespace(Decoded, frozen=True):
    """A namespace."""

    metadata: Meta = Meta()
    status: NamespaceStatus = NamespaceStatus()


class Taint(Decoded, frozen=True):
    """What keeps pods that do not tolerate it off a node."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Decoded, frozen=True):
    """``unschedulable``: cordoned."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeStatus(Decoded, frozen=True):
    """``allocatable``: resource → quantity, as Kubernetes writes it (``"8"``, ``"3920m"``)."""

    allocatable: dict[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()


class Node(Decoded, frozen=True):
    """A node."""

    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        """Whether its kubelet says so."""
        return any(
            condition.type == "Ready" and condition.status == "True"
            for condition in self.status.conditions
        )


class Secret(Decoded, frozen=True):
    """A Secret: its keys are read, its values are let go at once."""

    data: dict[str, Any] | None = None


class ReviewStatus(Decoded, frozen=True):
    """Whether we may, and why or why not."""

    allowed: bool = False
    reason: str = ""
    evaluation_error: str = ""


class Review(Decoded, frozen=True):
    """A SelfSubjectAccessReview, answered."""

    status: ReviewStatus


class Version(Decoded, frozen=True):
    """What ``/version`` says."""

    git_version: str
