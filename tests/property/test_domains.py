"""A class of several domains: rules that hold in each GPU by itself, for every schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.keys import class_key
from gpuqueue.store.usage import Capacities, Usage
from tests.property.open_class import NOW, OpenClass

pytestmark = pytest.mark.integration
GPUS, SHARED = 3, 4
T4 = GpuClass("t4", shared_slots=SHARED, exclusive_slots=1, exclusive_patience=2).on(GPUS)
DOMAINS = [str(index) for index in range(GPUS)]
Job = dict[str, Any]


class Queue(OpenClass):
    """Jobs on a machine with several GPUs. ``running``: name → record, as it was granted."""

    def __init__(self, client: redis.Redis, gpu_class: GpuClass = T4, gpus: int = GPUS) -> None:
        super().__init__(client, devices={"t4": gpus})
        self.gpu_class, self.gpus = gpu_class, gpus
        self.running: dict[str, Job] = {}
        self.waiting: list[Job] = []
        #: The first exclusive job in line → how many later shared jobs started before it.
        self.overtaken: dict[str, int] = {}

    def _start(self, granted: Any) -> list[str]:
        for record in granted:
            self.running[record["delivery"]] = record
            place = next(i for i, each in enumerate(self.waiting) if each["id"] == record["id"])
            del self.waiting[place]
            first = self.first_exclusive()
            earlier = [each["id"] for each in self.waiting[:place]]
            if record["isolation"] == "shared" and first in earlier:
                self.overtaken[first] = self.overtaken.get(first, 0) + 1
        return [f"{each['delivery']}@{self.place_of(each)}" for each in granted]

    def place_of(self, record: Job) -> str:
        """Where a job has started, as tests say it."""
        return str(record["domain"])

    def send(self, name: str, isolation: str = "shared", **fields: Any) -> list[str]:
        """Accept a job; return the jobs that start, each as ``name@domain``."""
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        self.waiting.append(record | fields)
        return self._start(self.line.take_in(self.gpu_class, record | fields, "{}").granted)

    def ends(self, name: str) -> list[str]:
        """End the attempt of a job; return the jobs that start."""
        record = self.running.pop(name)
        end = End(EndReason.ERROR, "gone")
        attempt = Attempt("t4", name, record["attempt"])
        return self._start(self.line.release(self.gpu_class, attempt, end, "").granted)

    def in_domain(self, name: str) -> dict[str, list[str]]:
        """The jobs in a domain by their isolation, as they were granted."""
        found: dict[str, list[str]] = {"shared": [], "exclusive": []}
        for each in self.running.values():
            if each["domain"] == name:
                found[each["isolation"]].append(each["delivery"])
        return found

    def first_exclusive(self) -> str:
        exclusive = (each["id"] for each in self.waiting if each["isolation"] == "exclusive")
        return next(exclusive, "")

    def why(self, name: str) -> str:
        found = self.reader.why(self.gpu_class, name)
        assert found is not None
        return found.reason

    def forget_domains(self) -> None:
        """As a version before domains left the state."""
        keys = list(self.client.scan_iter(f"{class_key('t4', 'domains')}*"))
        self.client.delete(*keys)
        self.client.hdel(class_key("t4", "gate"), "domains", "shares")
        for name in self.running:
            record = self.record(name)
            assert record["device"] == int(record.pop("domain"))
            self.client.hset(class_key("t4", "jobs"), name, json.dumps(record))

    def drained(self) -> str | None:
        found: str | None = self.client.hget(class_key("t4", "gate"), "drained")  # type: ignore[assignment]
        return found

    def index(self, what: str) -> dict[str, float]:
        key = f"{class_key('t4', 'domains')}:{what}"
        return dict(self.client.zrange(key, 0, -1, withscores=True))  # type: ignore[arg-type]

    def check(self) -> None:
        """Each domain keeps its rules, and the indexes say what the jobs say."""
        shared, exclusive = {}, {}
        for name in map(str, range(self.gpus)):
            held = self.in_domain(name)
            slots = self.gpu_class
            assert not (held["shared"] and held["exclusive"]), (name, held)
            assert len(held["shared"]) <= slots.shared_slots, (name, held)
            assert len(held["exclusive"]) <= slots.exclusive_slots, (name, held)
            if not held["exclusive"] and len(held["shared"]) < slots.shared_slots:
                shared[name] = float(slots.shared_slots - len(held["shared"]))
            if not held["shared"] and len(held["exclusive"]) < slots.exclusive_slots:
                exclusive[name] = float(slots.exclusive_slots - len(held["exclusive"]))
        assert self.index("shared") == shared
        assert self.index("exclusive") == exclusive
        of: Any = self.client.hgetall(f"{class_key('t4', 'domains')}:of")
        assert sorted(of.values()) == sorted(each["domain"] for each in self.running.values())
        self.check_work(shared, exclusive)

    def check_work(self, shared: dict[str, float], exclusive: dict[str, float]) -> None:
        """No slot is idle that a job in line may have."""
        kinds = {each["isolation"] for each in self.waiting}
        if "exclusive" in kinds and exclusive:
            assert "shared" in kinds, "an idle domain, and an exclusive job waits"
            raise AssertionError("an idle domain, and jobs of both isolations wait")
        if "shared" in kinds:
            # One that ends in time may start in the other one.
            assert set(shared) <= {self.drained()}, "a domain has room, and a shared job waits"
        first = self.first_exclusive()
        if self.overtaken.get(first, 0) >= self.gpu_class.exclusive_patience:
            assert self.drained() is not None, "its patience is used up"
        if not first:
            assert self.drained() is None


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_shared_jobs_fill_one_domain_before_the_next(queue: Queue) -> None:
    started = [queue.send(f"s{number}") for number in range(SHARED + 1)]
    assert [each[0].partition("@")[2] for each in started] == ["0"] * SHARED + ["1"]
    queue.check()


def test_an_exclusive_job_takes_an_idle_domain_beside_shared_ones(queue: Queue) -> None:
    assert queue.send("s1") == ["s1@0"]
    assert queue.send("e1", "exclusive") == ["e1@1"]
    assert queue.send("s2") == ["s2@0"]
    assert queue.send("e2", "exclusive") == ["e2@2"]
    assert queue.send("e3", "exclusive") == []
    queue.check()
    assert queue.ends("e1") == ["e3@1"]


def full_of_shared(queue: Queue, limits: dict[str, float]) -> None:
    """Two shared jobs in each domain; the one of a name has the limit of it."""
    for domain in DOMAINS:
        for number in range(SHARED):
            queue.send(f"{domain}.{number}", time_limit=limits.get(domain, 100.0))
    for domain in DOMAINS:
        for number in range(2, SHARED):
            queue.ends(f"{domain}.{number}")


def test_what_a_domain_costs_is_counted_for_each(queue: Queue) -> None:
    dear = replace(T4, price_per_hour="36")
    books = Usage(queue.client)
    Capacities(queue.client, {"t4": dear}).note()
    queue.send("e", "exclusive")
    queue.now += 100
    queue.ends("e")
    found = books.of("t4", 0)
    [entry] = found.entries
    assert (entry.domain, entry.stop - entry.start) == ("0", 100 * 1_000_000)
    had = found.had(0, int(queue.now) * 1_000_000)
    assert sum(each.length for each in had) == GPUS * 100 * 1_000_000
    queue.line.devices = {"t4": GPUS - 1}  # the leader notes its own number
    queue.line.admit(queue.gpu_class)
    assert [each.domains for each in books.of("t4").capacities] == [GPUS]
    assert not queue.client.exists(class_key("t4", "domains") + ":there")


def test_one_domain_drains_once_the_patience_is_used_up(queue: Queue) -> None:
    """The one that its limits say is idle soonest."""
    full_of_shared(queue, {"1": 10.0})
    assert queue.send("e", "exclusive") == []
    assert queue.send("s1") + queue.send("s2") == ["s1@0", "s2@0"]
    assert queue.send("s3") == ["s3@2"]
    assert queue.drained() == "1"
    assert queue.send("s4") == ["s4@2"]
    assert queue.send("s5") == [], "the drained domain has room, and no other"
    assert queue.why("s5") == "DRAINING_FOR_EXCLUSIVE"
    assert queue.ends("1.0") == []
    assert queue.ends("0.0") == ["s5@0"], "the other domains go on"
    assert queue.ends("1.1") == ["e@1"]
    assert queue.drained() is None
    queue.check()


def test_a_job_that_ends_in_time_starts_in_the_domain_that_drains(queue: Queue) -> None:
    full_of_shared(queue, {"1": 10.0})
    queue.send("e", "exclusive")
    for number in range(4):
        queue.send(f"s{number}")
    assert queue.drained() == "1"
    assert queue.send("long", time_limit=11) == []
    assert queue.ends("0.0") == ["long@0"]
    assert queue.send("short", time_limit=10) == ["short@1"]
    queue.now += 6
    assert queue.send("late", time_limit=5) == [], "it would end later than was said at first"
    assert queue.send("behind", time_limit=1) == [], "the first in line keeps its place"
    assert queue.ends("1.0") + queue.ends("1.1") == []
    assert queue.ends("short") == ["e@1"]


def test_jobs_beside_exclusive_ones_alone_are_told_so(queue: Queue) -> None:
    for number in range(GPUS):
        queue.send(f"e{number}", "exclusive")
    assert queue.send("e", "exclusive") + queue.send("s") == []
    assert [queue.why("e"), queue.why("s")] == ["NO_FREE_SLOT", "EXCLUSIVE_RUNNING"]


def test_no_job_ends_in_time_in_a_gpu_that_drains_and_is_to_be_tried(queue: Queue) -> None:
    full_of_shared(queue, {"1": 10.0})
    queue.send("e", "exclusive")
    for number in range(4):
        queue.send(f"s{number}")
    assert queue.drained() == "1"
    due = {"failures": 2, "jobs": {}, "last": NOW, "until": NOW - 1, "pause": 100}
    queue.client.hset(class_key("t4", "places"), "device:/1", json.dumps(due))
    assert queue.send("short", time_limit=10) == []
    assert queue.drained() == "1"


def test_without_limits_no_job_starts_in_the_domain_that_drains(queue: Queue) -> None:
    for number in range(GPUS * SHARED):
        queue.send(f"s{number}")
    queue.send("e", "exclusive")
    queue.ends("s0"), queue.ends("s1")
    for name in ("a", "b"):
        queue.send(name)
    assert queue.drained() == "0"
    queue.ends("s2")
    assert queue.send("short", time_limit=0.5) == []


def test_without_limits_the_domain_with_the_fewest_jobs_drains(queue: Queue) -> None:
    for number in range(GPUS * SHARED):
        queue.send(f"s{number}")
    for number in (0, 4, 5, 8):
        queue.ends(f"s{number}")
    assert queue.send("e", "exclusive") == []
    assert queue.send("a") == ["a@0"]
    assert queue.drained() is None
    assert queue.send("b") == ["b@2"]
    assert queue.drained() == "1"
    assert queue.send("c") == []


def test_a_gpu_that_fails_jobs_is_left_out_and_drains_for_none(queue: Queue) -> None:
    aside = {"failures": 2, "jobs": {}, "last": NOW, "until": NOW + 100, "pause": 100}
    queue.client.hset(class_key("t4", "places"), "device:/0", json.dumps(aside))
    assert queue.send("e1", "exclusive") == ["e1@1"]
    assert queue.send("s1") == ["s1@2"]
    assert queue.send("e2", "exclusive") == []
    assert queue.send("s2") + queue.send("s3") == ["s2@2", "s3@2"]
    assert queue.drained() in ("1", "2")
    assert queue.why("e2") == "DEVICE_SET_ASIDE"
    queue.now += 101
    assert queue._start(queue.line.admit(T4)) == ["e2@0"], "the probe of the GPU"
    assert queue.drained() is None


def test_another_idle_domain_ends_the_drain(queue: Queue) -> None:
    full_of_shared(queue, {"1": 10.0})
    queue.send("e", "exclusive")
    queue.send("s1"), queue.send("s2"), queue.send("s3")
    assert queue.drained() == "1"
    queue.ends("2.0"), queue.ends("2.1")
    assert queue.ends("s3") == ["e@2"]
    assert queue.drained() is None
    assert queue.send("s4") == ["s4@1"]


def test_a_domain_that_is_idle_sooner_by_now_drains_in_its_place(queue: Queue) -> None:
    for number in range(GPUS * SHARED):
        queue.send(f"s{number}")
    queue.send("e", "exclusive")
    for number in (0, 4, 5):
        queue.ends(f"s{number}")
    queue.send("a"), queue.send("b")
    assert queue.drained() == "1" and len(queue.in_domain("1")["shared"]) == 3
    for number in (8, 9):
        queue.ends(f"s{number}")
    assert queue.send("c") == ["c@1"], "the third domain has fewer jobs"
    assert queue.drained() == "2"


def test_a_domain_with_an_exclusive_job_drains_last(queue: Queue) -> None:
    """Without a limit, it may have it for long."""
    queue.send("e1", "exclusive")
    for number in range(2 * SHARED):
        queue.send(f"s{number}")
    queue.send("e2", "exclusive")
    for number in (0, 1):
        queue.ends(f"s{number}")
    queue.send("a"), queue.send("b")
    assert queue.drained() == "1"


def test_an_exclusive_job_that_is_cancelled_ends_the_drain(queue: Queue) -> None:
    full_of_shared(queue, {"1": 10.0})
    queue.send("e", "exclusive")
    for number in range(4):
        queue.send(f"s{number}")
    assert queue.send("s4") == []
    queue.line.cancel("t4", "e", terminate=True)
    assert queue._start(queue.line.admit(T4)) == ["s4@1"]


def test_holders_without_a_domain_get_that_of_their_gpu(queue: Queue) -> None:
    """So are those of a version before domains."""
    queue.send("s1"), queue.send("e1", "exclusive"), queue.send("s2")
    queue.forget_domains()
    assert queue.send("e2", "exclusive") == ["e2@2"]
    queue.check()


def test_a_slot_that_an_older_version_frees_is_free(queue: Queue) -> None:
    """It knows no domain: the next decision sees that the holders are not those of the domains."""
    queue.send("e1", "exclusive"), queue.send("e2", "exclusive"), queue.send("e3", "exclusive")
    queue.client.zrem(class_key("t4", "holders_exclusive"), "e2#1")
    del queue.running["e2"]
    assert queue.send("s1") == ["s1@1"]
    queue.check()


def test_more_slots_and_gpus_count_at_once(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, GpuClass("t4", shared_slots=1, exclusive_slots=1).on(2), gpus=2)
    assert queue.send("s1") + queue.send("s2") == ["s1@0", "s2@1"]
    assert queue.send("s3") == []
    queue.gpu_class, queue.gpus = GpuClass("t4", shared_slots=2, exclusive_slots=1).on(3), 3
    queue.line.devices = {"t4": 3}
    assert queue._start(queue.line.admit(queue.gpu_class)) == ["s3@0"]
    assert queue.send("e", "exclusive") == ["e@2"]
    queue.check()


STEPS = st.lists(
    st.tuples(st.sampled_from(["shared", "shared", "exclusive", "end"]), st.integers(0, 20)),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, limits=st.lists(st.sampled_from([None, 5.0, 50.0]), min_size=1, max_size=5))
def test_every_schedule_keeps_the_rules(
    schedule_redis: redis.Redis, steps: list[tuple[str, int]], limits: list[float | None]
) -> None:
    queue = Queue(schedule_redis)
    queue.line.admit(T4)
    for number, (what, which) in enumerate(steps):
        drained = queue.drained()
        before = queue.in_domain(drained)["shared"] if drained else []
        until = float(queue.client.hget(class_key("t4", "gate"), "until") or 0)
        if what == "end" and queue.running:
            queue.ends(sorted(queue.running)[which % len(queue.running)])
        elif what != "end":
            limit = limits[number % len(limits)]
            queue.send(f"{number:02}", what, **({"time_limit": limit} if limit else {}))
        queue.now += 1
        queue.check()
        if drained and drained == queue.drained():
            new = set(queue.in_domain(drained)["shared"]) - set(before)
            for each in (queue.running[name] for name in new):
                assert each["admitted"] + each["time_limit"] <= until, "it ends before the drain"
    while queue.running:
        queue.ends(sorted(queue.running)[0])
        queue.check()
    assert not queue.waiting


#: What is explored: all orders of arrival and end of so many jobs on two GPUs of two slots.
SMALL = GpuClass("t4", shared_slots=2, exclusive_slots=1, exclusive_patience=1).on(2)


def after(client: redis.Redis, steps: tuple[str, ...]) -> Queue:
    """Play steps from an empty queue: ``s`` and ``e`` send a job, a number ends that holder."""
    queue = Queue(client, SMALL, gpus=2)
    queue.line.admit(SMALL)
    for number, step in enumerate(steps):
        queue.now += 1
        if step.isdecimal():
            queue.ends(sorted(queue.running)[int(step)])
        else:
            queue.send(f"{number:02}", "shared" if step == "s" else "exclusive")
        queue.check()
    return queue


def seen(queue: Queue, sent: int) -> tuple[Any, ...]:
    """What decides how a queue goes on, without the names of its jobs."""
    running = [queue.running[each] for each in sorted(queue.running)]
    return (
        sent,
        tuple((each["domain"], each["isolation"]) for each in running),
        tuple(each["isolation"] for each in queue.waiting),
        tuple(queue.client.hmget(class_key("t4", "gate"), "*:bypassed", "*:row", "drained")),
        queue.overtaken.get(queue.first_exclusive(), 0),
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_all_small_cases_keep_the_rules_and_come_to_an_end(schedule_redis: redis.Redis) -> None:
    todo: list[tuple[str, ...]] = [()]
    known: set[tuple[Any, ...]] = set()
    while todo:
        steps = todo.pop()
        queue = after(schedule_redis, steps)
        sent = sum(not step.isdecimal() for step in steps)
        state = seen(queue, sent)
        if state in known:
            continue
        known.add(state)
        ends = [str(number) for number in range(len(queue.running))]
        assert ends or not queue.waiting, f"after {steps}, jobs wait and none runs"
        todo += [(*steps, step) for step in (*(("s", "e") if sent < 5 else ()), *ends)]
    assert len(known) > 200
