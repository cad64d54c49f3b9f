"""The tries of a finish are counted, pause longer each time, and end; errors that pass do not
count, for a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from gpuqueue.dispatcher import finish_here
from gpuqueue.dispatcher.finish_here import PLAIN_TRIES, HereFinisher
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import FREE_FOR
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.reader import Reader
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
        while not self.reader.todo("t4", self.now).finishing:
            self.now += 0.5
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
    assert max(pauses) <= 30.5
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
