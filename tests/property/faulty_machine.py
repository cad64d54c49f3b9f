"""One machine whose GPUs, application and host fail jobs as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_DEVICE, EXIT_NO_APPLICATION, End, explain
from gpuqueue.model.place import HOLDS, PlaceKind, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.property.looks import Looks
from tests.support.model_time import Timed

GPUS = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
HOST, APPLICATION = "host:h", "application:shop@h"
#: How an attempt ends, by its record.
Ends = Callable[[Record], str]


@dataclass
class Machine(Timed, Looks):
    """One machine with four GPUs and one application, on a clock that tests set. ``how`` decides
    how an attempt ends: ``gpu``, ``import``, ``start`` (three faults of places), ``crash`` (killed
    before its claim), ``error`` (of the task), ``success``, or the kind of a hold that it meets.
    """

    client: redis.Redis
    how: Ends
    slots: int = 4
    site: Site = field(default_factory=lambda: Site("h", "shop", {"t4": GPUS}))
    devices: int = len(GPUS)

    def __post_init__(self) -> None:
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line = Line(self.client, max_attempts=3, devices={"t4": self.devices}, site=self.site)
        self.line.open("t4")
        self.reader = Reader(self.client)
        self.gpu_class = GpuClass("t4", shared_slots=self.slots, exclusive_slots=self.slots)
        self.started: list[Record] = []
        self.ended: dict[str, str] = {}
        self.succeeded: list[str] = []

    def submit(self, *names: str, isolation: str = "shared", **more: Any) -> None:
        for name in names:
            record: Any = {"delivery": name, "id": name, "gpu_class": "t4", "retries": 0}
            assert self.line.accept("t4", record | {"isolation": isolation} | more, "{}")
            self.started += self.line.enqueue(self.gpu_class, name)

    def play(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass: attempts end one after the other, and the watcher turns."""
        until = self.now + seconds
        while self.now < until and not self.over():
            self.end_all()
            self.now += step
            self.line.tick("t4")
            self.started += self.line.admit(self.gpu_class)

    def end_all(self) -> None:
        """End the attempts that have started, one after the other."""
        granted, self.started = self.started, []
        for record in granted:
            self.end(record)

    def over(self) -> bool:
        lines = ("waiting_shared", "waiting_exclusive", "delayed")
        keys = [class_key("t4", name) for name in lines]
        return not self.started and not self.client.exists(*keys)

    def end(self, record: Record) -> None:
        attempt, how = Attempt.of(record), self.how(record)
        executor = ExecutorAttempt(self.client, attempt, record["token"])
        end = {
            "gpu": explain(EXIT_DEVICE),
            "import": explain(EXIT_NO_APPLICATION),
            "crash": explain(-9),
            "import crash": explain(-11),
            "status": explain(EXIT_NO_APPLICATION),
            "start": End(EndReason.INFRA, "[Errno 28] no space left", blames=PlaceKind.HOST),
        }.get(how, explain(1))
        if how in HOLDS:
            kind = PlaceKind(how)
            end = End(HOLDS[kind].end, f"refused: {how}", blames=kind)
        instance = ""
        if how not in ("start", "crash", *HOLDS):
            instance = "h:n:1"
            executor.claim(instance, "w", 120.0)
            if how == "import":
                executor.not_loaded("ImportError: no module named nmupy")
            elif how != "import crash":
                executor.loaded()
            if how in ("success", "error"):
                executor.report("SUCCEEDED" if how == "success" else "ERROR")
                executor.reported(1e6)
        released = self.line.release(self.gpu_class, attempt, end, instance)
        self.started += released.granted
        if released.state == "ended" and how == "success":
            self.succeeded.append(record["delivery"])
        if released.state in ("ended", "finishing"):
            self.ended[record["delivery"]] = self.record(record["delivery"])["reason"]

    def places(self) -> dict[str, Any]:
        found: dict[str, str] = self.client.hgetall(class_key("t4", "places"))  # type: ignore[assignment]
        return {name: json.loads(text) for name, text in found.items()}

    def set_aside(self) -> set[str]:
        return {name for name, each in self.places().items() if "until" in each}

    def why(self, name: str) -> str:
        found = self.reader.why(self.gpu_class, name)
        assert found is not None
        return found.reason


def names(total: int) -> list[str]:
    return [f"j{number:02}" for number in range(total)]
