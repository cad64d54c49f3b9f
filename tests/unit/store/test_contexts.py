"""Python sends each script the context that its header documents."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.store.attempts import ExecutorAttempt, ExecutorFinish
from gpuqueue.store.lease import Lease
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures
from gpuqueue.store.reader import Reader
from gpuqueue.store.scripts import source
from tests.unit.store.test_scripts import VERBS, documented

T4 = GpuClass("t4", shared_slots=1)
J = Attempt("t4", "j", 1)
ANSWERS: dict[str, Any] = {
    "enqueue": [0],
    "admit": [0],
    "relaunch": None,
    "release": [0, ""],
    "tick": [0, ""],
    "claim": ["ok", "{}", "{}"],
    "report": "ok",
    "finish_claim": ["busy"],
    "measured": [0, 0, "0", "0", 0, 0, 0, 0, []],
    "why": None,
}


class RecordingRedis:
    """Records the arguments of each script, by verb."""

    def __init__(self) -> None:
        self.called: dict[str, list[list[str]]] = defaultdict(list)
        self._answers: list[Any] = []

    def register_script(self, text: str) -> Callable[..., Any]:
        verb = next(verb for verb in VERBS if source(verb) == text)

        def call(keys: list[str], args: list[str], client: object = None) -> Any:
            self.called[verb].append(args)
            answer = ANSWERS.get(verb, 0)
            if verb == "cancel":  # the first call stopped in the middle
                answer = ["ended", "" if "after" in json.loads(args[0]) else "j"]
            self._answers.append(answer)
            return answer

        return call

    def pipeline(self, transaction: bool = True) -> RecordingRedis:
        self._answers = []
        return self

    def execute(self) -> list[Any]:
        return self._answers

    def set(self, *arguments: object, **options: object) -> bool:
        return True


def every_call() -> RecordingRedis:
    """Call every verb, with and without what may be absent."""
    redis: Any = RecordingRedis()
    line = Line(redis, by="dispatcher", owner="cluster")
    line.accept("t4", {"delivery": "j"}, "{}")
    line.enqueue(T4, "j")
    line.admit(T4)
    line.launched(J, "host:1", 60)
    line.relaunch(J, 30)
    line.release(T4, J, End(EndReason.ERROR, "failed", evidence={"exit_code": 1}), "host:1")
    line.release(T4, J)
    full = Observation(J, WaitReason.QUOTA, detail="full", pod="p", node="n", claim_within=60)
    line.observed([full, Observation(J)])
    line.give_up(J, EndReason.IMAGE, "no image")
    line.cancel("t4", "j")
    line.tick("t4")
    line.finish_claim("t4", "j", "finisher", 15)
    line.finished("t4", "j", "finisher", "ERROR")
    line.open("t4")
    line.adopt("t4", {"delivery": "j"})
    executor = ExecutorAttempt(redis, J, "token")
    executor.claim("host:1", "worker")
    executor.limit(60)
    executor.sampled({"gpu": "T4"})
    executor.sampled({})
    executor.report("SUCCEEDED", {"gpu": "T4"})
    executor.report("SUCCEEDED")
    executor.reported(60)
    finish = ExecutorFinish(redis, J, "finisher", 60)
    finish.claim()
    finish.finished("ERROR")
    Measures(redis).of("t4")
    Reader(redis).why(T4, "j")
    lease = Lease(redis, "dispatcher", 15)
    lease.hold()
    lease.resign()
    recorded: RecordingRedis = redis
    return recorded


def test_each_script_gets_the_context_that_its_header_documents() -> None:
    called = every_call().called
    assert sorted(called) == sorted(VERBS)
    for verb, calls in called.items():
        sent = [set(json.loads(args[0])) for args in calls]
        fields = documented(verb)
        required = {name for name in fields if not name.endswith("?")}
        assert set.intersection(*sent) == required, verb
        assert set.union(*sent) == {name.rstrip("?") for name in fields}, verb


def test_only_a_message_is_sent_outside_the_context() -> None:
    called = every_call().called
    assert {verb for verb, calls in called.items() if len(calls[0]) > 1} == {"accept"}
    ((_, message),) = called["accept"]
    assert message == "{}"


def test_a_number_is_sent_with_every_digit() -> None:
    redis: Any = RecordingRedis()
    Line(redis).launched(J, "host:1", 60.123456789012)
    assert json.loads(redis.called["launched"][0][0])["claim_within"] == 60.123456789012


def test_no_verb_takes_the_time_of_its_caller() -> None:
    called = every_call().called
    sent = {name for calls in called.values() for args in calls for name in json.loads(args[0])}
    assert not sent & {"now", "before", "deadline", "forget_at"}
