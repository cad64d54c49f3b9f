"""Plays one schedule on a stage: sends its jobs, begins and ends its faults, waits for every job to
end, and has it judged.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis

from gpuqueue.store.line import Line
from tests.chaos.checker import FINAL, Checker, Verdict
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.messages import Made, Maker
from tests.chaos.plan import Schedule
from tests.chaos.stage import CLASS, Stage
from tests.support.nodes import executors_of

#: Seconds after the last fault's end without any progress, after which what has not ended counts as
#: lost. The docs promise less for each step: lease, repair, relist and visibility are 0.5 to 2 s
#: here, a finish by the application 2 s, and a machine at work makes all of that longer.
BOUND = 30.0
#: The same where the state itself was lost, and some jobs with it.
BOUND_OF_LOSS = 8.0
PAUSE = 0.02
#: Seconds between two tries of what Redis refuses at present.
AGAIN = 0.05
#: What a client sees of Redis during a fault.
AWAY = (redis.RedisError, OSError)


@dataclass
class Played:
    schedule: Schedule
    verdict: Verdict
    seconds: float
    trace: list[str] = field(default_factory=list)


class Player:
    def __init__(self, stage: Stage, schedule: Schedule, number: int) -> None:
        self._stage, self._schedule = stage, schedule
        self._number = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._prefix = f"s{schedule.seed}n{number}"
        self._faults: list[Fault] = []
        self._unfinished_faults = 0
        self._results: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, list[str]] = {}
        self._cancels: dict[str, str] = {}
        self._strange: list[str] = []
        self._trace: list[str] = []
        self._last_fault = 0.0

    def play(self) -> Played:
        stage, schedule = self._stage, self._schedule
        stage.new_events()
        stage.events.clear()
        maker = Maker(stage.server.url, self._prefix)
        try:
            self._made = [maker.make(sent) for sent in schedule.jobs]
        finally:
            maker.close()
        self._start = time.monotonic()
        self._last_fault = self._progress = self._start
        self._stall = 0.0
        for made in self._made:
            self._at(made.sent.at, partial(self._send, made))
        for planned in schedule.faults:
            fault = FAULTS[planned.kind](stage, planned)
            self._faults.append(fault)
            self._unfinished_faults += 1
            self._at(planned.at, partial(self._begin, fault))
        loses = any(fault.loses_state for fault in self._faults)
        bound = BOUND_OF_LOSS if loses else BOUND
        in_time = self._until(self._all_ended, bound)
        if in_time:
            in_time = self._until(self._is_idle, bound)
        self._read_results()
        moved = loses or any(fault.moves_jobs for fault in self._faults)
        checker = Checker(
            *(self._made, stage.events, self._results, self._seen, self._cancels),
            moved=moved,
            resends=any(fault.loses_answers for fault in self._faults),
        )
        verdict = checker.judge()
        verdict.stall = self._stall
        verdict.died = self._strange
        if not in_time:
            verdict.leaked = self._left_over()
        return Played(schedule, verdict, time.monotonic() - self._start, self._told())

    # -- what happens when -------------------------------------------------------------------------

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._start + seconds, next(self._number), action))

    def _soon(self, action: Callable[[], None], seconds: float = AGAIN) -> None:
        self._at(time.monotonic() - self._start + seconds, action)

    def _note(self, what: str) -> None:
        self._trace.append(f"{time.monotonic() - self._start:6.2f} s {what}")

    def _send(self, made: Made) -> None:
        self._push(made, made.envelopes)
        if made.sent.kind == "cancelled":
            self._soon(partial(self._cancel, made.expected[0].id), made.sent.after)

    def _push(self, made: Made, envelopes: list[tuple[str, str]]) -> None:
        for number, (queue, envelope) in enumerate(envelopes):
            try:
                self._stage.client.lpush(queue, envelope)
            except AWAY:
                # An answer may be lost: a message is then sent twice, as by any client.
                self._soon(partial(self._push, made, envelopes[number:]))
                return
        self._moved_on()
        self._note(f"sent {made.sent.kind} {made.sent.number}")

    def _cancel(self, task_id: str) -> None:
        try:
            answer = Line(self._stage.client).cancel(CLASS, task_id, terminate=True)
        except AWAY:
            self._soon(partial(self._cancel, task_id))
            return
        # A repeated call answers what the first one has done.
        self._cancels.setdefault(task_id, answer)
        self._note(f"cancel {task_id}: {answer}")

    def _begin(self, fault: Fault) -> None:
        self._note(f"begins: {fault.name}")
        try:
            fault.begin()
        except AWAY:
            self._soon(partial(self._begin, fault))
            return
        for made in self._made:
            if repeated := fault.repeats(made.envelopes):
                self._push(made, repeated)
        self._soon(partial(self._end, fault), fault.planned.seconds)

    def _end(self, fault: Fault) -> None:
        try:
            fault.end()
        except AWAY:  # another fault is at work
            self._soon(partial(self._end, fault))
            return
        self._unfinished_faults -= 1
        self._last_fault = time.monotonic()
        self._moved_on()
        self._note(f"ends: {fault.name}")

    # -- waiting -----------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], bool], bound: float) -> bool:
        """Act on all that is due until the condition holds; False: not within the bound."""
        since = time.monotonic()
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            self._strange += self._stage.revive()
            for event in self._stage.new_events():
                self._moved_on()
                self._trace.append(_line(event, self._start))
            idle_plan = not self._due and not self._unfinished_faults
            try:
                if condition() and idle_plan:
                    return True
            except AWAY:
                pass
            if idle_plan and now - max(self._last_fault, self._progress, since) > bound:
                return False
            time.sleep(PAUSE)

    def _moved_on(self) -> None:
        """Something happened: the stall since the last event, or fault's end, is over."""
        now = time.monotonic()
        if not self._unfinished_faults:
            self._stall = max(self._stall, now - self._progress)
        self._progress = now

    def _ids(self) -> list[str]:
        return [each.id for made in self._made for each in made.expected]

    def _read_results(self) -> None:
        ids = self._ids()
        found = self._stage.client.mget([f"celery-task-meta-{each}" for each in ids])
        for task_id, raw in zip(ids, found, strict=True):
            if raw is None:
                continue
            result = json.loads(raw)
            before = self._results.get(task_id, {}).get("status")
            self._results[task_id] = result
            status = result["status"]
            if status != before:
                self._moved_on()
                self._note(f"{task_id} is {status}")
                if status in FINAL or self._seen.get(task_id):
                    self._seen.setdefault(task_id, []).append(status)

    def _all_ended(self) -> bool:
        self._read_results()
        checker = Checker([], [], self._results, {}, {}, moved=True)
        return all(
            self._results.get(each.id, {}).get("status") in FINAL
            for made in self._made
            for each in made.expected
            if checker.is_due(each)
        )

    def _is_idle(self) -> bool:
        return not self._stage.left_over() and not executors_of(self._stage.url)

    def _left_over(self) -> list[str]:
        try:
            found = self._stage.left_over()
        except AWAY as exc:
            return [f"Redis: {exc}"]
        return found + [f"process {each.pid}" for each in executors_of(self._stage.url)]

    def _told(self) -> list[str]:
        return ["planned:", *self._schedule.lines(), "happened:", *self._trace]


def _line(event: dict[str, Any], start: float) -> str:
    step = f" at step {event['step']}" if "step" in event else ""
    return (
        f"{event['at'] - start:6.2f} s {event['event']} {event['id']} retries"
        f" {event.get('retries', '')} attempt {event['attempt']} process {event['pid']}{step}"
    )
