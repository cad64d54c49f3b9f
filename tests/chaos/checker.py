"""Judges one schedule from outside: what Celery's results say, against what the tasks noted that
they did.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.messages import Expected, Made
from tests.chaos.settings import SHARED_SLOTS
from tests.chaos.steps import UNSTARTED

FINAL = ("SUCCESS", "FAILURE", "REVOKED")
#: A process that dies needs as long, in seconds, until its end counts here.
BLUR = 0.02


@dataclass
class Verdict:
    """What a schedule came to. Each problem is one sentence."""

    jobs: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    #: Runs that the docs allow, since the process of an attempt was killed.
    again: int = 0
    stall: float = 0.0

    @property
    def problems(self) -> list[str]:
        return [
            *(f"lost: {each}" for each in self.lost),
            *(f"run twice: {each}" for each in self.twice),
            *(f"contradicted: {each}" for each in self.contradicted),
            *(f"side by side: {each}" for each in self.beside),
            *(f"leaked: {each}" for each in self.leaked),
            *(f"died: {each}" for each in self.died),
        ]


class Checker:
    """``events``: what processes noted. ``results``: id → the stored result. ``moved``: a fault may
    have given any job another attempt. ``resends``: an executor may have sent a callback twice; the
    second message runs if the first one has ended by then. ``seen``: id → final states in the order
    of their sight.
    """

    def __init__(
        self,
        made: list[Made],
        events: list[dict[str, Any]],
        results: dict[str, dict[str, Any]],
        seen: dict[str, list[str]],
        cancels: dict[str, str],
        *,
        moved: bool,
        resends: bool = False,
    ) -> None:
        self._made, self._events, self._results, self._seen = made, events, results, seen
        self._cancels, self._moved = cancels, moved
        self._starts = Counter(
            (each["id"], each["retries"]) for each in events if each["event"] == "start"
        )
        sent_by_executors = {each.id for job in made for each in job.expected if each.needs}
        self._resent = sent_by_executors if resends else set[str]()
        self._ended = {each["id"] for each in events if each["event"] == "end"}
        killed = [each for each in events if each["event"] == "killed" and each["id"]]
        #: ids whose executor was killed, at any step.
        self._hit = Counter(each["id"] for each in killed)
        #: Kills that allow another run: the task may have begun, and its outcome is not claimed.
        self._kills = Counter(each["id"] for each in killed if each["step"] not in UNSTARTED)
        self.verdict = Verdict()

    def judge(self) -> Verdict:
        for made in self._made:
            for each in made.expected:
                self.verdict.jobs += 1
                self._result(each)
            self._times(made)
        self._runs()
        self._isolation()
        return self.verdict

    def is_due(self, each: Expected) -> bool:
        """Whether the id must get a result."""
        needed = [self._results.get(name, {}).get("status") for name in each.needs]
        return each.always or all(status == "SUCCESS" for status in needed)

    def _tainted(self, each: Expected) -> bool:
        return self._moved or any(self._hit[name] for name in (each.id, *each.needs))

    def _result(self, each: Expected) -> None:
        found = self._results.get(each.id, {})
        status = found.get("status")
        if status not in FINAL:
            if self.is_due(each):
                self.verdict.lost.append(f"{each.id} is {status or 'PENDING'}")
            return
        states = self._seen.get(each.id, [])
        if len(set(states)) > 1 or (states and states[-1] != status):
            self._contradicted(each, f"changed from {states} to {status}")
        problem = self._wrong(each, status, found)
        if problem:
            self._contradicted(each, problem)

    def _wrong(self, each: Expected, status: str, found: dict[str, Any]) -> str | None:
        result = found.get("result")
        if status == "REVOKED":
            if each.kind == "cancelled" or (each.kind == "expiring" and each.id not in self._ended):
                return None
            return "is REVOKED"
        if status == "FAILURE":
            kind = result.get("exc_type") if isinstance(result, dict) else None
            if each.kind == "failing" and kind == "ValueError":
                return None if each.id in self._ended else "failed by a task that did not end"
            if self._tainted(each):
                return None
            return f"is FAILURE {kind}: {str(result)[:200]}"
        if each.kind == "failing":
            return "is SUCCESS although its task fails"
        if each.kind == "cancelled" and self._cancels.get(each.id) in ("cancelled", "stopping"):
            return f"is SUCCESS although its cancel answered {self._cancels[each.id]}"
        if each.kind == "container":
            exit_code = result.get("exit_code") if isinstance(result, dict) else None
            return None if exit_code == 0 else f"answers {result}"
        if result != each.value:
            return f"is {result}, not {each.value}"
        return None if each.id in self._ended else "is SUCCESS of a task that did not end"

    def _contradicted(self, each: Expected, what: str) -> None:
        self.verdict.contradicted.append(f"{each.id} {what}")

    def _times(self, made: Made) -> None:
        for each in made.expected if made.not_before else ():
            for event in self._events:
                early = made.not_before - event["at"]
                if event["event"] == "start" and event["id"] == each.id and early > 0:
                    self._contradicted(each, f"started {early:.2f} s before its eta")

    def _runs(self) -> None:
        for (task_id, retries), runs in self._starts.items():
            if runs > 1:
                allowed = 1 + self._kills[task_id] + (2 if self._moved else 0)
                allowed += task_id in self._resent
                if runs > allowed:
                    self.verdict.twice.append(
                        f"{task_id} (retries={retries}) ran {runs} times, {allowed} allowed"
                    )
                else:
                    self.verdict.again += runs - 1

    def _isolation(self) -> None:
        """No exclusive job runs beside another job, no more shared ones than slots."""
        spans = []
        last = {each["pid"]: each["at"] for each in self._events if each["event"] != "start"}
        for each in self._events:
            if each["event"] == "start":
                spans.append((each["at"], last.get(each["pid"], each["at"]) - BLUR, each))
        for start, end, one in spans:
            others = [
                other
                for begin, until, other in spans
                if begin < end and start < until and other is not one
            ]
            if one["isolation"] == "exclusive" and others:
                self.verdict.beside.append(
                    f"exclusive {one['id']} ran beside {', '.join(each['id'] for each in others)}"
                )
            at_start = sum(begin <= start < until for begin, until, _ in spans)
            if at_start > SHARED_SLOTS:
                self.verdict.beside.append(f"{at_start} jobs ran at once")
