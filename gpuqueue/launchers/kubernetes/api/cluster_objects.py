"""Objects that only ``gpuqueue doctor`` reads: nodes, namespaces, keys of Secrets, access reviews,
quotas, and the server version. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

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


#: The resources of ``hard`` that each container must set. Of the others, none is demanded.
DEMANDED: Final = frozenset(
    f"{kind}{name}" for kind in ("", "requests.", "limits.") for name in ("cpu", "memory")
)


class QuotaSpec(Decoded, frozen=True):
    """``spec`` of a ResourceQuota. ``hard`` maps resources to quantities."""

    hard: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] | None = None
    scope_selector: dict[str, Any] | None = None

    @property
    def has_scopes(self) -> bool:
        """Whether it concerns some pods only."""
        return bool(self.scopes or self.scope_selector)


class Quota(Decoded, frozen=True):
    """A ResourceQuota."""

    metadata: Meta = Meta()
    spec: QuotaSpec = QuotaSpec()


class RangeItem(Decoded, frozen=True):
    """The limits of one ``type`` of objects, with the defaults of containers."""

    type: str = ""
    default: dict[str, str] = field(default_factory=dict)
    default_request: dict[str, str] = field(default_factory=dict)


class RangeSpec(Decoded, frozen=True):
    """``spec`` of a LimitRange."""

    limits: tuple[RangeItem, ...] = ()


class LimitRange(Decoded, frozen=True):
    """A LimitRange: it gives containers the limits and requests that they do not set."""

    metadata: Meta = Meta()
    spec: RangeSpec = RangeSpec()

    @property
    def defaults(self) -> set[str]:
        """The resources whose limit it sets."""
        return {name for item in self._containers() for name in item.default}

    @property
    def default_requests(self) -> set[str]:
        """The resources whose request it sets."""
        return {name for item in self._containers() for name in item.default_request}

    def _containers(self) -> Iterator[RangeItem]:
        return (item for item in self.spec.limits if item.type == "Container")


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
