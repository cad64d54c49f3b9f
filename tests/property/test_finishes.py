"""The tries of a finish are counted, pause longer each time, and end; errors that pass do not
count, for a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher import finish_here
from gpuqueue.dispatcher.finish_here import PLAIN_TRIES, HereFinisher
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.model.record import Record
from gpuqueue.store import places
from gpuqueue.store.finishes import FREE_FOR
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.reader import Reader
from gpuqueue.store.turn import Turn, Turns
from tests.support.model_time import Timed
from tests.support.waiting import until

pytestmark = pytest.mark.integration
TRIES = 3
AWAY = redis.ConnectionError("the backend is away")
REFUSED = redis.exceptions.NoPermissionError("this user has no permissions to run 'set'")


@dataclass
class Finishing(Timed):
    """A job that waits for its finish, and a dispatcher whose writes do as the test says."""

    client: redis.Redis
    monkeypatch: pytest.MonkeyPatch
    written: list[str] = field(default_factory=list)
    complete: Callable[[], None] = lambda: None
    plain: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line = Line(self.client, keep=1000)
        self.reader = Reader(self.client)
        record: Any = {"delivery": "j", "id": "j", "isolation": "shared", "gpu_class": "t4"}
        record["task"] = "shop.train"
        self.line.accept("t4", record | {"reason": "REJECTED", "error": "no such class"}, "{}")
        self.here = HereFinisher(
            self.line, Logs(self.client), None, "d@h", lambda event: None, UNSIGNED, 15
        )
        self.monkeypatch.setattr(finish_here, "complete", self._complete)
        self.monkeypatch.setattr(finish_here, "write_plainly", self._plain)

    def _complete(self, app: Any, record: Record, *_: Any, **__: Any) -> str:
        self.complete()
        self.written.append("with callbacks")
        return record["reason"]

    def _plain(self, app: Any, record: Record, *_: Any, note: str, **__: Any) -> str:
        self.plain()
        self.written.append(note)
        return record["reason"]

    def record(self) -> Record:
        found = self.reader.record("t4", "j")
        assert found
        return found

    def turn(self, *, instead: bool = False) -> float:
        """Finish it once, as soon as it may be; return for how long it had to wait."""
        began = self.now
        assert self.record()["state"] == "finishing"
        free_at: Any = self.client.zscore(class_key("t4", "finishing"), "j")
        if free_at > self.now:
            assert not self.reader.todo("t4", free_at - 0.001).finishing
            self.now = free_at
        assert self.reader.todo("t4", self.now).finishing
        answer, *_ = self.line.finish_claim("t4", "j", f"f{self.now}", 15)
        assert answer == "ok"
        self.here.finish("t4", "j", f"f{self.now}", TRIES + instead, instead=instead)
        return self.now - began

    def turns(self, most: int) -> list[float]:
        """Finish it until it has ended; return the pauses before each try."""
        pauses: list[float] = []
        while self.record()["state"] != "ended":
            assert len(pauses) < most, "this does not end"
            pauses.append(self.turn())
        return pauses


@pytest.fixture
def job(schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Finishing:
    return Finishing(schedule_redis, monkeypatch)


def raising(exc: Exception) -> Callable[[], None]:
    def write() -> None:
        raise exc

    return write


def test_a_finish_that_works_is_done_once(job: Finishing) -> None:
    assert job.turns(1) == [0]
    assert job.written == ["with callbacks"]
    assert job.record()["error"] == "no such class"


def test_a_finish_that_raises_is_tried_with_growing_pauses_and_ends(job: Finishing) -> None:
    job.complete = raising(TypeError("no signature"))
    assert job.turns(10) == [0, 1, 2]
    [note] = job.written
    assert note == (
        "no callback was sent: it could not be finished (tries: 3; the last error:"
        " TypeError: no signature)"
    )
    assert job.record()["error"] == f"no such class; {note}"


def test_a_finish_that_kills_its_dispatcher_each_time_ends(job: Finishing) -> None:
    for number in range(TRIES):
        answer, *_ = job.line.finish_claim("t4", "j", f"killed{number}", 15, begins=True)
        assert answer == "ok"
        job.now += 16
    job.turn()
    assert job.written == ["no callback was sent: each try to finish it was cut off"]
    assert job.record()["state"] == "ended"


# -- finishers without a pod -----------------------------------------------------------------------

CLASS_PLACE, IMAGE_PLACE = "finishes:t4", "finishes:main"


def begun(job: Finishing, name: str, finisher: str, most: float | None = None) -> str:
    """Begin a finish in the code of its application; return the answer."""
    hold: dict[str, Any] = {"places": [CLASS_PLACE, IMAGE_PLACE], "tries": TRIES}
    hold |= {"most": most} if most else {}
    return job.line.finish_claim("t4", name, finisher, 135, begins=True, hold=hold)[0]


def another(job: Finishing, name: str) -> None:
    record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
    job.line.accept("t4", record | {"task": "t", "reason": "REJECTED", "error": "no"}, "{}")


def test_one_finisher_without_a_pod_holds_those_of_its_class(job: Finishing) -> None:
    another(job, "k")
    assert begun(job, "j", "f1") == "ok"
    assert job.line.finish_held("t4", "j", "f1", CLASS_PLACE, "quota: no room") == 2
    assert "finishes" not in job.record() or job.record()["finishes"] == 0
    assert job.record()["finish_error"] == "quota: no room"
    assert begun(job, "k", "f2") == "held", "it does not try what the first has met"
    [held] = places.of(job.client, "t4")
    assert (held.kind, held.name, held.error) == ("finishes", CLASS_PLACE, "quota: no room")

    pauses = []
    for number in range(7):
        entry = places.of(job.client, "t4")[0]
        assert entry.until is not None
        pauses.append(entry.pause)
        job.now = entry.until
        name, waits = ("k", "j") if number % 2 else ("j", "k")
        assert begun(job, name, f"probe{number}") == "ok", "one tries"
        assert begun(job, waits, f"other{number}") == "held", "the others wait for it"
        assert job.line.finish_held("t4", name, f"probe{number}", CLASS_PLACE, "full")
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    for name in ("j", "k"):
        record = job.reader.record("t4", name)
        assert record and record["state"] == "finishing" and not record.get("finishes")


def test_a_finisher_that_gets_its_pod_ends_the_hold(job: Finishing) -> None:
    another(job, "k")
    begun(job, "j", "f1")
    job.line.finish_held("t4", "j", "f1", IMAGE_PLACE, "registry away")
    job.now += 2
    assert begun(job, "k", "f2") == "ok"
    tried = job.reader.record("t4", "k")
    assert tried and tried["finish_probes"] == [IMAGE_PLACE]
    job.line.finish_claim("t4", "k", "f2", 135)
    tried = job.reader.record("t4", "k")
    assert tried and tried["finish_probes"] == [IMAGE_PLACE], "it keeps the job, and tries on"
    job.now += 1
    assert begun(job, "j", "f3") == "held", "the first waits"
    job.line.finishes_go_on("t4", tried["finish_probes"])
    assert places.of(job.client, "t4") == []
    assert "j" in dict(job.reader.todo("t4", job.now).finishing), "at once"
    assert begun(job, "j", "f4") == "ok" and "finish_probes" not in job.record()


def test_a_trying_finisher_that_dies_leaves_the_hold_with_its_claim(job: Finishing) -> None:
    another(job, "k")
    begun(job, "j", "f1")
    job.line.finish_held("t4", "j", "f1", CLASS_PLACE, "full")
    job.now += 2
    assert begun(job, "j", "dies") == "ok"
    job.now += 134
    assert begun(job, "k", "f2") == "held"
    job.now += 1
    assert begun(job, "k", "f3") == "ok"


def test_a_finish_that_outlasts_a_hold_with_an_end_needs_no_pod(job: Finishing) -> None:
    begun(job, "j", "f1", 100)
    job.line.finish_held("t4", "j", "f1", CLASS_PLACE, "full")
    job.now += 2
    assert begun(job, "j", "f2", 100) == "ok"
    job.line.finish_held("t4", "j", "f2", CLASS_PLACE, "full")
    job.now += 99
    assert begun(job, "j", "f3", 100) == "held"
    assert job.record()["finishes"] == TRIES
    job.turn(instead=True)
    assert job.written == ["with callbacks"]
    assert "could not be finished" in job.record()["error"] and "full" in job.record()["error"]


def test_a_hold_that_no_finish_waits_for_is_forgotten(job: Finishing) -> None:
    begun(job, "j", "f1")
    job.line.finish_held("t4", "j", "f1", CLASS_PLACE, "full")
    turns, t4 = Turns(job.client, job.line), GpuClass("t4", shared_slots=1)
    turns.take([t4])
    assert places.of(job.client, "t4"), "one waits"
    job.now += 2
    job.turn()  # by a dispatcher of before
    [turn] = turns.take([t4])
    assert places.of(job.client, "t4") == []
    assert isinstance(turn, Turn) and turn.problems == []


def test_a_finisher_that_lost_its_job_holds_nothing(job: Finishing) -> None:
    begun(job, "j", "f1")
    job.now += 200
    begun(job, "j", "f2")
    assert job.line.finish_held("t4", "j", "f1", CLASS_PLACE, "full") is None
    assert job.line.finish_held("t4", "lost", "f1", CLASS_PLACE, "full") is None
    assert places.of(job.client, "t4") == []


def test_a_hold_that_is_cleared_leaves_a_job_to_its_finisher(job: Finishing) -> None:
    begun(job, "j", "f1")
    assert job.line.finish_held("t4", "j", "f1", CLASS_PLACE, "x" * 1000)
    key = class_key("t4", "places")
    entry = json.loads(str(job.client.hget(key, CLASS_PLACE)))
    assert len(entry["error"]) == 1000, "the words of a registry come last"
    job.now += 10
    noted = {name: entry[name] for name in ("failures", "jobs", "last")}
    job.client.hset(key, CLASS_PLACE, json.dumps(noted))
    begun(job, "j", "f2")
    free_at = job.client.zscore(class_key("t4", "finishing"), "j")
    places.clear(job.client, "t4", CLASS_PLACE)
    assert job.client.zscore(class_key("t4", "finishing"), "j") == free_at


def test_an_application_that_failed_leaves_the_callbacks_to_their_names(job: Finishing) -> None:
    for number in range(TRIES):
        job.line.finish_claim("t4", "j", f"app{number}", 15, begins=True)
        job.line.finish_failed("t4", "j", f"app{number}", "exit 1")
        job.now += 100
    job.turn(instead=True)
    assert job.written == ["with callbacks"]
    assert job.record()["error"] == (
        "no such class; it could not be finished (tries: 3; the last error: exit 1)"
    )


@pytest.mark.parametrize("times", [1, 20, 50])
def test_an_error_that_passes_uses_up_no_try(job: Finishing, times: int) -> None:
    job.complete = raising(AWAY)
    pauses = [job.turn() for _ in range(times)]
    assert job.record()["finishes"] == 0
    assert max(pauses) <= 30
    job.complete = lambda: None
    job.turn()
    assert (job.written, job.record()["state"]) == (["with callbacks"], "ended")


def test_a_callback_whose_server_is_away_for_good_ends(job: Finishing) -> None:
    job.complete = raising(AWAY)
    began = job.now
    job.turns(200)
    assert FREE_FOR < job.now - began < FREE_FOR + 200
    [note] = job.written
    assert "the backend is away" in note


def test_a_result_that_cannot_be_stored_ends_the_job_without_one(job: Finishing) -> None:
    job.complete = job.plain = raising(ValueError("no row"))
    began = job.now
    pauses = job.turns(TRIES + PLAIN_TRIES)
    assert sorted(pauses) == pauses and 300 < job.now - began < 900
    assert job.record()["error"].startswith(
        "no such class; no result was stored: ValueError: no row; no callback was sent: "
    )


@pytest.mark.parametrize("error", [AWAY, REFUSED], ids=["away", "refused"])
def test_a_result_backend_that_is_away_or_refuses_gets_each_result(
    job: Finishing, error: Exception
) -> None:
    job.complete, job.plain = raising(TypeError("no signature")), raising(error)
    for _ in range(40):
        job.turn()
    assert job.record()["state"] == "finishing"
    job.plain = lambda: None
    job.turn()
    assert len(job.written) == 1 and job.record()["state"] == "ended"


def test_a_right_that_a_callback_lacks_counts(job: Finishing) -> None:
    job.complete = raising(REFUSED)
    assert len(job.turns(10)) == TRIES


def test_a_failure_is_recorded_when_redis_is_back(
    job: Finishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, away = job.line.finish_failed, [True, True]

    def failed(*args: Any, **options: Any) -> Any:
        if away:
            away.pop()
            raise redis.ConnectionError("the state is away")
        return known(*args, **options)

    monkeypatch.setattr(job.line, "finish_failed", failed)
    monkeypatch.setattr(finish_here, "AGAIN", 0.01)
    job.complete = raising(TypeError("no signature"))
    job.turn()
    until(lambda: "finish_error" in job.record(), what="the failure is recorded")
    assert job.record()["finishes"] == 0, "the outage may be the cause"
    job.here.close()


def test_a_finisher_that_was_given_up_writes_nothing_more(job: Finishing) -> None:
    job.line.finish_claim("t4", "j", "slow", 15, begins=True)
    assert job.line.finish_failed("t4", "j", "slow", "not done in time") == (1, 0)
    assert job.line.finished("t4", "j", "slow", "REJECTED") is False
    assert job.line.finish_failed("t4", "j", "slow", "again") is None
    assert job.line.finish_claim("t4", "j", "other", 15)[0] == "busy"
