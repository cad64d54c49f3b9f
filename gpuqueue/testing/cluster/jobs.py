"""The Job controller: makes pods for Jobs, counts their ends, and says in the end how the Job went.

It looks at a Job a second after anything has changed around it (at pace 1), so that several changes are told at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from gpuqueue.testing.cluster import policy
from gpuqueue.testing.cluster.engine import JOBS as PART
from gpuqueue.testing.cluster.engine import Engine, Timer
from gpuqueue.testing.cluster.errors import Refused
from gpuqueue.testing.cluster.eventlog import EventLog
from gpuqueue.testing.cluster.kinds import JOBS, PODS
from gpuqueue.testing.cluster.registry import TRACKING, Deletion, Registry
from gpuqueue.testing.cluster.store import DELETED, Body, Change, Key, key_of
from gpuqueue.testing.cluster.wire import stamp

#: From a change of the Job itself, or of something around it, to the look at it.
AT_ONCE, BATCH = 0.01, 1.0
#: From a Job's end to the end of the tracking of its pods.
UNTRACK = 0.03
#: From a pod's failure to the next pod: doubled each time.
POD_BACK_OFF, POD_BACK_OFF_LIMIT = 10.0, 600.0
#: From a pod that was refused to the next try: doubled each time.
REFUSED_BACK_OFF, REFUSED_BACK_OFF_LIMIT = 1.0, 60.0

_COMPONENT = "job-controller"
_DONE = ("Succeeded", "Failed")
_BACKOFF = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
_DEADLINE = ("DeadlineExceeded", "Job was active longer than specified deadline")
_REACHED = ("CompletionsReached", "Reached expected number of succeeded pods")


class JobController:
    """Everything runs in the engine's thread. ``delay``: real seconds by which it is late to see a new Job."""

    def __init__(self, registry: Registry, events: EventLog, engine: Engine, manifest_pace: float) -> None:
        self.delay = 0.0
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._engine = engine
        self._clock = manifest_pace
        self._timers: dict[Key, Timer] = {}
        self._pods: dict[str, dict[str, Body]] = {}
        """Uid of a Job → uid → its pods."""
        self._refusals: dict[str, int] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        """Uid of a Job → failures in a row, and when the last one was (Unix seconds)."""
        self._began: dict[str, float] = {}
        self._generations: dict[str, int] = {}
        self._store.subscribe(JOBS, self._job_changed)
        self._store.subscribe(PODS, self._pod_changed)

    def adopt(self, pod: Body) -> None:
        """Know a pod that was stored without this controller."""
        owner = owner_of(pod)
        if owner is not None:
            self._pods.setdefault(owner, {})[pod["metadata"]["uid"]] = pod

    def _job_changed(self, change: Change) -> None:
        body, key = change.body, key_of(change.body)
        if change.kind == DELETED:
            uid = body["metadata"]["uid"]
            for remembered in (self._refusals, self._failures, self._began, self._generations):
                remembered.pop(uid, None)
            self._engine.after(PART, UNTRACK, lambda: self._untrack(self._pods.get(uid, {}).values()))
            return
        uid, generation = body["metadata"]["uid"], body["metadata"].get("generation", 1)
        before = self._generations.get(uid)
        self._generations[uid] = generation
        if before is None:
            self._engine.after_exactly(PART, self.delay, lambda: self._look(key, AT_ONCE))
        else:
            self._look(key, BATCH if generation == before else AT_ONCE)

    def _pod_changed(self, change: Change) -> None:
        pod = change.body
        owner = owner_of(pod)
        uid = pod["metadata"]["uid"]
        if owner is None:
            if TRACKING in pod["metadata"].get("finalizers", ()):
                self._engine.after(PART, UNTRACK, lambda: self._untrack([pod]))
            return
        known = self._pods.setdefault(owner, {})
        if change.kind == DELETED:
            known.pop(uid, None)
            if not known:
                del self._pods[owner]
        else:
            known[uid] = pod
        reference = pod["metadata"]["ownerReferences"][0]
        self._look((pod["metadata"]["namespace"], reference["name"]), BATCH)

    def _look(self, key: Key, seconds: float) -> None:
        """Look at a Job in a while, or earlier if that was settled already."""
        due = time.monotonic() + seconds * self._engine.pace
        timer = self._timers.get(key)
        if timer is not None and timer.waits:
            if timer.due <= due:
                return
            timer.cancel()
        self._timers[key] = self._engine.after(PART, seconds, lambda: self._sync(key))

    def _sync(self, key: Key) -> None:
        self._timers.pop(key, None)
        job = self._store.get(JOBS, *key)
        if job is None:
            return
        pods = list(self._pods.get(job["metadata"]["uid"], {}).values())
        if _condition(job, "Complete", "Failed") is not None:
            self._untrack(pods)
        elif "deletionTimestamp" in job["metadata"]:
            self._untrack(pods)
            self._write(job, _counts(pods))
        else:
            _Round(self, job, pods).run()

    def _untrack(self, pods: Iterable[Body]) -> None:
        for pod in list(pods):
            finalizers = pod["metadata"].get("finalizers", [])
            if TRACKING in finalizers:
                rest = [name for name in finalizers if name != TRACKING]
                if rest:
                    pod["metadata"]["finalizers"] = rest
                else:
                    del pod["metadata"]["finalizers"]
                self._store.save(PODS, pod)

    def _write(self, job: Body, change: Body) -> None:
        status = {**job["status"], **change}
        job["status"] = {name: value for name, value in status.items() if value is not None}
        self._store.save(JOBS, job)

    def _tell(self, job: Body, reason: str, message: str, *, warning: bool = False) -> None:
        self._events.tell(JOBS, job, reason, message, component=_COMPONENT, warning=warning)


class _Round:
    """One look at one Job."""

    def __init__(self, controller: JobController, job: Body, pods: list[Body]) -> None:
        self._c = controller
        self._job = job
        self._spec = job["spec"]
        self._uid: str = job["metadata"]["uid"]
        self._pods = pods
        self._resumed = False
        self._patient = self._spec.get("podReplacementPolicy") == "Failed"

    def run(self) -> None:
        """Do what is to be done now."""
        if self._suspended():
            return
        self._begin()
        tracked = [pod for pod in self._pods if TRACKING in pod["metadata"].get("finalizers", ())]
        failed = [pod for pod in tracked if self._failed(pod)]
        succeeded = [pod for pod in tracked if pod["status"].get("phase") == "Succeeded"]
        counted, fails = self._judge(failed)
        target = self._target(counted, len(succeeded), fails)
        if target is not None and (active := self._active()):
            self._stop(active)
            # Unless a pod is replaced only once it has ended, one that is being deleted has failed.
            more = [] if self._patient else [pod for pod in active if pod in tracked]
            failed, counted = failed + more, counted + more
        if failed or succeeded:
            self._count(failed, counted, succeeded, target)
        elif target is not None:
            self._c._write(self._job, {**_counts(self._pods), "conditions": self._conditions(target)})
            self._finish(separately=True)
        else:
            self._replenish()

    def _begin(self) -> None:
        if self._uid not in self._c._began:
            self._c._began[self._uid] = time.time()
        deadline = self._spec.get("activeDeadlineSeconds")
        if deadline is not None and _condition(self._job, "FailureTarget") is None:
            left = self._c._began[self._uid] + deadline * self._c._clock - time.time()
            if left > 0:
                key = key_of(self._job)
                self._c._engine.after_exactly(PART, left, lambda: self._c._sync(key))

    def _suspended(self) -> bool:
        condition = _condition(self._job, "Suspended")
        if not self._spec.get("suspend"):
            if condition is not None and condition["status"] == "True":
                self._resumed = True
                self._note_suspension("False", "JobResumed", "Job resumed")
            return False
        for pod in self._active():
            self._c._began.pop(self._uid, None)
            self._stop([pod])
        self._c._untrack([pod for pod in self._pods if "deletionTimestamp" in pod["metadata"]])
        if condition is None or condition["status"] != "True":
            self._note_suspension("True", "JobSuspended", "Job suspended")
            self._c._tell(self._job, "Suspended", "Job suspended")
        self._c._write(self._job, {**_counts(self._pods), "startTime": None, "uncountedTerminatedPods": {}})
        return True

    def _note_suspension(self, status: str, reason: str, message: str) -> None:
        others = [item for item in self._job["status"].get("conditions", []) if item["type"] != "Suspended"]
        self._job["status"]["conditions"] = [_made("Suspended", reason, message, status=status), *others]

    def _failed(self, pod: Body) -> bool:
        phase, deleted = pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"]
        if phase == "Failed":
            return True
        return deleted and (phase == "Pending" if self._patient else phase != "Succeeded")

    def _judge(self, failed: list[Body]) -> tuple[list[Body], str]:
        """The failed pods that count, and why the Job fails by its policy, if it does."""
        counted = []
        for pod in failed:
            action, message = policy.match(self._job, pod)
            if action == "FailJob":
                return failed, message
            if action != "Ignore":
                counted.append(pod)
        return counted, ""

    def _target(self, failed: list[Body], succeeded: int, fails: str) -> tuple[str, str, str] | None:
        """Where the Job is going: the type, reason and message of the condition that says so."""
        known = _condition(self._job, "FailureTarget", "SuccessCriteriaMet")
        if known is not None:
            return known["type"], known["reason"], known["message"]
        status, deadline = self._job["status"], self._spec.get("activeDeadlineSeconds")
        if fails:
            return "FailureTarget", "PodFailurePolicy", fails
        if status.get("failed", 0) + len(failed) > self._spec["backoffLimit"]:
            return "FailureTarget", *_BACKOFF
        if deadline is not None and time.time() >= self._c._began[self._uid] + deadline * self._c._clock:
            return "FailureTarget", *_DEADLINE
        if status.get("succeeded", 0) + succeeded >= self._spec["completions"]:
            return "SuccessCriteriaMet", *_REACHED
        return None

    def _count(self, failed: list[Body], counted: list[Body], succeeded: list[Body], target: tuple[str, str, str] | None) -> None:
        """Tell the ends, stop tracking these pods, count them: in this order, so that none is counted twice or never."""
        status = self._job["status"]
        uids = {"failed": [pod["metadata"]["uid"] for pod in counted], "succeeded": [pod["metadata"]["uid"] for pod in succeeded]}
        change = {**_counts(self._pods), "uncountedTerminatedPods": {kind: found for kind, found in uids.items() if found}}
        if target is not None:
            change["conditions"] = self._conditions(target)
        if failed:
            before, _ = self._c._failures.get(self._uid, (0, 0.0))
            self._c._failures[self._uid] = before + len(failed), time.time()
        self._c._write(self._job, change)
        self._c._untrack([*failed, *succeeded])
        for kind, found in (("failed", counted), ("succeeded", succeeded)):
            if found:
                status = self._job["status"]
                status[kind] = status.get(kind, 0) + len(found)
        self._job["status"]["uncountedTerminatedPods"] = {}
        if not (target is not None and self._finish()):
            self._c._write(self._job, {})
        if target is None:
            self._c._look(key_of(self._job), AT_ONCE)

    def _finish(self, *, separately: bool = False) -> bool:
        """Say that the Job is over, if all its pods are; False if it is not yet."""
        counts = _counts(self._pods)
        if counts["active"] or counts["terminating"]:
            return False
        if separately:
            self._c._write(self._job, counts)
        known = _condition(self._job, "FailureTarget", "SuccessCriteriaMet")
        if known is None:  # the caller has written it
            return False
        good = known["type"] == "SuccessCriteriaMet"
        change: Body = {
            "conditions": [
                *self._job["status"]["conditions"],
                _made("Complete" if good else "Failed", known["reason"], known["message"]),
            ]
        }
        if good:
            change["completionTime"] = stamp()
        self._c._write(self._job, change)
        if good:
            self._c._tell(self._job, "Completed", "Job completed")
        else:
            self._c._tell(self._job, known["reason"], known["message"], warning=True)
        return True

    def _replenish(self) -> None:
        """Make the pods that are missing."""
        counts = _counts(self._pods)
        active = counts["active"] or 0
        busy = active + (counts["terminating"] if self._patient else 0)
        missing = min(self._spec["parallelism"], self._spec["completions"] - self._job["status"].get("succeeded", 0)) - busy
        failures, last = self._c._failures.get(self._uid, (0, 0.0))
        if missing > 0 and failures:
            wait = min(POD_BACK_OFF * 2 ** (failures - 1), POD_BACK_OFF_LIMIT) * self._c._engine.pace
            left = last + wait - time.time()
            if left > 0:
                key = key_of(self._job)
                self._c._engine.after_exactly(PART, left, lambda: self._c._look(key, 0))
                missing = 0
        made = [pod for pod in (self._make() for _ in range(missing)) if pod is not None] if missing > 0 else []
        counts = _counts([*self._pods, *made])
        start = self._job["status"].get("startTime") or stamp()
        self._c._write(self._job, {**counts, "startTime": start, "uncountedTerminatedPods": {}})
        if self._resumed:
            self._c._tell(self._job, "Resumed", "Job resumed")

    def _make(self) -> Body | None:
        template, metadata = self._spec["template"], self._job["metadata"]
        own = template.get("metadata") or {}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": self._uid}
        pod: dict[str, Any] = {
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "labels": own.get("labels") or {},
                "finalizers": [TRACKING],
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"],
        }
        if own.get("annotations"):
            pod["metadata"]["annotations"] = own["annotations"]
        try:
            made, _ = self._c._registry.create(PODS, metadata["namespace"], pod, unknown="Ignore")
        except Refused as refused:
            self._c._tell(self._job, "FailedCreate", f"Error creating: {refused.message}", warning=True)
            tries = self._c._refusals.get(self._uid, 0)
            self._c._refusals[self._uid] = tries + 1
            wait = min(REFUSED_BACK_OFF * 2**tries, REFUSED_BACK_OFF_LIMIT)
            key = key_of(self._job)
            self._c._engine.after(PART, wait, lambda: self._c._look(key, 0))
            return None
        self._c._refusals.pop(self._uid, None)
        self._c._tell(self._job, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
        return made

    def _active(self) -> list[Body]:
        return [
            pod for pod in self._pods if pod["status"].get("phase") not in _DONE and "deletionTimestamp" not in pod["metadata"]
        ]

    def _stop(self, pods: list[Body]) -> None:
        for pod in pods:
            self._c._registry.delete(PODS, *key_of(pod), Deletion(uid=pod["metadata"]["uid"]))
            self._c._tell(self._job, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")

    def _conditions(self, target: tuple[str, str, str]) -> list[Body]:
        have: list[Body] = self._job["status"].get("conditions", [])
        if any(item["type"] == target[0] for item in have):
            return have
        return [*have, _made(*target)]


def owner_of(pod: Body) -> str | None:
    """The uid of the Job that controls a pod."""
    for reference in pod["metadata"].get("ownerReferences", ()):
        if reference.get("controller") and reference["kind"] == "Job":
            return str(reference["uid"])
    return None


def _counts(pods: list[Body]) -> Body:
    """The counts of a status; what is 0 is not told where the server does not tell it."""
    live = [pod for pod in pods if pod["status"].get("phase") not in _DONE]
    active = [pod for pod in live if "deletionTimestamp" not in pod["metadata"]]
    ready = [
        pod for pod in active if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]
    return {"active": len(active) or None, "ready": len(ready), "terminating": len(live) - len(active)}


def _made(kind: str, reason: str, message: str, *, status: str = "True") -> Body:
    now = stamp()
    condition = {"type": kind, "status": status, "reason": reason, "message": message}
    return {**condition, "lastProbeTime": now, "lastTransitionTime": now}


def _condition(job: Body, *kinds: str) -> Body | None:
    for condition in job["status"].get("conditions", ()):
        if condition["type"] in kinds and (condition["status"] == "True" or condition["type"] == "Suspended"):
            return dict(condition)
    return None
