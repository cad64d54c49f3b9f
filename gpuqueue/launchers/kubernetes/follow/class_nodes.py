"""Follow the nodes of the classes whose domains are nodes, as the leader.

A node is a domain while it takes pods of the class: it is ready, not cordoned, has no taint that
the pods do not tolerate, and advertises shares. What cannot be read changes nothing.

Never here: what becomes of the attempts on a node that has left. Their pods tell it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.launchers.base import Observations
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.status.nodes import more_nodes, slots_of, slots_of_nodes
from gpuqueue.steps import Steps
from gpuqueue.store.owners import ServedElsewhere
from gpuqueue.store.passing import passes

logger = logging.getLogger(__name__)
#: Seconds between two looks at the nodes, and the same while a pod finds no room.
LOOKS_EVERY, LOOKS_AGAIN = 15.0, 3.0

#: Seconds for which a node that has left is known as such.
LEFT_FOR = 600.0

#: Node → isolation → slots.
Slots = Mapping[str, Mapping[str, int]]


class ClassNodes:
    """The nodes of each class. For one thread, but ``forget``.

    Args:
        api: lists nodes.
        observations: where the nodes of a class are written.
        classes: the classes, by name.
        pod_of: returns the spec of a pod of a class.
        owner: the name of the cluster.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        classes: Mapping[str, GpuClass],
        pod_of: Callable[[GpuClass], Mapping[str, Any]],
        owner: str,
    ) -> None:
        self._api = api
        self._observations = observations
        self._by_node = {name: each for name, each in classes.items() if each.domain == NODE}
        self._others = [each for each in classes.values() if each.domain != NODE]
        self._pod_of = pod_of
        self._owner = owner
        self._steps = Steps(passes)
        self._known: dict[str, Slots] = {}
        self._left: dict[str, dict[str, float]] = {}  # class → node → since when it is gone
        self._told: dict[str, str] = {}  # class → why its nodes are unknown, as it was logged
        self._looked = float("-inf")
        self._settled: set[str] = set()  # classes that have no nodes any more
        self.elsewhere: dict[str, str] = {}
        """Class → the other cluster whose nodes are its domains."""

    def forget(self) -> None:
        """Begin again: another dispatcher has led meanwhile, or leads from now on."""
        self._known, self._left = {}, {}
        self._looked = float("-inf")
        self._settled, self.elsewhere = set(), {}

    def is_gone(self, gpu_class: str, node: str) -> bool:
        """Whether the latest look has not found a node of a class; False: none was possible, or the
        node may have come since.
        """
        by_node = self._by_node.get(gpu_class)
        if by_node and by_node.scale_to:
            return node in self._left.get(gpu_class, {})
        known = self._known.get(gpu_class)
        return known is not None and node not in known

    def check(self, short_of_room: bool) -> None:
        """Look at the nodes if that is due. ``short_of_room``: a pod finds no node."""
        now = time.monotonic()
        if now - self._looked < (LOOKS_AGAIN if short_of_room else LOOKS_EVERY):
            return
        for each in self._others:  # it may have had nodes before
            if each.name not in self._settled:
                self._steps.run("nodes", partial(self._keep, each, None), None, where=each.name)
        lists: dict[str, list[Node]] = {}
        for each in self._by_node.values():
            look = partial(self._look, each, lists)
            self._steps.run("nodes", look, None, where=each.name)
        self._looked = now  # again soon if Redis is away

    def _look(self, gpu_class: GpuClass, lists: dict[str, list[Node]]) -> None:
        if gpu_class.nodes:
            more = (gpu_class.scale_to or 0) - len(gpu_class.nodes)
            self._keep(
                gpu_class, {name: slots_of(gpu_class) for name in gpu_class.nodes}, max(0, more)
            )
            return
        pod = self._pod_of(gpu_class)
        selector = ",".join(f"{key}={value}" for key, value in _selector(pod))
        try:
            if selector not in lists:
                lists[selector] = self._api.list_nodes(selector)
        except ApiError as exc:
            self._tell(gpu_class, exc)
            return
        self._told.pop(gpu_class.name, None)
        tolerations = pod.get("tolerations") or ()
        found = slots_of_nodes(gpu_class, lists[selector], tolerations)
        self._keep(gpu_class, found, more_nodes(gpu_class, lists[selector]))

    def _keep(self, gpu_class: GpuClass, slots: Slots | None, more: int = 0) -> None:
        try:
            self._observations.set_nodes(gpu_class, slots, more, self._owner)
        except ServedElsewhere as exc:
            if self.elsewhere.get(gpu_class.name) != exc.owner:
                logger.error("%s", exc, extra={"action": "nodes_elsewhere"})
            self.elsewhere = {**self.elsewhere, gpu_class.name: exc.owner}
            return
        self._settled.add(gpu_class.name)
        self.elsewhere = {k: v for k, v in self.elsewhere.items() if k != gpu_class.name}
        before = self._known.get(gpu_class.name)
        if slots is not None and slots != before:
            without = "no node: no job starts" if not more else "no node"
            logger.info(
                "class %s has %s%s",
                gpu_class.name,
                f"nodes {', '.join(sorted(slots))}" if slots else without,
                f", and {more} may come" if more else "",
                extra={"action": "nodes"},
            )
            self._known[gpu_class.name] = slots
            self._note_left(gpu_class.name, before or {}, slots)

    def _note_left(self, gpu_class: str, before: Slots, slots: Slots) -> None:
        now = time.monotonic()
        left = self._left.get(gpu_class, {}) | dict.fromkeys(before, now)
        self._left[gpu_class] = {
            name: since
            for name, since in left.items()
            if name not in slots and now - since < LEFT_FOR
        }

    def _tell(self, gpu_class: GpuClass, exc: ApiError) -> None:
        """Log once why the nodes of a class are unknown, and what to do."""
        fix = (
            "; allow its dispatchers to get, list and watch nodes by a ClusterRole, or name the"
            " nodes in the field `nodes` of the class"
            if isinstance(exc, Forbidden)
            else ""
        )
        known = "those known before stay" if gpu_class.name in self._known else "no job starts"
        text = f"class {gpu_class.name}: its nodes are unknown, {known}: {exc}{fix}"
        if self._told.get(gpu_class.name) != text:
            self._told[gpu_class.name] = text
            logger.warning("%s", text, extra={"action": "nodes_unknown"})


def _selector(pod: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((pod.get("nodeSelector") or {}).items())
