"""Pods that were deleted from a node that takes none any more: a drain without evictions, an
upgrade of a driver, a node that an autoscaler removes.

The API keeps no word of who has deleted a pod. One that a user deletes is on a node that takes
others.
"""

from __future__ import annotations

from dataclasses import replace

from gpuqueue.launchers.kubernetes.api.errors import Forbidden
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.status.nodes import refusal
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason


class ClosedNodes:
    """Reads the nodes of deleted pods, if that is allowed. Thread-safe.

    Args:
        api: reads nodes and Jobs.
    """

    def __init__(self, api: Requests) -> None:
        self._api = api

    def end_now(self, name: str, pod: Pod, end: End) -> End:
        """Return the end of a deleted pod of the Job of a name. Raises ApiError.

        ``end``: as the pod states it.
        """
        return self.end_of(self._api.get_job(name), pod, end)

    def end_of(self, job: Job | None, pod: Pod, end: End) -> End:
        """Return what :meth:`end_now` does, for a Job that was just read. None: it is gone."""
        name = pod.spec.node_name
        # A user who deletes a Job wants its end. A drain deletes the pod alone.
        if not name or job is None or job.metadata.deletion_timestamp is not None:
            return end
        try:
            node = self._api.get_node(name)
        except Forbidden:  # most dispatchers have no such right, and do without
            return end
        if node is None:
            text = f"its pod was deleted, and its node {name} is gone"
            return replace(
                end, reason=EndReason.NODE_LOST, error=text, avoid=name, blames=PlaceKind.NODE
            )
        if node.metadata.deletion_timestamp is not None:
            why = "being deleted"
        elif not (why := refusal(node, [each.as_given() for each in pod.spec.tolerations or ()])):
            return end
        text = f"its pod was deleted from node {name}, which takes none any more: {why}"
        return replace(end, reason=EndReason.EVICTED, error=text)
