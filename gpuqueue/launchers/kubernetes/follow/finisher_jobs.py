"""Finish a job in the code of its application: run the executor again, as a Job without a GPU."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.base import LauncherClosed, LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.errors import AlreadyExists, ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import finisher_manifest
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings

logger = logging.getLogger(__name__)
#: Seconds between two checks whether the finish is written.
CHECK_EVERY = 0.2
#: Seconds between two tries to create the Job.
RETRY_EVERY = 2.0


class FinisherJobs:
    """Starts finisher Jobs and waits for them. Thread-safe."""

    def __init__(
        self,
        api: Requests,
        pods: Pods,
        classes: Mapping[str, GpuClass],
        settings: ClusterSettings,
        common: ManifestContext,
        closed: threading.Event,
    ) -> None:
        self._api = api
        self._pods = pods
        self._classes = classes
        self._settings = settings
        self._common = common
        self._closed = closed

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> str:
        """See :meth:`gpuqueue.launchers.base.Launcher.finish`. Returns the outcome as text."""
        gpu_class = self._classes.get(record["gpu_class"]) or GpuClass(record["gpu_class"])
        deadline = time.monotonic() + timeout
        try:
            manifest = finisher_manifest(
                record, finisher, timeout, gpu_class, self._settings, self._common
            )
        except InvalidJob as exc:
            return str(exc)
        name = manifest["metadata"]["name"]
        if problem := self._create(manifest, deadline):
            return problem
        stuck_since: float | None = None
        while wanted():
            ended, stuck = self._status(name)
            stuck_since = (stuck_since or time.monotonic()) if stuck else None
            if (
                stuck_since is not None
                and time.monotonic() - stuck_since >= self._settings.config_error_grace
            ):
                ended = stuck
            if ended or time.monotonic() >= deadline:
                self._delete(name)
                return ended or f"not within {timeout:.0f} s"
            self._pause(CHECK_EVERY)
        return "written"

    def _create(self, manifest: dict[str, Any], deadline: float) -> str:
        """Create the Job. Returns its error, "" if it exists. Raises
        :class:`LauncherUnavailable` for an error that may pass.
        """
        while True:
            try:
                self._api.create_job(manifest)
                return ""
            except AlreadyExists:
                return ""
            except ApiError as exc:
                after = exc.retry_after or RETRY_EVERY
                if not exc.passing:
                    return str(exc)
                if time.monotonic() + after >= deadline:
                    raise LauncherUnavailable(str(exc)) from exc
            self._pause(after)

    def _status(self, name: str) -> tuple[str, str]:
        """Return how the pod ended and why it cannot start, "" for neither.

        Only the leader knows the pods.
        """
        for entry in self._pods.by_job(name):
            if entry.status.end is not None:
                return entry.status.end.error, ""
            if entry.status.clock in ("image_error", "config_error"):
                return "", entry.status.detail
        return "", ""

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise LauncherClosed

    def _delete(self, name: str) -> None:
        try:
            self._api.delete_job(name)
        except ApiError as exc:  # its deadline and TTL end it too
            logger.info("finisher %s not deleted: %s", name, exc, extra={"action": "delete_later"})
