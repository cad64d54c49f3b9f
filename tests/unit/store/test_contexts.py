"""Python sends each script the context that its header documents."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.tenant import ClassRules, TenantRule
from gpuqueue.store import places
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.dead_letters import DeadLetters, Letter
from gpuqueue.store.finishes import ExecutorFinish
from gpuqueue.store.intake import BrokerKeys, Intake
from gpuqueue.store.lease import Lease
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures
from gpuqueue.store.owners import Owners
from gpuqueue.store.profiles import Profiles
from gpuqueue.store.reader import Reader
from gpuqueue.store.scripts import script
from gpuqueue.store.tenants import Tenants
from gpuqueue.store.turn import Turns
from gpuqueue.store.usage import Capacities, Usage
from tests.unit.store.test_scripts import VERBS, documented

T4 = GpuClass("t4", shared_slots=1)
J = Attempt("t4", "j", 1)
ANSWERS: dict[str, Any] = {
    "accept": ["accepted", 0, [0], "j"],
    "enqueue": [0],
    "intake/take": [0, [], [], [], []],
    "admit": [0],
    "relaunch": None,
    "release": [0, "", "j#1", ""],
    "next": ["none", "no job can start", 0],
    "idle": ["waits"],
    "here": None,
    "tick": [0, ""],
    "turn": [0, "", 0, 1, [0], [], [], [], []],
    "claim": ["ok", '{"started": 1}', "{}"],
    "report": "ok",
    "finish_claim": ["busy"],
    "finish_failed": [0],
    "finish_held": [0],
    "measured": [0, 0, "0", "0", 0, 0, 0, 0, [], [], 0, [], 0, 0],
    "tenants": [0, "60", 0, []],
    "set_tenants": [1, 1],
    "why": None,
    "room": [1, 0, 0, 1],
    "note_capacity": 1,
    "domains": [0, ""],
    "used": ["0", [], [], [], [], "0"],
}


class RecordingRedis:
    """Records the arguments of each script, by verb."""

    def __init__(self) -> None:
        self.called: dict[str, list[list[str]]] = defaultdict(list)
        self._answers: list[Any] = []

    def evalsha(self, sha: str, number: int, *keys_and_args: str) -> Any:
        verb = next(verb for verb in VERBS if script(verb)[1] == sha)
        args = list(keys_and_args[number:])
        self.called[verb].append(args)
        answer = ANSWERS.get(verb, 0)
        if verb == "cancel":  # the first call stopped in the middle
            answer = ["ended", "" if "after" in json.loads(args[0]) else "j", "j"]
        self._answers.append(answer)
        return answer

    def pipeline(self, transaction: bool = True) -> RecordingRedis:
        self._answers = []
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        return self._answers

    def hget(self, *arguments: object) -> None:
        return None

    def hmget(self, *arguments: object) -> list[None]:
        return [None, None]

    def hgetall(self, *arguments: object) -> dict[str, str]:
        self._answers.append({})
        return {}

    def zrangebyscore(self, *arguments: object, **options: object) -> list[str]:
        return []

    def set(self, *arguments: object, **options: object) -> bool:
        return True


def every_call() -> RecordingRedis:
    """Call every verb, with and without what may be absent."""
    redis: Any = RecordingRedis()
    line = Line(redis, by="dispatcher", owner="cluster")
    line.accept("t4", {"delivery": "j"}, "{}")
    line.take_in(T4, {"delivery": "j"}, "{}", "j~0+0")
    line.enqueue(T4, "j")
    line.admit(T4)
    line.room(T4, {"isolation": "shared"})
    for attempt in (J, replace(J, token="token")):
        line.launched(attempt, "host:1", 60)
        line.relaunch(attempt, 30)
        line.relaunch(attempt, 30, 4)
        line.release(T4, attempt, End(EndReason.ERROR, "failed", evidence={"exit_code": 1}), "h:1")
        line.release(T4, attempt)
        full = Observation(
            attempt,
            WaitReason.QUOTA,
            detail="full",
            pod="p",
            node="n",
            claim_within=60,
            launch_in=9,
        )
        line.observed([full, Observation(attempt)])
        line.give_up(attempt, End(EndReason.IMAGE, "no image", "n", blames=PlaceKind.IMAGE))
        line.give_up(attempt, End(EndReason.IMAGE, "no image"))
    line.cancel("t4", "j")
    line.tick("t4")
    line.set_nodes(T4, {"node": {"shared": 1, "exclusive": 0}}, more=2)
    line.set_nodes(T4, None, owner="north")
    line.set_aside("t4", "holders_shared", "none")
    Turns(redis, line).take([T4])
    line.finish_claim("t4", "j", "finisher", 15)
    line.finish_claim("t4", "j", "finisher", 15, begins=True)
    line.finish_claim("t4", "j", "finisher", 15, begins=True, hold={"places": [], "tries": 3})
    line.finish_failed("t4", "j", "finisher", "no callback")
    line.finish_held("t4", "j", "finisher", "finishes:t4", "no room")
    line.finishes_go_on("t4", ["finishes:t4"])
    line.finished("t4", "j", "finisher", "ERROR")
    line.finished("t4", "j", "finisher", "ERROR", "no callback")
    line.open("t4")
    line.announce([T4], 30)
    line.set_bounds([T4], ":t4", 30)
    line.send_away(["t4"], 1)
    Owners(redis).take_over("t4", "gone", "cluster")
    Profiles(redis, ["t4"]).keep("shop", "shop:2", {"steps": [0]})
    line.adopt("t4", {"delivery": "j"})
    line.adopt("t4", {"delivery": "j"}, slots=1, instead_of="token")
    for claims in (True, False):
        executor = ExecutorAttempt(redis, J, "token")
        if claims:
            executor.claim("host:1", "worker")
            executor.claim("host:1", "worker", 60)
        executor.not_loaded("no module")
        executor.loaded(60, [("channel", "message")], "requeue", "yesterday")
        executor.loaded()
        executor.sampled({"gpu": "T4"})
        executor.sampled({})
        executor.reported(60)
        executor.report("SUCCEEDED", {"gpu": "T4"})
        executor.report("REQUEUED", error="later")
        executor.report("RETRIED", elsewhere=True)
        executor.reported(60, failed=True, events=[("channel", "message")])
        executor.take_next(WarmInstance("h:1", "h", "h", "shop"))
        executor.called("h:1", "j#1")
        executor.called("h:1", "j#1", leaves=True)
        executor.stands({"delivery": "j"}, "h:1")
        told = WarmInstance("h:1", "h", "h", "shop", "v1", 60, node="n", longest=60, stays=60)
        executor.take_next(told, ended=End(EndReason.ERROR, "failed"), reuses=True)
    line.send_away(["t4"], 2)
    finish = ExecutorFinish(redis, J, "finisher", 60)
    finish.claim()
    finish.failed("no callback", passing=True)
    finish.finished("ERROR")
    Measures(redis).of("t4")
    priced = {"t4": T4, "a100": replace(T4, name="a100", price_per_hour="2.5")}
    Capacities(redis, priced, 100).note()
    Usage(redis).of("t4")
    Usage(redis).of("t4", 0)
    tenants = Tenants(redis)
    tenants.set("t4", {"a": TenantRule(), "b": None}, 60)
    tenants.set("t4", {}, epoch=1)
    tenants.follow({"t4": ClassRules({"a": TenantRule()})}, "mark")
    Reader(redis).why(T4, "j")
    places.clear(redis, "t4", "host:h")
    lease = Lease(redis, "dispatcher", 15)
    assert lease.hold() and lease.taken
    lease.hold()
    lease.resign()
    Intake(redis, BrokerKeys(), "process", 60).take(["gpu.t4"])
    DeadLetters(redis).send(Letter("id", "gpu.t4", "{}", 5, 1.0, 2.0, "error"), "gpu.t4")
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
    assert {message for _, message in called["accept"]} == {"{}"}


def test_a_number_is_sent_with_every_digit() -> None:
    redis: Any = RecordingRedis()
    Line(redis).launched(J, "host:1", 60.123456789012)
    assert json.loads(redis.called["launched"][0][0])["claim_within"] == 60.123456789012


def test_no_verb_takes_the_time_of_its_caller() -> None:
    called = every_call().called
    sent = {name for calls in called.values() for args in calls for name in json.loads(args[0])}
    assert not sent & {"now", "before", "deadline", "forget_at"}
