"""The Job controller: which Job it syncs and when. The sync of one Job is a
:class:`tests.doubles.kubernetes.controllers.job_sync.JobSync`.

It syncs a Job one second (at pace 1) after a change of its pods, so that one sync handles several
changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.doubles.kubernetes.controllers.job_history import History
from tests.doubles.kubernetes.controllers.job_objects import JobObjects
from tests.doubles.kubernetes.controllers.job_status import controller_of, counts, true_condition
from tests.doubles.kubernetes.controllers.job_sync import JobSync
from tests.doubles.kubernetes.controllers.work_queue import WorkQueue
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import JOBS as PART
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.objects.bodies import Body, Key, is_terminating, key_of
from tests.doubles.kubernetes.objects.deletion import TRACKING
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Change

#: The value of ``managedBy`` that means this controller.
_OWN_NAME = "kubernetes.io/job-controller"


@dataclass(slots=True)
class _KnownJob:
    generation: int
    history: History = field(default_factory=History)


class JobController:
    """Runs in the engine's thread. ``delay``: real seconds until it notices a new Job."""

    def __init__(self, registry: Registry, events: EventLog, engine: Engine) -> None:
        self.delay = 0.0
        self._store = registry.store
        self._engine = engine
        self._objects = JobObjects(registry, events)
        self._queue = WorkQueue(PART, engine, self._sync)
        self._known: dict[str, _KnownJob] = {}
        self._pods: dict[str, dict[str, Body]] = {}
        """Uid of a Job → uid of a pod → pod."""
        self._store.subscribe(JOBS, self._job_changed)
        self._store.subscribe(PODS, self._pod_changed)

    def _job_changed(self, change: Change) -> None:
        body, key = change.body, key_of(change.body)
        if body["spec"].get("managedBy", _OWN_NAME) != _OWN_NAME:
            return
        uid, generation = body["metadata"]["uid"], body["metadata"].get("generation", 1)
        if change.kind == DELETED:
            self._known.pop(uid, None)
            self._engine.after(
                PART,
                delays.JOB_UNTRACK,
                lambda: self._objects.untrack(self._pods.get(uid, {}).values()),
            )
            return
        known = self._known.get(uid)
        if known is None:
            self._known[uid] = _KnownJob(generation)
            self._queue.add(key, delays.JOB_AT_ONCE, self.delay)
        else:
            same = generation == known.generation
            self._queue.add(key, delays.JOB_BATCH if same else delays.JOB_AT_ONCE)
            known.generation = generation

    def _pod_changed(self, change: Change) -> None:
        pod, uid = change.body, change.body["metadata"]["uid"]
        owner = controller_of(pod)
        if owner is None:
            if TRACKING in pod["metadata"].get("finalizers", ()):
                self._engine.after(PART, delays.JOB_UNTRACK, lambda: self._objects.untrack([pod]))
            return
        pods = self._pods.setdefault(owner["uid"], {})
        if change.kind == DELETED:
            pods.pop(uid, None)
            if not pods:
                self._pods.pop(owner["uid"], None)
        else:
            pods[uid] = pod
        self._queue.add((pod["metadata"]["namespace"], owner["name"]), delays.JOB_BATCH)

    def _sync(self, key: Key) -> None:
        job = self._store.get(JOBS, *key)
        known = None if job is None else self._known.get(job["metadata"]["uid"])
        if job is None or known is None:
            return
        pods = list(self._pods.get(job["metadata"]["uid"], {}).values())
        if true_condition(job, "Complete", "Failed") is not None:
            self._objects.untrack(pods)
        elif is_terminating(job):
            self._objects.untrack(pods)
            self._objects.write_status(job, counts(pods))
        else:
            JobSync(job, pods, known.history, self._objects, self._queue, self._engine).run()
