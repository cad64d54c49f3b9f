"""The Job controller: which Job it looks at and when. What it does then is a
:class:`tests.doubles.kubernetes.controllers.job_round.Round`.

It looks at a Job a second after anything has changed around it (at pace 1), so that several changes
are told at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from tests.doubles.kubernetes.controllers.job_round import History, Round
from tests.doubles.kubernetes.controllers.job_status import condition, counts, owner_of
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import JOBS as PART
from tests.doubles.kubernetes.engine.loop import Engine, Timer
from tests.doubles.kubernetes.objects.deletion import TRACKING
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Body, Change, Key, key_of


@dataclass(slots=True)
class _Known:
    """A Job that was seen: its generation, and what it went through."""

    generation: int
    history: History


class JobController:
    """Everything runs in the engine's thread. ``delay``: real seconds by which it is late to see a
    new Job.
    """

    def __init__(
        self, registry: Registry, events: EventLog, engine: Engine, manifest_pace: float
    ) -> None:
        self.delay = 0.0
        self.registry = registry
        self.engine = engine
        self.clock = manifest_pace
        self._store = registry.store
        self._events = events
        self._timers: dict[Key, Timer] = {}
        self._known: dict[str, _Known] = {}
        self._pods: dict[str, dict[str, Body]] = {}
        """Uid of a Job → uid → its pods."""
        self._store.subscribe(JOBS, self._job_changed)
        self._store.subscribe(PODS, self._pod_changed)

    def look(self, key: Key, seconds: float) -> None:
        """Look at a Job in a while, or earlier if that was settled already."""
        self._look_at(key, time.monotonic() + seconds * self.engine.pace)

    def look_after(self, key: Key, seconds: float) -> None:
        """Look at a Job once more after a delay that is not scaled, whatever else is settled."""
        self.engine.after_exactly(PART, seconds, partial(self._sync, key))

    def untrack(self, pods: Iterable[Body]) -> None:
        """Let go of pods: they may be taken away."""
        for pod in list(pods):
            finalizers = pod["metadata"].get("finalizers", [])
            if TRACKING in finalizers:
                rest = [name for name in finalizers if name != TRACKING]
                if rest:
                    pod["metadata"]["finalizers"] = rest
                else:
                    del pod["metadata"]["finalizers"]
                self._store.save(PODS, pod)

    def write(self, job: Body, change: Body) -> None:
        """Change a Job's status; None takes a field away."""
        status = {**job["status"], **change}
        job["status"] = {name: value for name, value in status.items() if value is not None}
        self._store.save(JOBS, job)

    def tell(self, job: Body, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an event."""
        self._events.tell(JOBS, job, reason, message, component="job-controller", warning=warning)

    def _job_changed(self, change: Change) -> None:
        body, key = change.body, key_of(change.body)
        uid, generation = body["metadata"]["uid"], body["metadata"].get("generation", 1)
        if change.kind == DELETED:
            self._known.pop(uid, None)
            self.engine.after(
                PART, delays.JOB_UNTRACK, lambda: self.untrack(self._pods.get(uid, {}).values())
            )
            return
        known = self._known.get(uid)
        if known is None:
            self._known[uid] = _Known(generation, History())
            self._look_at(
                key, time.monotonic() + self.delay + delays.JOB_AT_ONCE * self.engine.pace
            )
        else:
            self.look(
                key, delays.JOB_BATCH if generation == known.generation else delays.JOB_AT_ONCE
            )
            known.generation = generation

    def _pod_changed(self, change: Change) -> None:
        pod = change.body
        owner, uid = owner_of(pod), pod["metadata"]["uid"]
        if owner is None:
            if TRACKING in pod["metadata"].get("finalizers", ()):
                self.engine.after(PART, delays.JOB_UNTRACK, lambda: self.untrack([pod]))
            return
        pods = self._pods.setdefault(owner, {})
        if change.kind == DELETED:
            pods.pop(uid, None)
            if not pods:
                self._pods.pop(owner, None)
        else:
            pods[uid] = pod
        name = next(
            item["name"] for item in pod["metadata"]["ownerReferences"] if item.get("controller")
        )
        self.look((pod["metadata"]["namespace"], name), delays.JOB_BATCH)

    def _look_at(self, key: Key, due: float) -> None:
        timer = self._timers.get(key)
        if timer is not None and timer.waits:
            if timer.due <= due:
                return
            timer.cancel()
        self._timers[key] = self.engine.after_exactly(
            PART, due - time.monotonic(), partial(self._sync, key)
        )

    def _sync(self, key: Key) -> None:
        timer = self._timers.get(key)
        if timer is not None and not timer.waits:
            del self._timers[key]
        job = self._store.get(JOBS, *key)
        known = None if job is None else self._known.get(job["metadata"]["uid"])
        if job is None or known is None:
            return
        pods = list(self._pods.get(job["metadata"]["uid"], {}).values())
        if condition(job, "Complete", "Failed") is not None:
            self.untrack(pods)
        elif "deletionTimestamp" in job["metadata"]:
            self.untrack(pods)
            self.write(job, counts(pods))
        else:
            Round(self, job, pods, known.history).run()
