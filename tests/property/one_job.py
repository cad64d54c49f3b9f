"""One job, in a class of its kind, brought into a state by the verbs themselves."""

from __future__ import annotations

from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from gpuqueue.store.scripts import Scripts
from tests.support.model_time import Timed

T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1, exclusive_patience=2)
#: What every verb of an attempt reads; each takes what it knows.
FIELDS: dict[str, Any] = {
    "instance": "h:n:1",
    "worker": "w",
    "claim_within": 60,
    "older_than": -1,
    "reason": "INFRA",
    "error": "gone",
    "tried": "always",
    "seconds": 30,
    "outcome": "SUCCEEDED",
    "within": 60,
    "keep": 1000,
    "lease": 60,
    "wait": "PULLING_IMAGE",
}


class World(Timed):
    """One job, brought into a state by the verbs themselves."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line = Line(self.client, max_attempts=2, keep=1000)
        self.line.open("t4")
        self.reader = Reader(self.client)
        self.token = "0" * 40

    def call(self, verb: str, **more: Any) -> Any:
        context = FIELDS | {"delivery": "a", "attempt": 1, "token": self.token, "finisher": "f"}
        return Scripts(self.client).call(verb, "t4", **(context | more))

    def bring(self, state: str) -> None:
        if state == "unknown":
            return
        record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
        [granted] = self.line.take_in(T4, record, "{}").granted
        self.token = granted["token"]
        if state in ("running", "reporting", "ended", "finishing"):
            self.call("claim")
        if state in ("reporting", "ended"):
            self.call("report")
        if state == "ended":
            self.call("reported")
        if state == "finishing":
            self.release(EndReason.ERROR)
            self.call("finish_claim")
        if state == "delayed":
            self.release(EndReason.INFRA)
        assert self.state() == state

    def release(self, reason: EndReason, instance: str = "h:n:1") -> Any:
        return self.line.release(T4, Attempt("t4", "a", 1), End(reason, "gone"), instance)

    def record(self) -> Record | None:
        return self.reader.record("t4", "a")

    def state(self) -> str:
        record = self.record()
        return record["state"] if record else "unknown"
