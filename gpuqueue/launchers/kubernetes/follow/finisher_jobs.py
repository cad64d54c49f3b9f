"""Finish a job in the code of its application: run the executor again, as a Job without a GPU.

Each wait of its pod has its clock, as for attempts; the time of the finish itself begins
with the start of its container. A pod that the cluster refuses, or cannot place or prepare, is no
failure of the finish: see :class:`FinishHeld`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.base import FinishHeld, LauncherClosed, LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.errors import AlreadyExists, ApiError
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.pod_table import JOB_NAME
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import finisher_manifest
from gpuqueue.launchers.kubernetes.status.pod_events import (
    says_why,
    with_problem,
    with_pull_error,
)
from gpuqueue.launchers.kubernetes.status.read_status import (
    Phase,
    PodStatusSummary,
    overdue,
    read_status,
)
from gpuqueue.launchers.kubernetes.status.refusals import (
    is_own_fault,
    kind_of_refusal,
    without_own_fault,
)
from gpuqueue.model.ends import End
from gpuqueue.model.place import HOLDS, PlaceKind
from gpuqueue.model.reasons import TRY_AGAIN
from gpuqueue.model.record import Record
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings

logger = logging.getLogger(__name__)
#: Seconds between two checks whether the finish is written: while its container runs, and before.
CHECK_EVERY, WAIT_EVERY = 0.2, 0.5
#: Seconds between two tries to create the Job.
RETRY_EVERY = 2.0
#: Seconds between two reads of the pod, where no watch follows it. Most finishes end earlier.
READ_EVERY = 5.0

_NO_POD, _RUNS = "no_pod", "runs"
#: A node that does not take the pod, or prepares it: no attempt and no GPU waits there, so this is
#: a part of the wait for its image.
_PREPARES = ("unanswered", "sandbox")


class FinisherJobs:
    """Starts finisher Jobs and waits for them. Thread-safe.

    Args:
        within: returns the API of a namespace, and the pods that are followed there.
    """

    def __init__(
        self,
        within: Callable[[str], tuple[Requests, Pods]],
        classes: Mapping[str, GpuClass],
        settings: ClusterSettings,
        common: ManifestContext,
        closed: threading.Event,
    ) -> None:
        self._within = within
        self._classes = classes
        self._settings = settings
        self._common = common
        self._closed = closed

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> str:
        """See :meth:`gpuqueue.launchers.base.Launcher.finish`. Returns the outcome as text, also of
        a Job or a pod that cannot be because of the job itself.
        """
        gpu_class = self._classes.get(record["gpu_class"]) or GpuClass(record["gpu_class"])
        try:
            manifest = finisher_manifest(
                record, finisher, timeout, gpu_class, self._settings, self._common
            )
        except InvalidJob as exc:
            return str(exc)
        name = manifest["metadata"]["name"]
        api, pods = self._within(manifest["metadata"]["namespace"])
        if problem := self._create(api, manifest, record, time.monotonic() + timeout):
            return problem
        clocks = _Clocks(of_class(self._settings, gpu_class), timeout)
        # The watch follows the classes of this dispatcher; a refused job, for one, has none.
        pod = _PodOf(name, api, pods, watched=record["gpu_class"] in self._classes)
        while wanted():
            if ended := clocks.ended(known := pod.status()):
                try:
                    return self._told(api, ended, name, known.pod if known else None, record)
                finally:
                    self._delete(api, name)
            self._pause(CHECK_EVERY if clocks.runs else WAIT_EVERY)
        return "written"

    def _create(
        self, api: Requests, manifest: dict[str, Any], record: Record, deadline: float
    ) -> str:
        """Create the Job. Returns the error of a Job that the job itself makes impossible, "" if
        the Job exists. Raises :class:`FinishHeld`.
        """
        while True:
            try:
                api.create_job(manifest)
                return ""
            except AlreadyExists:
                return ""
            except ApiError as exc:
                after = exc.retry_after or RETRY_EVERY
                if is_own_fault(exc.status, exc.fields, record, denied=exc.denied):
                    return str(exc)
                if exc.refused:
                    raise FinishHeld(str(exc), kind_of_refusal(str(exc))) from exc
                if time.monotonic() + after >= deadline:
                    raise FinishHeld(str(exc), PlaceKind.LAUNCH) from exc
            self._pause(after)

    def _told(
        self, api: Requests, ended: _Ended, name: str, pod: Pod | None, record: Record
    ) -> str:
        """Return the outcome of an end. Raises :class:`FinishHeld` if the cluster is at fault."""
        status = ended.waits
        if ended.taken:
            raise FinishHeld(ended.text, PlaceKind.PODS)
        if ended.never and status is None:
            words = _rejection(api, name)
            raise FinishHeld(f"{ended.text}{words and f': {words}'}", kind_of_refusal(words))
        if not ended.never or status is None:
            return ended.text
        told = status
        if pod is not None and (status.clock == "sandbox" or not says_why(status)):
            told = _with_events(api, status, pod)
        text, own = ended.text, without_own_fault(told, record)
        if told is not status:
            text = f"{text}: {told.detail}"
        # What a node never takes or prepares is no fault of the job either.
        kind = own.holds or (None if told.holds else PlaceKind.PODS)
        if kind is None:
            return text
        raise FinishHeld(text, kind)

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise LauncherClosed

    def _delete(self, api: Requests, name: str) -> None:
        try:
            api.delete_job(name)
        except ApiError as exc:  # its deadline and TTL end it too
            logger.info("finisher %s not deleted: %s", name, exc, extra={"action": "delete_later"})


def _rejection(api: Requests, name: str) -> str:
    """Return why a Job has no pod, in the words of the cluster; "" if they are not known."""
    try:
        events, _ = api.list_rejections()
    except ApiError:
        return ""
    found = [each for each in events if each.involved_object.name == name]
    latest = max(found, key=lambda each: each.last_seen or 0.0, default=None)
    return (latest.message or "") if latest else ""


def _with_events(api: Requests, status: PodStatusSummary, pod: Pod) -> PodStatusSummary:
    try:
        events = api.pod_events(pod.metadata.name)
    except ApiError:
        return status
    adds = with_problem if status.clock == "sandbox" else with_pull_error
    return adds(status, events)


class _Known(NamedTuple):
    """What is known of a pod: its status, None if the Job has no pod."""

    status: PodStatusSummary | None
    pod: Pod | None = None


class _Ended(NamedTuple):
    """How the pod of a finisher ended, as text; or ``never``: it did not start in time, and what
    its status was then (None: the Job had no pod); or ``taken``: the pod ended before its executor
    ran, through no fault of the job.
    """

    text: str
    never: bool = False
    waits: PodStatusSummary | None = None
    taken: bool = False


class _PodOf:
    """Reads the pod of a Job: the leader's watch reports it; other dispatchers ask, seldom."""

    def __init__(self, name: str, api: Requests, pods: Pods, *, watched: bool) -> None:
        self._name = name
        self._api = api
        self._pods = pods
        self._watched = watched
        self._read_at = time.monotonic()
        self._latest: _Known | None = None

    def status(self) -> _Known | None:
        """Return what is known; None: nothing, or nothing new of a pod that is not watched."""
        if self._watched and self._pods.synced:
            entries = self._pods.by_job(self._name)
            return _Known(entries[0].status, entries[0].pod) if entries else _Known(None)
        if time.monotonic() - self._read_at >= READ_EVERY:
            self._read_at = time.monotonic()
            try:
                found, _ = self._api.list_pods(f"{JOB_NAME}={self._name}")
            except ApiError as exc:
                logger.info(
                    "finisher %s: %s", self._name, exc, extra={"action": "pods_unavailable"}
                )
                self._latest = None
            else:
                self._latest = _Known(read_status(found[0]), found[0]) if found else _Known(None)
        return self._latest


class _Clocks:
    """The clocks of one finisher: how long each of its waits may last."""

    def __init__(self, settings: ClusterSettings, timeout: float) -> None:
        self._limits = {
            _NO_POD: settings.quota_timeout,
            "unschedulable": settings.unschedulable_timeout,
            "image_pull": settings.image_pull_timeout,
            "image_error": settings.image_error_grace,
            "config_error": settings.config_error_grace,
            _RUNS: timeout,
        }
        self._begun = time.monotonic()
        self._clock = ""
        self._since = 0.0

    @property
    def runs(self) -> bool:
        """Whether the container of the finisher has started."""
        return self._clock == _RUNS

    def ended(self, known: _Known | None) -> _Ended | None:
        """Return how the pod ended, or which clock ran out; None while it may go on.

        Raises :class:`LauncherUnavailable` if nothing is known for longer than all clocks together.
        """
        if known is None:
            most = sum(self._limits.values())
            if time.monotonic() - self._begun >= most:
                raise LauncherUnavailable(f"the pod of its finisher is unknown for {most:g} s")
            return None
        status = known.status
        if status is None and self._clock not in ("", _NO_POD):
            return _Ended("the pod of its finisher was deleted")
        if status is not None and status.end is not None:
            return _Ended(status.end.error, taken=_is_taken(status.end))
        if status is not None and status.phase == Phase.OTHERS_RUN:  # they are deleted with it
            return _Ended(status.detail)
        clock = _clock_of(status)
        if clock != self._clock:
            self._clock, self._since = clock, time.monotonic()
        limit = 0.0 if status is not None and status.at_once else self._limits[clock]
        if time.monotonic() - self._since < limit:
            return None
        if status is None:
            return _Ended(f"the Job of its finisher had no pod within {limit:g} s", True)
        if clock == _RUNS:
            return _Ended(f"not within {limit:g} s")
        if status.verdict is None:
            return _Ended(f"not within {limit:g} s: {status.detail}", True, status)
        return _Ended(overdue(status, limit).error, True, status)


def _is_taken(end: End) -> bool:
    """Whether a pod ended before its executor ran: rejected, evicted, or by another container."""
    runs = "container_started" in end.evidence
    return not runs and (end.reason in TRY_AGAIN or end.blames in HOLDS)


def _clock_of(status: PodStatusSummary | None) -> str:
    if status is None:
        return _NO_POD
    # A pod that is being deleted gets no more time than one that runs.
    if status.phase in (Phase.RUNNING, Phase.TERMINATING) or status.clock is None:
        return _RUNS
    return "image_pull" if status.clock in _PREPARES else status.clock
