"""An instance that goes on with other jobs: a process, or a pod that starts one for each."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.keys import class_key
from gpuqueue.store.scripts import Scripts
from tests.property.open_class import NOW, OpenClass

HOST = "gpu-box"
PROCESS = WarmInstance("gpu-box:n:1", HOST, HOST, "shop")
POD = WarmInstance("gpu/a/u", "a-x7k", "cluster-1", "shop", node="n1", stays=60.0)
#: A place that has failed once.
FAILED = {"failures": 1, "jobs": {"z": ["z", 1]}, "last": NOW, "since": NOW}


class Instance(OpenClass):
    """``me`` takes its jobs in a class of ``slots`` and ``devices``; ``asker`` is its last one."""

    asker: ExecutorAttempt

    def __init__(
        self, client: redis.Redis, me: WarmInstance = PROCESS, slots: int = 1, devices: int = 0
    ) -> None:
        site = Site(HOST if me is PROCESS else "", "shop", {"t4": ["GPU-1", "GPU-2"]})
        owner = "" if me is PROCESS else me.site
        super().__init__(client, by="d1", owner=owner, site=site, devices={"t4": devices})
        self.me = me
        self.gpu_class = GpuClass("t4", shared_slots=slots, exclusive_slots=1)
        self.announce()

    def announce(self) -> None:
        self.line.announce([self.gpu_class], 600)

    def submit(self, *names: str, **more: Any) -> list[Record]:
        """Returns what starts elsewhere."""
        started: list[Record] = []
        for name in names:
            record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
            record |= {"task": "t", "reuse": 9, "warm": 60.0} | more
            started += self.line.take_in(self.gpu_class, record, "{}").granted
        return started

    def start(self, name: str = "a", *, ends: bool = True, **more: Any) -> ExecutorAttempt:
        """Run its first job."""
        [granted] = self.submit(name, **more)
        self.asker = ExecutorAttempt(self.client, Attempt.of(granted), granted["token"])
        self.asker.claim(self.me.instance, "w")
        if ends:
            self.end()
        return self.asker

    def end(self) -> None:
        self.asker.report("SUCCEEDED")
        assert self.asker.reported(1000)

    def ask(self, *, ended: End | None = None, reuses: bool | None = None, **me: Any) -> str | None:
        """The delivery that it gets. A process goes on itself, unless ``reuses`` is false."""
        reuses = self.me is PROCESS if reuses is None else reuses
        taken = self.asker.take_next(replace(self.me, **me), ended=ended, reuses=reuses)
        if taken is None:
            return None
        self.asker = taken[0]
        return taken[1]["delivery"]

    def answer(self, asker: ExecutorAttempt | None = None, **context: Any) -> str:
        """The first word of the answer."""
        asker = asker or self.asker
        own = {"delivery": asker.attempt.delivery, "attempt": asker.attempt.number}
        own |= {"token": asker.token, "nonce": "n", "most": 100, **asdict(self.me)}
        answer: list[str] = Scripts(self.client).call("next", "t4", **(own | context))
        return answer[0]

    def called(self, first: str = "a#1", instance: str = "", *, leaves: bool = False) -> Any:
        """What it is told while it waits: a delivery, or whether it may stay."""
        found = self.asker.called(instance or self.me.instance, first, leaves=leaves)
        return found if isinstance(found, bool) else found["delivery"]

    def fail(self, place: str, **more: Any) -> None:
        """Let a place have failed."""
        self.client.hset(class_key("t4", "places"), place, json.dumps(FAILED | more))
