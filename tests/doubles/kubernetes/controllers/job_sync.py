"""One sync of one Job by the Job controller: it creates and deletes pods, counts those that ended,
and ends the Job.
"""

from __future__ import annotations

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.controllers import failure_policy
from tests.doubles.kubernetes.controllers.job_history import History
from tests.doubles.kubernetes.controllers.job_objects import JobObjects
from tests.doubles.kubernetes.controllers.job_status import (
    active,
    counts,
    has_failed,
    new_condition,
    true_condition,
)
from tests.doubles.kubernetes.controllers.work_queue import WorkQueue
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.objects.bodies import Body, is_terminating, key_of
from tests.doubles.kubernetes.objects.deletion import TRACKING
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.wire import stamp

#: Type, reason and message of the condition that a Job is about to get.
Target = tuple[str, str, str]
_BACKOFF: Target = (
    "FailureTarget",
    "BackoffLimitExceeded",
    "Job has reached the specified backoff limit",
)
_DEADLINE: Target = (
    "FailureTarget",
    "DeadlineExceeded",
    "Job was active longer than specified deadline",
)
_REACHED: Target = (
    "SuccessCriteriaMet",
    "CompletionsReached",
    "Reached expected number of succeeded pods",
)


class JobSync:
    """One sync; call :meth:`run` once.

    Args:
        job: the Job.
        pods: its pods.
        history: what the controller remembers of it.
        objects: writes objects and events.
        queue: takes the times of later syncs.
        engine: its paces.
    """

    def __init__(
        self,
        job: Body,
        pods: list[Body],
        history: History,
        objects: JobObjects,
        queue: WorkQueue,
        engine: Engine,
    ) -> None:
        self._job = job
        self._spec = job["spec"]
        self._pods = pods
        self._history = history
        self._objects = objects
        self._queue = queue
        self._engine = engine
        self._patient = self._spec.get("podReplacementPolicy") == "Failed"
        self._resumed = False

    def run(self) -> None:
        """Do what the Job needs now."""
        if self._suspended():
            return
        self._begin()
        tracked = [pod for pod in self._pods if TRACKING in pod["metadata"].get("finalizers", ())]
        lost = [pod for pod in tracked if has_failed(pod, patient=self._patient)]
        won = [pod for pod in tracked if pod["status"].get("phase") == "Succeeded"]
        counted, verdict = self._judge(lost)
        target = self._target(len(counted), len(won), verdict)
        if target is not None and (stopped := active(self._pods)):
            self._objects.delete_pods(self._job, stopped)
            if not self._patient:  # a terminating pod counts as failed at once
                more = [pod for pod in stopped if pod in tracked]
                lost, counted = lost + more, counted + more
        if lost or won:
            self._count(lost, counted, won, target)
        elif target is not None:
            self._write({**counts(self._pods), "conditions": self._conditions(target)})
            self._finish(separately=True)
        else:
            self._replenish()

    def _write(self, change: Body) -> None:
        self._objects.write_status(self._job, change)

    def _begin(self) -> None:
        began = self._history.begin()
        deadline = self._spec.get("activeDeadlineSeconds")
        if deadline is not None and not self._history.deadline_set:
            self._history.deadline_set = True
            left = began + deadline * self._engine.manifest_pace - clock.now()
            self._queue.add_extra(key_of(self._job), max(0.0, left))

    def _suspended(self) -> bool:
        known = true_condition(self._job, "Suspended")
        if not self._spec.get("suspend"):
            if known is not None:
                self._resumed = True
                self._set_suspended("False", "JobResumed", "Job resumed")
            return False
        self._objects.delete_pods(self._job, active(self._pods))
        self._objects.untrack([pod for pod in self._pods if is_terminating(pod)])
        self._history.suspend()
        if known is None:
            self._set_suspended("True", "JobSuspended", "Job suspended")
            self._objects.record(self._job, "Suspended", "Job suspended")
        self._write({**counts(self._pods), "startTime": None, "uncountedTerminatedPods": {}})
        return True

    def _set_suspended(self, status: str, reason: str, message: str) -> None:
        conditions = self._job["status"].get("conditions", [])
        others = [item for item in conditions if item["type"] != "Suspended"]
        suspended = new_condition("Suspended", reason, message, status=status)
        self._job["status"]["conditions"] = [suspended, *others]

    def _judge(self, lost: list[Body]) -> tuple[list[Body], str]:
        """Return the failed pods that count, and the message if the failure policy ends the Job."""
        counted = []
        for pod in lost:
            action, message = failure_policy.match(self._job, pod)
            if action == "FailJob":
                return lost, message
            if action != "Ignore":
                counted.append(pod)
        return counted, ""

    def _target(self, lost: int, won: int, verdict: str) -> Target | None:
        """Return the condition that the Job is about to get, None if it goes on."""
        known = true_condition(self._job, "FailureTarget", "SuccessCriteriaMet")
        if known is not None:
            return known["type"], known["reason"], known["message"]
        if verdict:
            return "FailureTarget", "PodFailurePolicy", verdict
        status = self._job["status"]
        if status.get("failed", 0) + lost > self._spec["backoffLimit"]:
            return _BACKOFF
        deadline, began = self._spec.get("activeDeadlineSeconds"), self._history.begin()
        if deadline is not None and clock.now() >= began + deadline * self._engine.manifest_pace:
            return _DEADLINE
        if status.get("succeeded", 0) + won >= self._spec["completions"]:
            return _REACHED
        return None

    def _count(
        self, lost: list[Body], counted: list[Body], won: list[Body], target: Target | None
    ) -> None:
        """Count pods that ended: write their uids, untrack the pods, write the counts.

        A crash between two of these steps counts no pod twice, and misses none.
        """
        ended = {"failed": counted, "succeeded": won}
        change: Body = {
            **counts(self._pods),
            "uncountedTerminatedPods": {
                kind: [pod["metadata"]["uid"] for pod in pods]
                for kind, pods in ended.items()
                if pods
            },
        }
        if target is not None:
            change["conditions"] = self._conditions(target)
        if lost:
            self._history.add_failures(len(lost))
        self._write(change)
        self._objects.untrack([*lost, *won])
        status = self._job["status"]
        for kind, pods in ended.items():
            if pods:
                status[kind] = status.get(kind, 0) + len(pods)
        status["uncountedTerminatedPods"] = {}
        if target is None or not self._finish():
            self._write({})
        if target is None:
            self._queue.add(key_of(self._job), 0)

    def _finish(self, *, separately: bool = False) -> bool:
        """End the Job if all its pods have ended; False if a pod still runs."""
        known = true_condition(self._job, "FailureTarget", "SuccessCriteriaMet")
        now = counts(self._pods)
        if known is None or now["active"] or now["terminating"]:
            return False
        if separately:
            self._write(now)
        good = known["type"] == "SuccessCriteriaMet"
        last = new_condition("Complete" if good else "Failed", known["reason"], known["message"])
        change: Body = {"conditions": [*self._job["status"]["conditions"], last]}
        if good:
            change["completionTime"] = stamp()
        self._write(change)
        if good:
            self._objects.record(self._job, "Completed", "Job completed")
        else:
            self._objects.record(self._job, known["reason"], known["message"], warning=True)
        return True

    def _replenish(self) -> None:
        """Create the missing pods."""
        now = counts(self._pods)
        busy = (now["active"] or 0) + (now["terminating"] if self._patient else 0)
        left = self._spec["completions"] - self._job["status"].get("succeeded", 0)
        missing = min(self._spec["parallelism"], left) - busy
        if missing > 0 and (wait := self._history.back_off(self._engine.pace)) > 0:
            self._queue.add_extra(key_of(self._job), wait)
            missing = 0
        fresh = [pod for pod in (self._create() for _ in range(missing)) if pod is not None]
        start = self._job["status"].get("startTime") or stamp()
        self._write(
            {**counts([*self._pods, *fresh]), "startTime": start, "uncountedTerminatedPods": {}}
        )
        if self._resumed:
            self._objects.record(self._job, "Resumed", "Job resumed")

    def _create(self) -> Body | None:
        try:
            pod = self._objects.create_pod(self._job)
        except Refused as refused:
            message = f"Error creating: {refused.message}"
            self._objects.record(self._job, "FailedCreate", message, warning=True)
            wait = self._history.add_refusal(self._engine.pace)
            self._queue.add_extra(key_of(self._job), wait)
            return None
        self._history.refusals = 0
        return pod

    def _conditions(self, target: Target) -> list[Body]:
        conditions: list[Body] = self._job["status"].get("conditions", [])
        if any(item["type"] == target[0] for item in conditions):
            return conditions
        return [*conditions, new_condition(*target)]
