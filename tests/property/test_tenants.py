"""Tenants: who is next, what a rule holds back, and that no key of theirs decides by itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.tenant import TenantRule
from tests.property.many_schedules import run
from tests.property.tenants import LOSABLE, TenantQueue

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=3, exclusive_slots=1, exclusive_patience=2)
NAMES = ("a", "b", "c", "")
RULES = st.builds(
    TenantRule,
    weight=st.sampled_from([0.5, 1, 4]),
    max_running=st.sampled_from([None, None, 0, 1, 2]),
    max_queued=st.sampled_from([None, None, 3]),
    guaranteed=st.sampled_from([0, 0, 1, 2]),
)


class Schedule(RuleBasedStateMachine):
    """Jobs of four tenants come, run and end; rules change; keys are lost."""

    redis_client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.queue = TenantQueue(self.redis_client, T4)
        self.bypassed = self.row = 0
        self.exact = True  # whether all that was used is known

    def watch(self, act: Any) -> None:
        """Do something that may start jobs, and check each start in its order."""
        queue = self.queue
        before = len(queue.ran)
        # None is overtaken until one comes.
        self.bypassed = self.bypassed if queue.waiting(EXCLUSIVE) else 0
        running, costs = queue.running(), queue.costs()
        by_tenants = queue.by_tenants()
        act()
        started = queue.ran[before:]
        records = {each["delivery"]: each for each in queue.records()}
        waits = {i: queue.waiting(i) for i in ISOLATIONS}
        running = Counter(queue.running())
        for name, tenant in started:
            running[tenant] -= 1
            waits[records[name]["isolation"]].append(records[name])
        for at, (name, tenant) in enumerate(started):
            record = records[name]
            self.check_start(record, tenant, running, waits, costs if at == 0 else None)
            isolation = record["isolation"]
            waits[isolation] = [each for each in waits[isolation] if each["delivery"] != name]
            # By arrival, only a later one overtakes; by tenants, each counts.
            first = min((each["arrival"] for each in waits[EXCLUSIVE]), default=0)
            self.count_start(isolation, running, waits, by_tenants or record["arrival"] > first)
            running[tenant] += 1

    def may(self, tenant: str, running: Counter[str]) -> bool:
        most = self.queue.rule(tenant).max_running
        return most is None or running[tenant] < most

    def check_start(
        self,
        record: Any,
        tenant: str,
        running: Counter[str],
        waits: dict[str, list[Any]],
        costs: dict[str, float] | None,
    ) -> None:
        assert self.may(tenant, running), "above max_running"
        rule_of = self.queue.rule
        own = (running[tenant] >= rule_of(tenant).guaranteed, record.get("priority", 0))
        place = (record.get("priority", 0), record["arrival"])
        for other in waits[record["isolation"]]:
            name = other.get("tenant", "")
            if name == tenant:
                assert place <= (other.get("priority", 0), other["arrival"])
            elif self.may(name, running):
                its = (running[name] >= rule_of(name).guaranteed, other.get("priority", 0))
                assert own <= its, "behind a guaranteed share, or a better priority"
                if own == its and costs is not None and self.exact:
                    assert costs.get(tenant, 0) <= costs.get(name, 0) * 1.001 + 0.01

    def count_start(
        self,
        isolation: str,
        running: Counter[str],
        waits: dict[str, list[Any]],
        overtakes: bool,
    ) -> None:
        other = EXCLUSIVE if isolation == SHARED else SHARED
        could = any(self.may(each.get("tenant", ""), running) for each in waits[other])
        if isolation == SHARED:
            self.row = 0
            self.bypassed += could and overtakes
            self.bypassed = self.bypassed if waits[EXCLUSIVE] else 0
            assert self.bypassed <= T4.exclusive_patience
        else:
            self.bypassed = 0
            self.row += could
            self.row = self.row if waits[SHARED] else 0
            assert self.row <= T4.shared_patience

    @rule(
        tenant=st.sampled_from(NAMES),
        isolation=st.sampled_from([SHARED, SHARED, EXCLUSIVE]),
        priority=st.sampled_from([0, 0, 0, 5]),
        later=st.sampled_from([0, 0, 0, 30]),
    )
    def send(self, tenant: str, isolation: str, priority: int, later: int) -> None:
        queue = self.queue
        more: dict[str, Any] = {"priority": priority} if priority else {}
        more |= {"eta": queue.now + later} if later else {}
        in_line = [
            each
            for each in queue.records()
            if each["state"] in ("waiting", "delayed") and each.get("tenant", "") == tenant
        ]
        most = queue.rule(tenant).max_queued
        full = most is not None and len(in_line) >= most
        outcomes: list[str] = []
        self.watch(lambda: outcomes.append(queue.send(tenant, isolation, **more)))
        assert outcomes == ["refused" if full else "accepted"]

    @precondition(lambda self: self.queue.holding)
    @rule(data=st.data(), seconds=st.sampled_from([1.0, 7.0, 300.0]))
    def end(self, data: st.DataObject, seconds: float) -> None:
        delivery = data.draw(st.sampled_from(sorted(self.queue.holding)))
        self.queue.after(seconds)
        self.watch(lambda: self.queue.end(delivery))

    @rule(tenant=st.sampled_from((*NAMES, "*")), new=st.none() | RULES)
    def change(self, tenant: str, new: TenantRule | None) -> None:
        if new and new.max_running is not None and new.guaranteed > new.max_running:
            return
        self.queue.set(tenant, new)
        self.watch(self.queue.turn)

    @rule(seconds=st.sampled_from([2.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.queue.after(seconds)
        self.watch(self.queue.turn)

    @rule(name=st.sampled_from(LOSABLE))
    def lose(self, name: str) -> None:
        self.queue.client.delete(self.queue.key(name))
        self.exact = False
        self.queue.after(6.0)
        self.watch(self.queue.turn)

    @rule(tenant=st.sampled_from(NAMES), isolation=st.sampled_from(ISOLATIONS))
    def older_version_sends(self, tenant: str, isolation: str) -> None:
        """It knows the whole line only."""
        self.queue.put_as_older(tenant, isolation)
        self.queue.after(6.0)
        self.watch(self.queue.turn)

    @invariant()
    def index_is_what_the_records_say(self) -> None:
        self.queue.check_index()

    def teardown(self) -> None:
        """No job starves: with all limits gone, each of them runs."""
        queue = self.queue
        for name in list(queue.rules):
            queue.set(name, None)
        queue.after(40.0)
        self.watch(queue.turn)
        for _ in range(200):
            if not queue.holding:
                break
            self.end_first()
        assert not queue.waiting(SHARED) and not queue.waiting(EXCLUSIVE) and not queue.holding

    def end_first(self) -> None:
        self.queue.after(1.0)
        first = min(self.queue.holding)
        self.watch(lambda: self.queue.end(first))


@pytest.mark.timeout(300)
def test_rules_order_and_bounds_hold_for_random_schedules(schedule_redis: redis.Redis) -> None:
    run(Schedule, schedule_redis, examples=12, steps=20, report_multiple_bugs=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_they_hold_for_many_more_schedules(schedule_redis: redis.Redis) -> None:
    run(Schedule, schedule_redis, examples=50, steps=40, report_multiple_bugs=False)
