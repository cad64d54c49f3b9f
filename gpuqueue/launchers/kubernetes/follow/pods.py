"""The pods of all attempts, synced with the API by one list and one watch.

Never here: what an event means for a job. An event can be reported twice. A pod that is missing
from the table may still exist, if it was just created.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Literal

from gpuqueue.launchers.base import BLIND_AFTER
from gpuqueue.launchers.kubernetes.api.backoff import Backoff
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Expired
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.api.watch import Watch
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry, PodTable
from gpuqueue.launchers.kubernetes.follow.sight import Sight
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
#: Seconds after which a watch counts as healthy even without an event: its end causes no backoff.
HEALTHY_AFTER = 5.0
#: Seconds that :meth:`Pods.stop` waits for its thread. Only a request that is being opened takes
#: longer.
STOP_WITHIN = 0.5

Kind = Literal["changed", "deleted"]


class Pods:
    """A table of pods, updated by a thread between :meth:`start` and :meth:`stop`.

    Args:
        api: the cluster and namespace.
        selector: label selector of the pods.
        on_event: called with each change, from the thread, one at a time. After each start, every
            pod is reported once.
        settings: GPU_WATCH_SECONDS, GPU_WATCH_SILENCE_SECONDS, GPU_POD_RELIST_SECONDS.
        sight: is told each answer, and knows when the last one came during a silent watch.
    """

    def __init__(
        self,
        api: Requests,
        selector: str,
        on_event: Callable[[Entry, Kind], None],
        settings: ClusterSettings,
        sight: Sight,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._selector = selector
        self._on_event = on_event
        self._settings = settings
        self._sight = sight
        self._clock = clock
        self._table = PodTable()
        self._lock = threading.Condition()
        self._steps = Steps()
        self._run: _Run | None = None
        self.snapshot = self._table.snapshot
        self.by_job = self._table.by_job
        self.pending = self._table.pending
        self.silent_nodes = self._table.silent_nodes
        self.known = self._table.__contains__

    def start(self) -> None:
        """Start the thread. It reports every pod, and those removed since the last stop."""
        with self._lock:
            if self._run is None:
                self._run = _Run(self._follow)

    def stop(self) -> None:
        """Stop at once, even while the thread waits for the API. The table keeps its content."""
        with self._lock:
            run, self._run = self._run, None
            self._lock.notify_all()
        if run is not None:
            run.stop()

    @property
    def started(self) -> bool:
        """Whether its thread runs."""
        return self._run is not None

    def since_sync(self) -> float:
        """Return seconds since the last sync: during a watch, since the last answer of the API; inf
        before the first list.
        """
        run = self._run
        if run is None:
            return math.inf
        return self._sight.age() if run.watch else self._clock() - run.synced_at

    @property
    def synced(self) -> bool:
        """Whether the table is complete, and at most BLIND_AFTER seconds behind."""
        return self.since_sync() <= BLIND_AFTER

    def wait_synced(self, timeout: float) -> bool:
        """Wait until the first list is stored and reported.

        Returns False after ``timeout`` seconds, or if stopped.
        """
        with self._lock:
            self._lock.wait_for(
                lambda: self._run is None or self._run.synced_at > -math.inf, timeout
            )
        return self.synced

    # -- the thread --------------------------------------------------------------------------------

    def _follow(self, run: _Run) -> None:
        backoff = Backoff()
        while not run.stopped.is_set():
            run.healthy, error, after = False, "", None
            try:
                # 1. A full list: at first, after a gap in the events, and on a schedule.
                if not run.version or self._clock() >= run.relist_at:
                    self._relist(run)
                    if run.failed:  # once more, for what has passed by now
                        self._relist(run)
                # 2. A watch, until the server closes the stream. The next one continues there.
                self._watch(run)
                error = "" if run.healthy else "the watch ended as soon as it began"
            except ApiError as exc:
                run.version, after = "", exc.retry_after
                error = "" if run.healthy and isinstance(exc, Expired) else str(exc)
            except Exception as exc:
                self._steps.failed("pods", exc)
                run.version, error = "", repr(exc)
            else:
                self._steps.succeeded("pods")
            if run.healthy:
                backoff.reset()
            if error and not run.stopped.is_set():
                wait = backoff.next(after)
                logger.warning(
                    "pods: %s; retry in %.1f s", error, wait, extra={"action": "pods_unavailable"}
                )
                run.stopped.wait(wait)

    def _relist(self, run: _Run) -> None:
        pods, version = self._api.list_pods(self._selector)
        self._sight.seen()
        run.failed = False
        for pod in pods:
            if (
                not run.reported
                or self._table.version(pod.metadata.uid) != pod.metadata.resource_version
            ):
                self._change(run, self._table.put, pod, "changed")
        for pod in self._table.beyond(pod.metadata.uid for pod in pods):
            self._change(run, self._table.remove, pod, "deleted")
        run.version, run.reported = version, True
        run.synced_at = self._clock()
        run.relist_at = run.synced_at + self._settings.pod_relist_seconds
        with self._lock:
            self._lock.notify_all()

    def _watch(self, run: _Run) -> None:
        began = self._clock()
        seconds = min(self._settings.watch_seconds, max(1.0, run.relist_at - began))
        with self._api.watch_pods(
            self._selector, run.version, seconds, self._settings.watch_silence_seconds
        ) as watch:
            self._sight.seen()
            run.hold(watch)
            try:
                for event in watch:
                    self._sight.seen()
                    run.version, run.healthy = event.object.metadata.resource_version, True
                    if event.type == "DELETED":
                        self._change(run, self._table.remove, event.object, "deleted")
                    elif event.type != "BOOKMARK":
                        self._change(run, self._table.put, event.object, "changed")
            finally:
                run.watch, run.synced_at = None, self._clock()
                run.healthy = run.healthy or run.synced_at - began >= HEALTHY_AFTER

    def _change(
        self, run: _Run, change: Callable[[Pod, float], Entry], pod: Pod, kind: Kind
    ) -> None:
        try:
            with run.lock:
                if run.stopped.is_set():
                    return
                entry = change(pod, self._clock())
            self._on_event(entry, kind)
        except Exception as exc:
            run.failed = True  # the other pods go on
            self._steps.failed("pod", exc, job=pod.metadata.name)
        else:
            self._steps.succeeded("pod", job=pod.metadata.name)


class _Run:
    """The state between a start and a stop: a late thread cannot affect the next one."""

    def __init__(self, follow: Callable[[_Run], None]) -> None:
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.watch: Watch[Pod] | None = None
        self.version = ""  # to watch from; "": list first
        self.reported = False  # whether every pod was reported
        self.healthy = False  # whether the API has worked since the last failure
        self.synced_at = -math.inf
        self.relist_at = -math.inf
        self.failed = False  # whether a change of a pod was not applied
        self._thread = threading.Thread(
            target=follow, args=(self,), name="gpuqueue-pods", daemon=True
        )
        self._thread.start()

    def hold(self, watch: Watch[Pod]) -> None:
        with self.lock:
            self.watch = watch
            if self.stopped.is_set():
                watch.close()

    def stop(self) -> None:
        with self.lock:
            self.stopped.set()
            if self.watch is not None:
                self.watch.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_WITHIN)
