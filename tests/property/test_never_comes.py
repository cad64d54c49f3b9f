"""An autoscaler that never adds a node: the promise holds on the node that exists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.unbound import is_unbound
from tests.property.scaled import AUTO, Scaled

pytestmark = pytest.mark.integration
#: Seconds: of a step; for which a pod waits for a node; how long jobs run.
STEP, PENDS, RUN_TIMES = 5, 600.0, (20.0, 70.0, 300.0, 500.0, 3000.0)
OTHERS = 24


class Unhelped(Scaled):
    """Jobs on the node ``a``. Those that start are noted in ``order``; ``refused`` has how many had
    started there when no node had come for a job, for the first time.
    """

    def __init__(self, client: redis.Redis, runs: list[float]) -> None:
        super().__init__(client, replace(AUTO, exclusive_patience=3, scale_to=2))
        assert self.look("a")
        self.runs = runs
        self.until: dict[str, float] = {}
        self.order: list[str] = []
        self.refused: dict[str, int] = {}

    def note(self, started: list[str]) -> None:
        for name, _, where in (each.partition("@") for each in started):
            if is_unbound(where):
                self.until[name] = self.now + PENDS
                continue
            self.until[name] = self.now + self.runs[len(self.order) % len(self.runs)]
            self.order.append(name)
            self.lands(name, "a")
            self.claims(name)

    def step(self) -> None:
        """Let some seconds pass."""
        self.now += STEP
        for name in [each for each, until in self.until.items() if until <= self.now]:
            del self.until[name]
            if is_unbound(self.domain(name)):
                self.refused.setdefault(name, len(self.order))
                self.note(self.finds_no_node(name))
            else:
                self.note(self.ends(name, End(EndReason.SUCCEEDED, "")))
        self.note(self.admit())


@settings(max_examples=8, deadline=None)
@given(runs=st.lists(st.sampled_from(RUN_TIMES), min_size=1, max_size=5))
@pytest.mark.parametrize(("first", "others"), [("exclusive", "shared"), ("shared", "exclusive")])
def test_a_job_without_a_node_to_come_is_next_on_the_one_that_exists(
    schedule_redis: redis.Redis, first: str, others: str, runs: list[float]
) -> None:
    queue = Unhelped(schedule_redis, runs)
    for number in range(OTHERS):
        queue.note(queue.send(f"o{number}", others))
        if number == 3:
            queue.note(queue.send("first", first))
    for _ in range(OTHERS * int(max(RUN_TIMES)) // STEP):
        if "first" in queue.order or len(queue.order) == OTHERS:
            break
        queue.step()
    assert "first" in queue.order, "all others have started before it"
    if "first" in queue.refused:
        assert queue.order.index("first") - queue.refused["first"] <= 4, "beyond its patience"
