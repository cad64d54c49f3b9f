"""Who leads: a dispatcher that sees the cluster and whose loop works; if none sees, one of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from gpuqueue.dispatcher.leadership import BACK_OFF, STALLED, Leadership
from gpuqueue.launchers.base import BLIND_AFTER
from tests.support.waiting import until

TICK, LEASE = 1.0, 3.0


@dataclass
class Group:
    """The lease of a group in Redis, with its clock."""

    now: float = 1000.0
    holder: str = ""
    ends: float = 0.0

    @property
    def leader(self) -> str:
        return self.holder if self.now < self.ends else ""


@dataclass
class Member:
    """A dispatcher of the group. ``sees``: its cluster answers. ``away``: Redis does not."""

    group: Group
    name: str
    may_lead: bool = True
    sees: bool = True
    away: bool = False
    seen_at: float = field(default=0.0, init=False)
    looks: int = field(default=0, init=False)
    taken: bool = field(default=False, init=False)
    seconds: float = LEASE

    def __post_init__(self) -> None:
        me: Any = self
        self.seen_at = self.group.now
        self.leadership = Leadership(me, me, TICK, self.may_lead, clock=lambda: self.group.now)

    # -- its lease -----------------------------------------------------------------------------

    def is_free(self) -> bool:
        if self.away:
            raise redis.ConnectionError("away")
        return not self.group.leader

    def hold(self) -> bool:
        self.taken = self.is_free()
        if self.taken or self.group.leader == self.name:
            self.group.holder, self.group.ends = self.name, self.group.now + self.seconds
            return True
        return False

    def resign(self) -> None:
        if self.group.leader == self.name:
            self.group.ends = 0.0

    # -- its cluster ---------------------------------------------------------------------------

    def look(self) -> bool:
        self.looks += 1
        return self.sees

    def unseen(self) -> float:
        if self.sees:
            self.seen_at = self.group.now
        return self.group.now - self.seen_at if self.leadership.leads else 0.0


def run(seconds: float, *members: Member, works: bool = True) -> list[str]:
    """Let time pass in steps of a second; return who led after each."""
    led = []
    for _ in range(round(seconds)):
        members[0].group.now += 1.0
        for each in members:
            if works:
                each.leadership.worked()
            each.leadership.turn()
        led.append(members[0].group.leader)
    return led


@pytest.fixture
def group() -> Group:
    return Group()


def test_one_of_two_leads_and_stays(group: Group) -> None:
    one, two = Member(group, "one"), Member(group, "two")
    assert run(300, one, two) == ["one"] * 300
    assert (one.leadership.terms, two.leadership.terms, two.looks) == (1, 0, 0)
    assert one.leadership.changed.is_set()


def test_a_dispatcher_that_must_not_lead_takes_no_lease(group: Group) -> None:
    assert set(run(60, Member(group, "one", may_lead=False))) == {""}


def test_a_leader_that_sees_nothing_is_replaced_within_15_s(group: Group) -> None:
    one, two = Member(group, "one"), Member(group, "two")
    run(10, one, two)
    one.sees = False
    led = run(15, one, two)
    assert led.index("two") >= BLIND_AFTER - 2, "a short outage replaces no leader"
    assert led[-1] == "two" and not one.leadership.leads
    one.sees = True
    assert set(run(60, one, two)) == {"two"}


def test_one_that_sees_comes_before_all_that_do_not(group: Group) -> None:
    members = [Member(group, str(number)) for number in range(5)]
    run(10, *members)
    for each in members[:4]:
        each.sees = False
    assert run(15, *members)[-1] == "4"


def test_if_none_sees_one_leads_most_of_the_time(group: Group) -> None:
    one, two = Member(group, "one"), Member(group, "two")
    run(10, one, two)
    one.sees = two.sees = False
    led = run(600, one, two)
    assert led.count("") < 0.4 * 600, "the others have their chance in between"
    two.sees = True
    assert "two" in run(BLIND_AFTER + BACK_OFF, one, two)
    assert set(run(60, one, two)) == {"two"}


def test_a_single_dispatcher_that_sees_nothing_leads_again(group: Group) -> None:
    one = Member(group, "one")
    run(10, one)
    one.sees = False
    led = run(60, one)
    assert "" in led[:15] and led.count("one") > 30
    one.sees = True
    run(BACK_OFF, one)
    assert set(run(60, one)) == {"one"}


def test_a_slow_cycle_keeps_the_lease_and_one_that_hangs_does_not(group: Group) -> None:
    one, two = Member(group, "one"), Member(group, "two")
    run(10, one, two)
    for _ in range(int(STALLED)):
        two.leadership.worked()
        assert run(1, one, two, works=False) == ["one"]
    for _ in range(5):
        two.leadership.worked()
        run(1, one, two, works=False)
    assert group.leader == "two"
    two.resign()
    one.leadership.turn()
    assert group.leader == "", "one that hangs is no candidate"


def test_a_leader_whose_lease_is_lost_follows(group: Group) -> None:
    one, two = Member(group, "one"), Member(group, "two")
    run(10, one, two)
    group.ends = 0.0
    two.leadership.turn()
    assert set(run(10, one, two)) == {"two"} and not one.leadership.leads
    group.ends = 0.0  # Redis has lost its data
    run(2, two)
    assert two.leadership.leads and two.leadership.terms == 2


def test_the_thread_outlives_errors_of_redis_and_others(group: Group) -> None:
    one = Member(group, "one", away=True)
    one.leadership.start()
    try:
        assert one.leadership.alive()
        one.look = lambda: 1 / 0  # type: ignore[assignment,return-value]
        one.away = False
        until(lambda: one.leadership._steps._failures, what="the error is told")
        del one.look
        until(lambda: one.leadership.leads, what="it leads")
    finally:
        one.leadership.stop()
    assert not one.leadership.alive() and group.leader == "one", "the lease is left to its owner"
