"""What monitors hear of a class: one worker, with true counts, from one dispatcher."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher import class_workers
from gpuqueue.dispatcher.class_workers import READ_IDLE, SLACK, ClassWorkers, interval
from gpuqueue.glue.results.events import Event
from gpuqueue.store.activity import Activity

EVERY = 2.0
CLASSES = {"a100": GpuClass("a100"), "t4": GpuClass("t4")}


class Bench:
    """The workers of two classes, and what they send."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, beats: bool = True) -> None:
        self.elapsed = 100.0
        self.seconds = 3.0  # of the lease
        self.others = 0
        self.speaks = set(CLASSES)
        self.active = dict.fromkeys(CLASSES, 0)
        self.read: list[str] = []
        self.sent: list[Event] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.elapsed)
        monkeypatch.setattr(class_workers, "activities", self._activities)
        self.workers = ClassWorkers(
            self,  # type: ignore[arg-type]
            CLASSES,
            self,  # type: ignore[arg-type]
            self.sent.append,
            EVERY,
            beats,
        )

    def _activities(self, client: Any, names: Iterable[str]) -> dict[str, Activity]:
        self.read += names
        return {
            name: Activity({"shared": self.active[name]}, {"shared": 10 + self.active[name]})
            for name in names
        }

    def speaks_for(self, classes: Iterable[str], since: float) -> set[str]:
        return self.speaks & set(classes)

    def zcount(self, key: str, since: float, until: str) -> int:
        return self.others

    def beat(self, *working: str, after: float = EVERY) -> list[str]:
        """Return what is read for the next heartbeat."""
        self.elapsed += after
        self.read.clear()
        self.sent.clear()
        self.workers.beat(working)
        return list(self.read)

    def told(self) -> list[tuple[str, str, Any, Any]]:
        return [
            (each.hostname, each.name, each.fields.get("active"), each.fields.get("processed"))
            for each in self.sent
        ]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


A100, T4 = "gpu-a100@gpuqueue-a100", "gpu-t4@gpuqueue-t4"


def test_a_leader_comes_online_as_each_class_and_then_beats(bench: Bench) -> None:
    bench.active["t4"] = 8
    bench.workers.look(0.0)
    assert bench.told() == [(A100, "worker-online", 0, 10), (T4, "worker-online", 8, 18)]
    bench.beat()
    assert bench.told() == [(A100, "worker-heartbeat", 0, 10), (T4, "worker-heartbeat", 8, 18)]
    [*_, last] = bench.sent
    assert (last.fields["freq"], last.job_id) == (EVERY * SLACK, "")
    assert {"loadavg", "sw_ident", "sw_ver", "sw_sys"} <= set(last.fields)
    bench.seconds = 60.0
    bench.beat()
    assert bench.sent[0].fields["freq"] == 60.0, "until another one may lead"


def test_a_class_is_read_while_it_has_work_and_else_now_and_then(bench: Bench) -> None:
    bench.workers.look(0.0)
    assert bench.beat(after=0) == ["a100", "t4"], "the first time"
    assert bench.beat("t4") == ["t4"]
    bench.active["t4"] = 1
    bench.beat("t4")
    assert bench.told()[1][2:] == (1, 11)
    bench.beat(after=0.1)
    assert bench.read == ["t4"], "until its slots are free"
    bench.active["t4"] = 0
    bench.beat(after=0.1)
    bench.read.clear()
    assert bench.beat(after=0.1) == []
    assert bench.beat(after=READ_IDLE) == ["a100", "t4"]


def test_a_class_of_another_group_is_left_to_it(bench: Bench) -> None:
    bench.speaks = {"a100"}
    bench.workers.look(0.0)
    bench.beat("t4")
    assert [each[0] for each in bench.told()] == [A100] and bench.workers.speaks == {"a100"}
    bench.speaks = {"a100", "t4"}
    bench.sent.clear()
    bench.workers.look(0.0)
    assert bench.told() == [(T4, "worker-online", 0, 10)], "the other one is online already"


def test_a_dispatcher_that_leads_no_more_is_silent(bench: Bench) -> None:
    bench.workers.look(0.0)
    bench.workers.be_silent()
    bench.beat("t4")
    assert bench.told() == [] and bench.workers.speaks == set()
    bench.workers.leave(0.0)
    assert bench.told() == [], "another one speaks"


def test_the_last_dispatcher_says_goodbye(bench: Bench) -> None:
    bench.workers.look(0.0)
    bench.sent.clear()
    bench.others = 1
    bench.workers.leave(0.0)
    assert bench.told() == []
    bench.others = 0
    bench.workers.look(0.0)
    bench.sent.clear()
    bench.workers.leave(0.0)
    assert [each[:2] for each in bench.told()] == [(A100, "worker-offline"), (T4, "worker-offline")]


def test_without_heartbeats_a_leader_answers_and_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, beats=False)
    bench.workers.look(0.0)
    assert bench.workers.speaks == set(CLASSES)
    assert bench.beat("t4") == []
    bench.workers.leave(0.0)
    assert bench.sent == []


def test_many_classes_beat_more_seldom() -> None:
    assert [interval([""] * number) for number in (1, 4, 20)] == [2.0, 2.0, 10.0]
