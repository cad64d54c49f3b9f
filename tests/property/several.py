"""A class with jobs of several GPUs, and what must hold of it after each step."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record, devices_of
from gpuqueue.store.keys import class_key
from gpuqueue.store.measures import Measures
from tests.property.open_class import OpenClass

GONE = End(EndReason.ERROR, "gone")


class Several(OpenClass):
    """``running``: name → record, as it was granted. ``waiting``: names in order of arrival.

    Args:
        client: of a Redis for this class alone.
        gpu_class: the class.
        devices: GPUs of the machine; 0: the launcher deals none.
        nodes: of a class whose domains are nodes: name → exclusive slots.
    """

    def __init__(
        self,
        client: redis.Redis,
        gpu_class: GpuClass,
        devices: int = 0,
        nodes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(client, devices={"t4": devices}, max_attempts=1)
        self.gpu_class, self.devices = gpu_class, devices
        pool = client.connection_pool.connection_kwargs
        self.raw = redis.Redis(host=pool["host"], port=pool["port"])  # decodes nothing
        self.nodes: dict[str, int] = {}
        self.running: dict[str, Record] = {}
        self.waiting: list[str] = []
        self.asked: dict[str, Record] = {}
        #: Job of several GPUs → the jobs that came later, and started while it was first in line;
        #: each with its domain.
        self.overtaken: dict[str, list[tuple[str, str]]] = defaultdict(list)
        if nodes is not None:
            self.set_nodes(nodes)

    def key(self, name: str) -> str:
        return class_key("t4", name)

    def set_nodes(self, nodes: Mapping[str, int]) -> None:
        self.nodes = dict(nodes)
        slots = {
            name: {SHARED: self.gpu_class.shared_slots, EXCLUSIVE: size}
            for name, size in nodes.items()
        }
        self.line.set_nodes(self.gpu_class, slots)

    def took(self, granted: list[Record]) -> list[str]:
        for record in granted:
            name = record["delivery"]
            first = next((each for each in self.waiting if self.is_exclusive(each)), name)
            later = self.waiting.index(name) > self.waiting.index(first)
            if later:
                self.overtaken[first].append((name, record.get("domain", "")))
            self.waiting.remove(name)
            self.running[name] = record
        return [each["delivery"] for each in granted]

    def is_exclusive(self, name: str) -> bool:
        return self.asked[name]["isolation"] == EXCLUSIVE

    def send(self, name: str, gpus: int = 0, **fields: Any) -> list[str]:
        """Accept a job, exclusive with ``gpus``; return the jobs that start."""
        record: Any = {"delivery": name, "id": name, "gpu_class": "t4"}
        record |= {"isolation": EXCLUSIVE if gpus else SHARED} | fields
        record |= {"gpus": gpus} if gpus > 1 else {}
        self.asked[name] = record
        self.waiting.append(name)
        return self.took(self.line.take_in(self.gpu_class, record.copy(), "{}").granted)

    def end(self, name: str, end: End = GONE) -> list[str]:
        """End the attempt of a job; return the jobs that start."""
        released = self.line.release(self.gpu_class, Attempt.of(self.running.pop(name)), end)
        assert released.freed
        return self.took(released.granted)

    def admit(self) -> list[str]:
        return self.took(self.line.admit(self.gpu_class))

    def why(self, name: str) -> str:
        found = self.reader.why(self.gpu_class, name)
        assert found is not None
        return found.reason

    def gate(self, field: str) -> str | None:
        return self.client.hget(self.key("gate"), field)  # type: ignore[return-value]

    def zset(self, name: str) -> dict[str, float]:
        return dict(self.client.zrange(self.key(name), 0, -1, withscores=True))  # type: ignore[arg-type]

    def record_of(self, name: str | None) -> Record:
        return self.record(name) if name else {}

    def slots_of(self, name: str) -> int:
        return self.running[name].get("gpus", 1)

    def taken(self, domain: str | None = None) -> dict[str, int]:
        """Isolation → slots in use, in a domain or in all."""
        found = dict.fromkeys(ISOLATIONS, 0)
        for name, record in self.running.items():
            if domain in (None, record.get("domain")):
                found[record["isolation"]] += self.slots_of(name)
        return found

    def check(self) -> None:
        """Slots and devices in use are those of the jobs that run, and no more than there are."""
        members = {
            f"{Attempt.of(record).holder}/{at}"
            for name, record in self.running.items()
            for at in range(2, self.slots_of(name) + 1)
        }
        assert set(self.zset("holders_further")) - {"."} == members
        sizes: list[tuple[str | None, int]] = [*self.nodes.items()]
        for domain, size in sizes or [(None, self.gpu_class.exclusive_slots)]:
            taken = self.taken(domain)
            assert not (taken[SHARED] and taken[EXCLUSIVE]), (domain, taken)
            assert taken[SHARED] <= self.gpu_class.shared_slots, (domain, taken)
            assert taken[EXCLUSIVE] <= size, (domain, taken)
        taken = self.taken()
        assert self.reader.view("t4", {}).held_total == taken
        measured = Measures(self.client).of("t4")
        assert {each: measured.slots_in_use(each) for each in ISOLATIONS} == taken
        first = next((name for name in self.waiting if self.is_exclusive(name)), None)
        if self.record_of(first).get("state") == "waiting":
            assert measured.needed[EXCLUSIVE] == self.asked[str(first)].get("gpus", 1)
        self._check_devices()
        if self.gpu_class.domain == NODE:
            self._check_index()

    def _check_devices(self) -> None:
        if not self.devices:
            return
        given = [index for each in self.running.values() for index in devices_of(each)]
        held: Any = self.client.hvals(self.key("devices"))
        assert sorted(map(int, held)) == sorted(given)
        for name, record in self.running.items():
            own = devices_of(record)
            assert len(own) == len(set(own)) == self.slots_of(name)
            if record["isolation"] == EXCLUSIVE:
                assert all(given.count(index) == 1 for index in own)

    def _check_index(self) -> None:
        free, shared = {}, {}
        for domain, size in self.nodes.items():
            taken = self.taken(domain)
            if not taken[SHARED] and taken[EXCLUSIVE] < size:
                free[domain] = float(size - taken[EXCLUSIVE])
            if not taken[EXCLUSIVE] and taken[SHARED] < self.gpu_class.shared_slots:
                shared[domain] = float(self.gpu_class.shared_slots - taken[SHARED])
        key = self.key("domains")
        of: Any = self.client.hgetall(f"{key}:of")
        assert len(of) == sum(self.taken().values())
        assert {name.partition("#")[0] for name in of} == set(self.running)
        for name, wanted in ((EXCLUSIVE, free), (SHARED, shared)):
            found: Any = self.client.zrange(f"{key}:{name}", 0, -1, withscores=True)
            assert dict(found) == wanted, name

    # -- to explore schedules ----------------------------------------------------------------------

    def save(self) -> Saved:
        """Return all that there is at this point of a schedule."""
        names: list[bytes] = self.raw.keys()  # type: ignore[assignment]
        pipe = self.raw.pipeline(transaction=False)
        for name in names:
            pipe.dump(name)
        here = self.running, self.waiting, self.asked, self.overtaken, self.nodes
        return Saved(dict(zip(names, pipe.execute(), strict=True)), copy.deepcopy(here))

    def restore(self, found: Saved) -> None:
        """Go back to a point."""
        pipe = self.raw.pipeline(transaction=False)
        pipe.flushdb()
        for name, value in found.dumped.items():
            pipe.restore(name, 0, value)
        pipe.execute()
        here = copy.deepcopy(found.here)
        self.running, self.waiting, self.asked, self.overtaken, self.nodes = here

    def point(self) -> Any:
        """What tells two points of schedules apart, as far as decisions go."""
        fields = ("*:bypassed", "*:row", "drained", "reserved")
        gate: Any = self.client.hmget(self.key("gate"), fields)
        running = sorted((name, each.get("domain")) for name, each in self.running.items())
        # Whom it judges by what has started.
        overtaken = {
            name: sum(not self.is_exclusive(job) for job, _ in each)
            for name, each in self.overtaken.items()
        }
        return repr((running, self.waiting, gate, sorted(overtaken.items())))


class Saved(NamedTuple):
    """A point of a schedule."""

    dumped: Mapping[bytes, bytes]
    here: Any
