"""Which pods must share a node, and which must not: required affinity between pods.

Only ``topologyKey: kubernetes.io/hostname``, within a namespace, as pods of gpuqueue use it. No
recording has it: the rules and the words are those of the scheduler's plugin InterPodAffinity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.selectors import requirement

HOSTNAME = "kubernetes.io/hostname"
NOT_TOGETHER = "node(s) didn't match pod affinity rules"
NOT_APART = "node(s) didn't match pod anti-affinity rules"
NOT_APART_THERE = "node(s) didn't satisfy existing pods anti-affinity rules"
#: Obstacles that the end of other pods removes.
PASSING = (NOT_APART, NOT_APART_THERE)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What counts of a pod."""

    namespace: str
    labels: Body
    together: tuple[Body, ...] = ()
    apart: tuple[Body, ...] = ()

    @classmethod
    def of(cls, pod: Body) -> Neighbour:
        """Read a pod."""
        meta, affinity = pod["metadata"], pod["spec"].get("affinity") or {}
        return cls(
            meta.get("namespace", ""),
            meta.get("labels") or {},
            _terms(affinity.get("podAffinity")),
            _terms(affinity.get("podAntiAffinity")),
        )

    def selects(self, term: Body, other: Neighbour) -> bool:
        """Whether a term of this pod selects another one."""
        return self.namespace == other.namespace and _selects(term["labelSelector"], other.labels)


class Neighbours:
    """The pods of each node, by uid. Not thread-safe."""

    def __init__(self) -> None:
        self._on: dict[str, dict[str, Neighbour]] = {}
        self._picky: set[str] = set()  # nodes with a pod that keeps others away

    def take(self, node: str, pod: Body) -> None:
        """A node has got a pod."""
        known = Neighbour.of(pod)
        self._on.setdefault(node, {})[pod["metadata"]["uid"]] = known
        if known.apart:
            self._picky.add(node)

    def give_back(self, node: str, uid: str) -> None:
        """A pod has ended, or is gone."""
        there = self._on.get(node, {})
        there.pop(uid, None)
        if not any(each.apart for each in there.values()):
            self._picky.discard(node)

    def copy(self) -> Neighbours:
        """Return a copy, for a simulation."""
        made = Neighbours()
        made._on = {node: dict(there) for node, there in self._on.items()}
        made._picky = set(self._picky)
        return made

    def misfit(self, pod: Body, node: str) -> str:
        """Return why a pod must not be on a node; empty if it may."""
        if not pod["spec"].get("affinity") and node not in self._picky:
            return ""
        own, there = Neighbour.of(pod), list(self._on.get(node, {}).values())
        if not all(self._is_together(own, term, there) for term in own.together):
            return NOT_TOGETHER
        if any(own.selects(term, each) for term in own.apart for each in there):
            return NOT_APART
        if any(each.selects(term, own) for each in there for term in each.apart):
            return NOT_APART_THERE
        return ""

    def _is_together(self, own: Neighbour, term: Body, there: Iterable[Neighbour]) -> bool:
        if any(own.selects(term, each) for each in there):
            return True
        # The first of a group, which its own term selects, may go anywhere.
        return own.selects(term, own) and not any(own.selects(term, each) for each in self._all())

    def _all(self) -> Iterator[Neighbour]:
        for there in self._on.values():
            yield from there.values()


def _terms(affinity: Body | None) -> tuple[Body, ...]:
    found = (affinity or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(each for each in found if each["topologyKey"] == HOSTNAME)


def _selects(selector: Body, labels: Body) -> bool:
    same = (selector.get("matchLabels") or {}).items() <= labels.items()
    return same and all(
        requirement(labels, each) for each in selector.get("matchExpressions") or ()
    )
