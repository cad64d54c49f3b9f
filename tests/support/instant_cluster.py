"""A cluster in this process whose pods end, and are deleted, as soon as they are created."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import PodEvent
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod
from gpuqueue.launchers.kubernetes.follow.pod_table import JOB_NAME

STARTED = "2026-11-25T00:00:00Z"
WAITING = {"phase": "Pending"}
RUNNING = {
    "phase": "Running",
    "containerStatuses": [{"name": "executor", "state": {"running": {"startedAt": STARTED}}}],
}
ENDED = {
    "phase": "Succeeded",
    "containerStatuses": [
        {
            "name": "executor",
            "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": STARTED}},
        }
    ],
}


class InstantCluster:
    """Stands in for :class:`gpuqueue.launchers.kubernetes.api.client.Api`. It keeps no object."""

    namespace, identity = "gpus", "instant"

    def __init__(self) -> None:
        self.created = 0
        self._events: SimpleQueue[PodEvent | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._version = 0

    def create_job(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Job:
        metadata = manifest["metadata"]
        if not dry_run:
            with self._lock:
                self.created += 1
                self._live(metadata["name"], manifest["spec"]["template"]["metadata"])
        return msgspec.convert({"metadata": {"name": metadata["name"]}}, Job)

    def _live(self, job: str, template: Mapping[str, Any]) -> None:
        """Send the whole life of a pod."""
        for kind, status in (
            ("ADDED", WAITING),
            ("MODIFIED", RUNNING),
            ("MODIFIED", ENDED),
            ("DELETED", ENDED),
        ):
            self._version += 1
            metadata = {
                "name": f"{job}-pod",
                "uid": f"uid-of-{job}",
                "namespace": self.namespace,
                "resourceVersion": str(self._version),
                "creationTimestamp": STARTED,
                "labels": {**template["labels"], JOB_NAME: job},
                "annotations": dict(template["annotations"]),
            }
            spec = {} if status is WAITING else {"nodeName": "node-a"}
            pod = msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Pod)
            self._events.put(PodEvent(kind, pod))

    def list_pods(self, selector: str) -> tuple[list[Pod], str]:
        return [], str(self._version)

    def watch_pods(self, *_: object) -> Any:
        return _Watch(self._events)

    def server_time(self, now: float) -> float:
        return now

    def look(self) -> None:
        """It is always in sight."""

    def watch_jobs(self, *_: object) -> Any:
        return _Watch(SimpleQueue())

    def list_rejections(self) -> tuple[list[Any], str]:
        return [], str(self._version)

    def watch_rejections(self, *_: object) -> Any:
        return _Watch(SimpleQueue())

    def get_namespace(self, name: str) -> None:
        """It may not be read."""

    def pod_events(self, name: str) -> list[Any]:
        return []

    def list_jobs(self, selector: str) -> tuple[list[Job], str]:
        return [], str(self._version)

    def get_job(self, name: str) -> Job | None:
        return None

    def delete_job(self, name: str, uid: str = "") -> bool:
        return False

    def pod_log(self, pod: str, tail_lines: int, limit_bytes: int) -> str:
        return "the log of a pod"


class _Watch(SimpleNamespace):
    """Yields events until it is closed."""

    def __init__(self, events: SimpleQueue[PodEvent | None]) -> None:
        super().__init__(events=events)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[PodEvent]:
        while (event := self.events.get()) is not None:
            yield event

    def close(self) -> None:
        self.events.put(None)
