"""Which nodes have started pods of a class lately: what fails the pods of one node alone is no
fault of the class.

Never here: what is set aside. The scripts decide that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.status.read_status import Phase
from gpuqueue.model.ends import REJECTION, End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason

#: Seconds for which a start proves that the pods of its class start.
PROVES: Final = 60.0
_WAITS: Final = frozenset({Phase.UNSCHEDULED, Phase.PREPARING})


class NodeStarts:
    """Knows the latest start of each class on each node, as this process has seen it. Thread-safe.

    Args:
        classes: the classes, by name.
    """

    def __init__(
        self, classes: Mapping[str, GpuClass], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._classes = classes
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: set[str] = set()  # pods that have been seen before their start
        self._at: dict[tuple[str, str, str], float] = {}  # class, own image, node

    def changed(self, entry: Entry, gpu_class: str, image: str = "") -> None:
        """Take the new state of a pod. ``image``: the one that its job names."""
        uid, status = entry.pod.metadata.uid, entry.status
        with self._lock:
            if status.phase in _WAITS:
                self._waiting.add(uid)
            elif uid in self._waiting and _started(entry):
                self._waiting.discard(uid)
                now = self._clock()
                self._at = {key: at for key, at in self._at.items() if now - at < PROVES}
                self._at[gpu_class, image, status.node] = now

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        with self._lock:
            self._waiting.discard(uid)

    def where_it_belongs(self, end: End, node: str, gpu_class: str, image: str = "") -> End:
        """Return an end that blames the pods of a class or their image, or blame its node: if such
        pods have started on other nodes lately, and none on this one. Else the next attempt of the
        job prefers another node.
        """
        # That of one job is the fault of the job, unless another node has just pulled it.
        pulled = end.reason is EndReason.IMAGE and end.blames in ("", PlaceKind.IMAGE)
        if not (pulled or end.blames == PlaceKind.PODS) or not node:
            return end
        of_image = image if pulled else None
        if self._fails_alone(node, gpu_class, of_image):
            # As a node that rejects pods: it has not come to the job.
            text = f"{end.error}; pods like it have just started on other nodes, and none on {node}"
            return replace(end, reason=EndReason.INFRA, error=text, avoid=node, blames=REJECTION)
        known = self._classes.get(gpu_class)
        # An autoscaler would add node after node.
        stays = not end.blames or (known and known.scale_to)
        return end if stays else replace(end, avoid=node)

    def _fails_alone(self, node: str, gpu_class: str, image: str | None) -> bool:
        now = self._clock()
        with self._lock:
            nodes = {
                each
                for (name, own, each), at in self._at.items()
                if name == gpu_class and image in (None, own) and now - at < PROVES
            }
        return bool(nodes) and node not in nodes


def _started(entry: Entry) -> bool:
    end = entry.status.end
    running = entry.status.phase in (Phase.RUNNING, Phase.OTHERS_RUN)
    return running or (end is not None and "container_started" in end.evidence)
