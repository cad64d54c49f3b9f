"""The writes of the Job controller: the status of Jobs, their pods, and events about them."""

from __future__ import annotations

from collections.abc import Iterable

from tests.doubles.kubernetes.objects.bodies import Body, key_of
from tests.doubles.kubernetes.objects.deletion import TRACKING, Deletion
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS
from tests.doubles.kubernetes.objects.registry import Registry


def pod_metadata(job: Body) -> Body:
    """Return the metadata of a new pod of a Job."""
    metadata, template = job["metadata"], job["spec"]["template"].get("metadata") or {}
    owner = {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    result: Body = {
        "generateName": f"{metadata['name']}-",
        "labels": template.get("labels") or {},
        "finalizers": [TRACKING],
        "ownerReferences": [owner],
    }
    if template.get("annotations"):
        result["annotations"] = template["annotations"]
    return result


class JobObjects:
    """Writes on behalf of the Job controller."""

    def __init__(self, registry: Registry, events: EventLog) -> None:
        self._registry = registry
        self._events = events

    def write_status(self, job: Body, change: Body) -> None:
        """Change the status of a Job; None removes a field."""
        status = {**job["status"], **change}
        job["status"] = {name: value for name, value in status.items() if value is not None}
        self._registry.store.save(JOBS, job)

    def record(self, job: Body, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an event about a Job."""
        self._events.record(JOBS, job, reason, message, component="job-controller", warning=warning)

    def create_pod(self, job: Body) -> Body:
        """Create a pod of a Job.

        Raises:
            Refused: the API server refuses it.
        """
        spec, namespace = job["spec"]["template"]["spec"], job["metadata"]["namespace"]
        pod = self._registry.create_pod(namespace, pod_metadata(job), spec)
        self.record(job, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
        return pod

    def delete_pods(self, job: Body, pods: Iterable[Body]) -> None:
        """Delete pods of a Job."""
        for pod in pods:
            uid = pod["metadata"]["uid"]
            self._registry.delete(PODS, *key_of(pod), Deletion(uid=uid))
            self.record(job, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")

    def untrack(self, pods: Iterable[Body]) -> None:
        """Remove the tracking finalizer of pods: the store may remove them."""
        for pod in list(pods):
            finalizers = pod["metadata"].get("finalizers", [])
            if TRACKING in finalizers:
                rest = [name for name in finalizers if name != TRACKING]
                if rest:
                    pod["metadata"]["finalizers"] = rest
                else:
                    del pod["metadata"]["finalizers"]
                self._registry.store.save(PODS, pod)
