"""What a decision depends on: one class at one moment. Times are Unix seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuqueue.model.names import SHARED

#: The domain of a holder that may be in any.
NOWHERE_YET = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What operators set for a class; slots and bounds of each domain."""

    shared_slots: int
    exclusive_slots: int
    exclusive_patience: int
    shared_patience: int

    def slots(self, isolation: str) -> int:
        """Return the slots of one isolation."""
        return self.shared_slots if isolation == SHARED else self.exclusive_slots

    @property
    def share(self) -> float:
        """The part of a GPU that a shared slot is, as the use of tenants counts."""
        if self.shared_slots <= 0:
            return 1.0
        return round(min(1.0, max(1, self.exclusive_slots) / self.shared_slots), 6)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in line, or one that will be."""

    delivery: str
    isolation: str
    priority: int = 0
    arrival: int = 0
    tenant: str = ""
    task: str = ""
    time_limit: float | None = None
    """By which its end is planned, unless it ``may_exceed`` that: its task may declare another."""
    expires: float | None = None
    avoid: frozenset[str] = frozenset()
    """Domains where it has failed."""
    since: float = 0.0
    """When it was accepted."""
    gpus: int = 1
    """How many slots it needs."""
    may_exceed: bool = False

    @property
    def planned_limit(self) -> float | None:
        """The limit in seconds by which its end is planned; None: it has none, or it may change."""
        return None if self.may_exceed else self.time_limit

    @property
    def place(self) -> tuple[int, int, str]:
        """Its place in the line of its isolation."""
        return (self.priority, self.arrival, self.delivery)


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that holds a slot."""

    holder: str
    isolation: str
    tenant: str = ""
    task: str = ""
    domain: str | None = None
    planned_end: float | None = None
    """As its limit says."""
    time_limit: float | None = None
    since: float = 0.0
    """When it got its slot."""
    charged: float | None = None
    """Up to when its tenant is charged."""
    accepted: float = 0.0
    priority: int = 0
    gpus: int = 1

    @property
    def names(self) -> list[str]:
        """The names of its slots; see lua/lib/slots.lua."""
        if self.gpus == 1:
            return [self.holder]
        return [self.holder, *(f"{self.holder}/{at}" for at in range(2, self.gpus + 1))]


@dataclass(frozen=True, slots=True)
class Tenant:
    """What a tenant has used, and may have."""

    id: int
    served: int = 0
    usage: float = 0.0
    """In GPU-seconds, decayed; as of ``at``."""
    at: float = 0.0
    weight: float = 1.0
    max_running: int | None = None
    guaranteed: int = 0


@dataclass(frozen=True, slots=True)
class Tenants:
    """How a class orders the jobs of tenants. ``others``: the rule of a tenant that comes."""

    known: Mapping[str, Tenant]
    half_life: float
    share: float
    served: int
    """How many starts there were: a counter."""
    last_id: int
    others: Tenant = Tenant(0)
    rules: Mapping[str, Tenant] = field(default_factory=dict)
    """Of tenants that are not ``known``."""
    unread: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(tenant, isolation) → its jobs in line that were not read, behind those that were."""
    turn: str | None = None
    """The job of several GPUs that was first, and keeps its turn; see lua/lib/tenants.lua."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A domain whose GPU or node is set aside."""

    until: float
    probe: str = ""
    """The holder that tries it."""
    proven: float = math.inf
    """When that has run for so long that the domain works."""


@dataclass(frozen=True, slots=True)
class Domains:
    """The domains of a class: name → slots of the shared and of the exclusive jobs."""

    slots: Mapping[str, tuple[int, ...]]
    drained: str | None = None
    until: float = 0.0
    """When the one that drains is idle, as its jobs had declared."""
    aside: Mapping[str, Aside] = field(default_factory=dict)
    reserved: str | None = None
    """The one that is reserved for a waiting job of several GPUs."""
    reserved_for: str | None = None
    strict: str | None = None
    """The job of several GPUs before which no other exclusive job behind it starts."""
    kept: frozenset[str] = frozenset()
    """Nodes that are kept for pods that may have made them come; see lua/lib/unbound.lua."""
    scale: int = 0
    """How many domains the class may have with those that are unbound."""
    largest: int = 0
    """The most exclusive slots of a domain, as it was written; 0: of those that there are."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One class at one moment."""

    now: float
    rules: Rules
    waiting: Sequence[Waiting] = ()
    more: Mapping[str, int] = field(default_factory=dict)
    """Isolation → how many jobs in line were not read. In a class that orders by arrival, they are
    behind those that were.
    """
    held: Sequence[Held] = ()
    delayed: Sequence[tuple[float, Waiting]] = ()
    """Jobs that wait for a time, with it."""
    bypassed: int = 0
    row: int = 0
    until: float | None = None
    """When a class of one domain should be idle whose gate is closed, as its jobs had declared; 0:
    one of them has declared no end. None: its gate is open.
    """
    arrivals: int = 0
    """The arrival given last: a counter."""
    opened: bool = True
    domains: Domains | None = None
    """None: the class is one domain."""
    tenants: Tenants | None = None
    """None: the class orders by priority and arrival."""
    asked: Waiting | None = None
    """The job that it is about, if it waits."""
