"""The pods of our attempts, kept in step with the API by one list and one watch, however many there
are.

Never here: what an event means for a job. Whoever is told must bear being told the same thing
twice. That a pod is not in the table does not say that it does not exist: it may have been created
a moment ago.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Literal

from gpuqueue.launchers.kubernetes.api.backoff import Backoff
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Expired
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.api.watch import Watch
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry, PodTable
from gpuqueue.settings.kubernetes import ClusterSettings

logger = logging.getLogger(__name__)
#: Seconds without the API after which the table no longer counts as true: several tries to connect
#: have failed by then.
AWAY = 10.0
#: A watch that has stood this long, in seconds, or told something, was a good one: what ends it is
#: no reason to wait.
GOOD = 5.0
#: How long :meth:`Pods.stop` waits for its thread, in seconds: only a request that is being opened
#: can take longer.
PATIENCE = 0.5

Kind = Literal["changed", "deleted"]


class Pods:
    """A table of pods, fed by a thread between :meth:`start` and :meth:`stop`, which may be
    repeated.

    Args:
        api: the cluster and namespace.
        selector: of labels; which pods.
        on_event: called with each change, from the thread, one at a time. Every pod is told once
            after each start.
        settings: GPU_WATCH_SECONDS, GPU_WATCH_SILENCE_SECONDS, GPU_POD_RELIST_SECONDS.
    """

    def __init__(
        self,
        api: Requests,
        selector: str,
        on_event: Callable[[Entry, Kind], None],
        settings: ClusterSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._selector = selector
        self._on_event = on_event
        self._settings = settings
        self._clock = clock
        self._table = PodTable()
        self._lock = threading.Condition()
        self._run: _Run | None = None
        self.snapshot = self._table.snapshot
        self.by_job = self._table.by_job
        self.pending = self._table.pending

    def start(self) -> None:
        """Start to follow the pods. Every pod there is will be told, and every one that has gone
        since the last stop.
        """
        with self._lock:
            if self._run is None:
                self._run = _Run(self._follow)

    def stop(self) -> None:
        """Stop at once, though the thread be waiting for the API. The table stays as it is."""
        with self._lock:
            run, self._run = self._run, None
            self._lock.notify_all()
        if run is not None:
            run.stop()

    def since_sync(self) -> float:
        """Seconds since the table was last known to be true: 0 while the watch stands, inf before
        the first list.
        """
        run = self._run
        if run is None:
            return math.inf
        return 0.0 if run.watch else self._clock() - run.synced_at

    @property
    def synced(self) -> bool:
        """Whether the table is whole, and no more than AWAY seconds behind."""
        return self.since_sync() <= AWAY

    def wait_synced(self, timeout: float) -> bool:
        """Wait until the first list is in the table and has been told; False after ``timeout``
        seconds, or when stopped.
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
            run.good, error, after = False, "", None
            try:
                # 1. The whole table: at first, after whatever may have been missed, and now and
                #    then for safety.
                if not run.version or self._clock() >= run.relist_at:
                    self._relist(run)
                # 2. What changes, until the server closes the stream. The next goes on where it
                #    ended.
                self._watch(run)
                error = "" if run.good else "the watch ended as soon as it had begun"
            except ApiError as exc:
                run.version, after = "", exc.retry_after
                error = "" if run.good and isinstance(exc, Expired) else str(exc)
            except Exception as exc:
                logger.exception("pods: not followed", extra={"action": "pods_failed"})
                run.version, error = "", repr(exc)
            if run.good:
                backoff.reset()
            if error and not run.stopped.is_set():
                wait = backoff.next(after)
                logger.warning(
                    "pods: %s; again in %.1f s", error, wait, extra={"action": "pods_unavailable"}
                )
                run.stopped.wait(wait)

    def _relist(self, run: _Run) -> None:
        pods, version = self._api.list_pods(self._selector)
        for pod in pods:
            if (
                not run.told
                or self._table.version(pod.metadata.uid) != pod.metadata.resource_version
            ):
                self._change(run, self._table.put, pod, "changed")
        for pod in self._table.beyond(pod.metadata.uid for pod in pods):
            self._change(run, self._table.remove, pod, "deleted")
        run.version, run.told = version, True
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
            run.hold(watch)
            try:
                for event in watch:
                    run.version, run.good = event.object.metadata.resource_version, True
                    if event.type == "DELETED":
                        self._change(run, self._table.remove, event.object, "deleted")
                    elif event.type != "BOOKMARK":
                        self._change(run, self._table.put, event.object, "changed")
            finally:
                run.watch, run.synced_at = None, self._clock()
                run.good = run.good or run.synced_at - began >= GOOD

    def _change(
        self, run: _Run, change: Callable[[Pod, float], Entry], pod: Pod, kind: Kind
    ) -> None:
        with run.lock:
            if run.stopped.is_set():
                return
            entry = change(pod, self._clock())
        try:
            self._on_event(entry, kind)
        except Exception:
            logger.exception(
                "pod %s: %s was not handled",
                entry.pod.metadata.name,
                kind,
                extra={"action": "pod_event_lost"},
            )


class _Run:
    """What happens between a start and a stop, so that a thread that is late in ending can do
    nothing to its successor.
    """

    def __init__(self, follow: Callable[[_Run], None]) -> None:
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.watch: Watch | None = None
        self.version = ""  # to watch from; "": list first
        self.told = False  # whether every pod has been told
        self.good = False  # whether the API has been there since the last failure
        self.synced_at = -math.inf
        self.relist_at = -math.inf
        self._thread = threading.Thread(
            target=follow, args=(self,), name="gpuqueue-pods", daemon=True
        )
        self._thread.start()

    def hold(self, watch: Watch) -> None:
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
            self._thread.join(PATIENCE)
