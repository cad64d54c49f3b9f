"""A class with tenants, and what its records say of their lines: nothing here reads the code."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from gpuqueue.store.tenants import Tenants
from gpuqueue.store.turn import Turn, Turns
from tests.support.model_time import Timed

OVER = End(EndReason.BAD_SPEC, "over")
KIND = {SHARED: 0, EXCLUSIVE: 1}
#: Keys of tenants that Redis may lose: all of them are made again from records.
LOSABLE = ("tenants", "tenant_jobs", "tenant_order", "tenant_running", "tenant_charged")


@dataclass
class Used:
    """What a tenant has used: GPU-seconds, decayed; the test adds them up."""

    seconds: float = 0.0
    total: float = 0.0


@dataclass
class TenantQueue(Timed):
    """One class with a clock that tests set, and a count of who used what."""

    client: redis.Redis
    gpu_class: GpuClass
    half_life: float = 86_400.0
    rules: dict[str, TenantRule] = field(default_factory=dict)
    used: dict[str, Used] = field(default_factory=dict)
    ran: list[tuple[str, str]] = field(default_factory=list)
    """(delivery, tenant) in the order of their starts."""
    holding: dict[str, Record] = field(default_factory=dict)
    sent: int = 0

    def __post_init__(self) -> None:
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line = Line(self.client, max_attempts=3)
        self.line.open("t4")
        self.turns = Turns(self.client, self.line)
        self.reader, self.tenants = Reader(self.client), Tenants(self.client)

    def key(self, name: str) -> str:
        return class_key("t4", name)

    def rule(self, tenant: str) -> TenantRule:
        return self.rules.get(tenant) or self.rules.get("*") or TenantRule()

    def set(self, tenant: str, rule: TenantRule | None, **more: Any) -> None:
        self.tenants.set("t4", {tenant: rule}, **more)
        self.rules.pop(tenant, None)
        self.rules |= {tenant: rule} if rule else {}

    def send(self, tenant: str, isolation: str = SHARED, **more: Any) -> str:
        self.sent += 1
        name = more.pop("name", f"{tenant or 'none'}-{self.sent}")
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        record |= {"tenant": tenant} if tenant else {}
        taken = self.line.take_in(self.gpu_class, record | more, "{}")
        assert not taken.granted.more
        self.took(taken.granted)
        return taken.outcome

    def put_as_older(self, tenant: str, isolation: str) -> str:
        """Put a job into line as a version that knows no tenants: it has the whole line only."""
        self.sent += 1
        arrival = self.client.hincrby(self.key("gate"), "seq", 1)
        name = f"older-{self.sent}"
        record = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        record |= {"state": "waiting", "arrival": arrival, "created": self.now}  # type: ignore[dict-item]
        record |= {"tenant": tenant} if tenant else {}
        self.client.hset(self.key("jobs"), name, json.dumps(record))
        self.client.hset(self.key("messages"), name, "{}")
        self.client.zadd(self.key(f"waiting_{isolation}"), {name: arrival})
        return name

    def took(self, granted: list[Record]) -> None:
        for record in granted:
            self.holding[record["delivery"]] = record
            self.ran.append((record["delivery"], record.get("tenant", "")))

    def after(self, seconds: float) -> None:
        """Time passes: what holds slots is used."""
        for each in self.used.values():
            each.seconds *= 2 ** (-seconds / self.half_life) if self.half_life else 0
        # Until the first tenant comes, nothing is counted.
        for record in self.holding.values() if self.by_tenants() else ():
            own = self.used.setdefault(record.get("tenant", ""), Used())
            part = self.part(record["isolation"])
            own.total += seconds * part
            own.seconds += seconds * part
        self.now += seconds

    def by_tenants(self) -> bool:
        """Whether a tenant, or a rule, is known to the class."""
        order = str(self.client.hget(self.key("gate"), "order"))
        return order.startswith(("tenants", "sorting"))

    def part(self, isolation: str) -> float:
        """What a slot is of a GPU."""
        slots = self.gpu_class.shared_slots
        whole = max(1, self.gpu_class.exclusive_slots)
        return min(1.0, whole / slots) if isolation == SHARED else 1.0

    def end(self, delivery: str, end: End = OVER) -> None:
        record = self.holding.pop(delivery)
        released = self.line.release(self.gpu_class, Attempt.of(record), end)
        assert released.freed
        self.took(released.granted)

    def turn(self) -> Turn:
        [turn] = self.turns.take([self.gpu_class])
        assert isinstance(turn, Turn) and turn.problems == [], turn
        self.took(turn.granted)
        return turn

    # -- what the records say ----------------------------------------------------------------------

    def records(self) -> list[Record]:
        return list(self.reader.all_records("t4"))

    def waiting(self, isolation: str) -> list[Record]:
        found = [each for each in self.records() if each["state"] == "waiting"]
        return sorted(
            (each for each in found if each["isolation"] == isolation),
            key=lambda each: (each.get("priority", 0), each["arrival"]),
        )

    def tenant_of(self, attempt: Attempt) -> str:
        return (self.reader.record("t4", attempt.delivery) or {}).get("tenant", "")

    def running(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for attempt, _ in self.reader.holders("t4"):
            found[self.tenant_of(attempt)] += 1
        return found

    def limited(self, tenant: str) -> bool:
        most = self.rule(tenant).max_running
        return most is not None and self.running()[tenant] >= most

    def states(self) -> dict[str, dict[str, Any]]:
        found: dict[str, str] = self.client.hgetall(self.key("tenants"))  # type: ignore[assignment]
        fields = ("id", "served", "usage", "total", "at", "idle", "shared", "exclusive")
        return {
            name[1:]: dict(zip(fields, json.loads(text), strict=True))
            for name, text in found.items()
            if name[0] == "="
        }

    def zset(self, name: str) -> dict[str, float]:
        return dict(self.client.zrange(self.key(name), 0, -1, withscores=True))  # type: ignore[arg-type]

    def zset_exists(self, name: str) -> bool:
        return bool(self.client.exists(self.key(name)))

    def check_index(self) -> None:
        """The lines of tenants are what the records say."""
        order = self.client.hget(self.key("gate"), "order") or ""
        if not str(order).startswith("tenants"):
            # A job that an older version has put in line counts when it starts.
            waiting = [each for each in self.records() if each["state"] == "waiting"]
            named = [each for each in waiting if each.get("tenant")]
            assert not self.zset("tenant_order"), order
            assert all(each["delivery"].startswith("older") for each in named), named
            return
        ids = {name: state["id"] * 4 for name, state in self.states().items()}
        jobs: dict[str, float] = {}
        first: dict[tuple[str, str], Record] = {}
        for isolation in ISOLATIONS:
            for each in self.waiting(isolation):
                tenant, letter = each.get("tenant", ""), "s" if isolation == SHARED else "x"
                place = f"{each.get('priority', 0):02d}{each['arrival']:014d}"
                jobs[f"{letter}{place}:{each['delivery']}"] = ids[tenant] + KIND[isolation]
                first.setdefault((tenant, isolation), each)
        for each in self.records():
            if each["state"] == "delayed":
                jobs[f"d:{each['delivery']}"] = ids[each.get("tenant", "")] + 2
        assert self.zset("tenant_jobs") == jobs
        held = {
            attempt.holder: ids[self.tenant_of(attempt)] + (key == "holders_exclusive")
            for key, name, _ in self.reader.holder_names("t4")
            if (attempt := Attempt.parse("t4", name))
        }
        assert self.zset("tenant_running") == held
        assert len(held) == len(self.holding), "an answer was lost, or a slot"
        fronts = self.zset("tenant_order")
        assert fronts.pop(".") == 9
        found = {(name.partition(":")[2], int(kind)): name for name, kind in fronts.items()}
        assert len(found) == len(fronts)
        assert {(t, KIND[i]) for t, i in first if not self.limited(t)} == set(found)
        running = self.running()
        for (tenant, isolation), record in first.items():
            if self.limited(tenant):
                continue
            front = found[tenant, KIND[isolation]]
            assert front[1] == ("0" if running[tenant] < self.rule(tenant).guaranteed else "1")
            assert front[2:4] == f"{record.get('priority', 0):02d}"
            state, rule = self.states()[tenant], self.rule(tenant)
            if self.half_life and state["usage"]:
                cost = 2000 + math.log2(state["usage"] / rule.weight) + state["at"] / self.half_life
                assert abs(float(front[4:26]) - cost) < 1e-4

    # -- who may be next ---------------------------------------------------------------------------

    def costs(self) -> dict[str, float]:
        """What each tenant has used by now, over its weight."""
        if self.half_life:
            return {name: each.seconds / self.rule(name).weight for name, each in self.used.items()}
        found: dict[str, float] = {}
        for record in self.holding.values():
            tenant = record.get("tenant", "")
            cost = self.part(record["isolation"]) / self.rule(tenant).weight
            found[tenant] = found.get(tenant, 0.0) + cost
        return found


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 if all are equal."""
    return sum(values) ** 2 / (len(values) * sum(each * each for each in values))
