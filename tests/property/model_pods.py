"""Pods that wait for a job, as the model knows them: a share of a GPU each, and no slot."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Seconds that a pod has to claim the job that it is given, and to leave after its last second.
CLAIMS_WITHIN, LEAVES_WITHIN = 20, 30
#: Seconds without a sign of life after which it is given no job.
SILENT = 10


@dataclass(frozen=True)
class Pod:
    """What a pod can run. ``last``: the attempt that it ran last."""

    last: tuple[str, int]
    isolation: str
    tenant: str
    longest: float | None = None
    gpus: int = 1

    def suits(self, isolation: str, tenant: str, limit: float | None, gpus: int) -> bool:
        short = self.longest is None or (limit is not None and limit <= self.longest)
        same = (self.isolation, self.tenant, self.gpus) == (isolation, tenant, gpus)
        return same and short


@dataclass
class Pods:
    """The pods of a class that wait, by instance."""

    known: dict[str, Pod] = field(default_factory=dict)
    until: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    terms_until: float = 0.0
    """Until when dispatchers start such pods."""

    def wait(self, instance: str, pod: Pod, until: float, now: float) -> None:
        self.known[instance], self.until[instance] = pod, until
        self.seen[instance] = now

    def lives(self, instance: str, now: float) -> bool:
        """Whether it may be given a job."""
        return now < self.terms_until and now - self.seen[instance] < SILENT

    def forget(self, instance: str) -> None:
        self.known.pop(instance, None)
        self.until.pop(instance, None)

    def oldest(self) -> list[str]:
        """The one that leaves first at first."""
        return [instance for _, instance in sorted((at, name) for name, at in self.until.items())]

    def free(self, shares: int, in_use: int) -> None:
        """Let the oldest go until each slot in use has its share."""
        over = max(0, len(self.until) + in_use - shares)
        for instance in self.oldest()[:over]:
            self.forget(instance)

    def tick(self, now: float) -> None:
        for instance in [name for name, until in self.until.items() if until <= now]:
            self.forget(instance)

    def send_away(self, most: int) -> int:
        """Let the oldest go; answers how many."""
        told = self.oldest()[:most]
        for instance in told:
            self.forget(instance)
        return len(told)
