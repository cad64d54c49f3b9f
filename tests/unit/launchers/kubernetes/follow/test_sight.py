"""The age of the last good answer of the API, and who asks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from gpuqueue.launchers.base import BLIND_AFTER
from gpuqueue.launchers.kubernetes.api.errors import Unreachable
from gpuqueue.launchers.kubernetes.follow import sight as module
from gpuqueue.launchers.kubernetes.follow.sight import LOOK_EVERY, Sight
from tests.support.waiting import until


class Bench:
    """A sight with a clock that tests set. Its thread looks about at once."""

    def __init__(self) -> None:
        self.now, self.asked, self.answers = 1000.0, 0, True
        self.sight = Sight(self._ask, lambda: self.now)

    def _ask(self) -> None:
        self.asked += 1
        if not self.answers:
            raise Unreachable("no answer", request="list pods")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "LEAST", 0.01)
    made = Bench()
    yield made
    made.sight.close()


def test_no_age_is_counted_before_it_leads(bench: Bench) -> None:
    bench.now += 60
    assert (bench.sight.age(), bench.asked) == (0.0, 0)


def test_silence_is_ended_by_a_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    bench.sight.lead(True)
    bench.now += LOOK_EVERY
    until(lambda: bench.asked and bench.sight.age() == 0, what="it has asked, and seen")


def test_other_answers_need_no_request(bench: Bench) -> None:
    bench.sight.lead(True)
    bench.now += 60
    bench.sight.seen()
    assert bench.sight.age() == 0 and bench.sight.look() and bench.asked == 0
    bench.now += LOOK_EVERY
    assert bench.sight.look() and bench.asked == 1


def test_a_candidate_asks_and_is_not_taken_to_have_seen_by_a_failure(bench: Bench) -> None:
    bench.answers = False
    assert [bench.sight.look(), bench.sight.look()] == [False, False] and bench.asked >= 2
    bench.answers = True
    assert bench.sight.look() and bench.sight.age() == 0


def test_the_age_counts_until_it_sees_again_though_it_has_resigned(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.sight.lead(True)
    bench.answers = False
    bench.now += BLIND_AFTER
    assert not bench.sight.look()
    bench.sight.lead(False)
    bench.now += 60
    assert bench.sight.age() == BLIND_AFTER + 60
    assert not bench.sight.look() and not bench.sight.look()
    bench.answers = True
    assert bench.sight.look() and bench.sight.age() == 0
    bench.now += 600
    assert bench.sight.age() == 0, "it does not lead, and need not see"
    told = [each.__dict__["action"] for each in caplog.records]
    assert told == ["out_of_sight", "in_sight"], "each is told once"


def test_one_that_resigns_in_sight_need_not_see(bench: Bench) -> None:
    bench.sight.lead(True)
    bench.sight.lead(False)
    bench.now += 60
    assert bench.sight.age() == 0
