"""One look of the Job controller at one Job: pods are made and stopped, their ends are counted, the
Job's end is told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.doubles.kubernetes.controllers import failure_policy as policy
from tests.doubles.kubernetes.controllers.job_status import active, condition, counts, failed, made
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.objects.deletion import TRACKING, Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.store import Body, key_of
from tests.doubles.kubernetes.objects.wire import stamp

if TYPE_CHECKING:
    from tests.doubles.kubernetes.controllers.job_controller import JobController

#: Type, reason and message of a condition.
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


@dataclass(slots=True)
class History:
    """What a Job went through. Times are Unix seconds; ``deadline``: a look at its deadline is
    settled.
    """

    began: float | None = None
    deadline: bool = False
    refusals: int = 0
    refused_until: float = 0.0
    failures: int = 0
    last_failure: float = 0.0


class Round:
    """One look; ``run`` it once."""

    def __init__(
        self, controller: JobController, job: Body, pods: list[Body], history: History
    ) -> None:
        self._controller = controller
        self._job = job
        self._spec = job["spec"]
        self._pods = pods
        self._history = history
        self._patient = self._spec.get("podReplacementPolicy") == "Failed"
        self._resumed = False

    def run(self) -> None:
        """Do what is to be done now."""
        if self._suspended():
            return
        self._begin()
        tracked = [pod for pod in self._pods if TRACKING in pod["metadata"].get("finalizers", ())]
        lost = [pod for pod in tracked if failed(pod, patient=self._patient)]
        won = [pod for pod in tracked if pod["status"].get("phase") == "Succeeded"]
        counted, verdict = self._judge(lost)
        target = self._target(len(counted), len(won), verdict)
        if target is not None and (stopped := active(self._pods)):
            self._stop(stopped)
            if not self._patient:  # a pod that is being deleted has failed already
                more = [pod for pod in stopped if pod in tracked]
                lost, counted = lost + more, counted + more
        if lost or won:
            self._count(lost, counted, won, target)
        elif target is not None:
            self._controller.write(
                self._job, {**counts(self._pods), "conditions": self._conditions(target)}
            )
            self._finish(separately=True)
        else:
            self._replenish()

    def _begin(self) -> None:
        if self._history.began is None:
            self._history.began = time.time()
        deadline = self._spec.get("activeDeadlineSeconds")
        if deadline is not None and not self._history.deadline:
            self._history.deadline = True
            left = self._history.began + deadline * self._controller.clock - time.time()
            self._controller.look_after(key_of(self._job), max(0.0, left))

    def _suspended(self) -> bool:
        told = condition(self._job, "Suspended")
        if not self._spec.get("suspend"):
            if told is not None:
                self._resumed = True
                self._note_suspension("False", "JobResumed", "Job resumed")
            return False
        self._stop(active(self._pods))
        self._controller.untrack(
            [pod for pod in self._pods if "deletionTimestamp" in pod["metadata"]]
        )
        self._history.began, self._history.deadline = None, False
        if told is None:
            self._note_suspension("True", "JobSuspended", "Job suspended")
            self._controller.tell(self._job, "Suspended", "Job suspended")
        self._controller.write(
            self._job, {**counts(self._pods), "startTime": None, "uncountedTerminatedPods": {}}
        )
        return True

    def _note_suspension(self, status: str, reason: str, message: str) -> None:
        others = [
            item
            for item in self._job["status"].get("conditions", [])
            if item["type"] != "Suspended"
        ]
        self._job["status"]["conditions"] = [
            made("Suspended", reason, message, status=status),
            *others,
        ]

    def _judge(self, lost: list[Body]) -> tuple[list[Body], str]:
        """The failed pods that count, and why the Job fails by its policy, if it does."""
        counted = []
        for pod in lost:
            action, message = policy.match(self._job, pod)
            if action == "FailJob":
                return lost, message
            if action != "Ignore":
                counted.append(pod)
        return counted, ""

    def _target(self, lost: int, won: int, verdict: str) -> Target | None:
        """Where the Job is going."""
        known = condition(self._job, "FailureTarget", "SuccessCriteriaMet")
        if known is not None:
            return known["type"], known["reason"], known["message"]
        status, deadline, began = (
            self._job["status"],
            self._spec.get("activeDeadlineSeconds"),
            self._history.began,
        )
        if verdict:
            return "FailureTarget", "PodFailurePolicy", verdict
        if status.get("failed", 0) + lost > self._spec["backoffLimit"]:
            return _BACKOFF
        if (
            deadline is not None
            and began is not None
            and time.time() >= began + deadline * self._controller.clock
        ):
            return _DEADLINE
        if status.get("succeeded", 0) + won >= self._spec["completions"]:
            return _REACHED
        return None

    def _count(
        self, lost: list[Body], counted: list[Body], won: list[Body], target: Target | None
    ) -> None:
        """Tell the ends, let go of these pods, count them: in this order, so that none is counted
        twice or never.
        """
        uncounted = {
            "failed": [pod["metadata"]["uid"] for pod in counted],
            "succeeded": [pod["metadata"]["uid"] for pod in won],
        }
        told = {
            **counts(self._pods),
            "uncountedTerminatedPods": {kind: uids for kind, uids in uncounted.items() if uids},
        }
        if target is not None:
            told["conditions"] = self._conditions(target)
        if lost:
            self._history.failures += len(lost)
            self._history.last_failure = time.time()
        self._controller.write(self._job, told)
        self._controller.untrack([*lost, *won])
        status = self._job["status"]
        for kind, pods in (("failed", counted), ("succeeded", won)):
            if pods:
                status[kind] = status.get(kind, 0) + len(pods)
        status["uncountedTerminatedPods"] = {}
        if target is None or not self._finish():
            self._controller.write(self._job, {})
        if target is None:
            self._controller.look(key_of(self._job), 0)

    def _finish(self, *, separately: bool = False) -> bool:
        """Say that the Job is over, if all its pods are; False if it is not yet."""
        known = condition(self._job, "FailureTarget", "SuccessCriteriaMet")
        now = counts(self._pods)
        if known is None or now["active"] or now["terminating"]:
            return False
        if separately:
            self._controller.write(self._job, now)
        good = known["type"] == "SuccessCriteriaMet"
        last = made("Complete" if good else "Failed", known["reason"], known["message"])
        told: Body = {"conditions": [*self._job["status"]["conditions"], last]}
        if good:
            told["completionTime"] = stamp()
        self._controller.write(self._job, told)
        reason, message = (
            ("Completed", "Job completed") if good else (known["reason"], known["message"])
        )
        self._controller.tell(self._job, reason, message, warning=not good)
        return True

    def _replenish(self) -> None:
        """Make the pods that are missing."""
        now = counts(self._pods)
        busy = (now["active"] or 0) + (now["terminating"] if self._patient else 0)
        missing = (
            min(
                self._spec["parallelism"],
                self._spec["completions"] - self._job["status"].get("succeeded", 0),
            )
            - busy
        )
        if missing > 0 and (left := self._back_off()) > 0:
            self._controller.look_after(key_of(self._job), left)
            missing = 0
        fresh = [pod for pod in (self._make() for _ in range(missing)) if pod is not None]
        start = self._job["status"].get("startTime") or stamp()
        self._controller.write(
            self._job,
            {**counts([*self._pods, *fresh]), "startTime": start, "uncountedTerminatedPods": {}},
        )
        if self._resumed:
            self._controller.tell(self._job, "Resumed", "Job resumed")

    def _back_off(self) -> float:
        """Real seconds until a pod may be made after the last failure or refusal."""
        after = self._history.refused_until
        if self._history.failures:
            wait: float = min(
                delays.POD_BACK_OFF * 2 ** (self._history.failures - 1), delays.POD_BACK_OFF_LIMIT
            )
            after = max(after, self._history.last_failure + wait * self._controller.engine.pace)
        return after - time.time()

    def _make(self) -> Body | None:
        template, metadata = self._spec["template"], self._job["metadata"]
        own = template.get("metadata") or {}
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        about: dict[str, Any] = {
            "generateName": f"{metadata['name']}-",
            "labels": own.get("labels") or {},
            "finalizers": [TRACKING],
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        }
        if own.get("annotations"):
            about["annotations"] = own["annotations"]
        try:
            pod = self._controller.registry.create_pod(
                metadata["namespace"], about, template["spec"]
            )
        except Refused as refused:
            self._controller.tell(
                self._job, "FailedCreate", f"Error creating: {refused.message}", warning=True
            )
            wait = (
                min(
                    delays.REFUSED_BACK_OFF * 2**self._history.refusals,
                    delays.REFUSED_BACK_OFF_LIMIT,
                )
                * self._controller.engine.pace
            )
            self._history.refusals += 1
            self._history.refused_until = time.time() + wait
            self._controller.look_after(key_of(self._job), wait)
            return None
        self._history.refusals = 0
        self._controller.tell(
            self._job, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}"
        )
        return pod

    def _stop(self, pods: list[Body]) -> None:
        for pod in pods:
            self._controller.registry.delete(
                PODS, *key_of(pod), Deletion(uid=pod["metadata"]["uid"])
            )
            self._controller.tell(
                self._job, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}"
            )

    def _conditions(self, target: Target) -> list[Body]:
        have: list[Body] = self._job["status"].get("conditions", [])
        return have if any(item["type"] == target[0] for item in have) else [*have, made(*target)]
