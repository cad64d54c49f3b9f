"""How long a class is without a leader that sees the cluster.

Measured: two dispatchers with the settings of a new installation, each with its own way to the
double of the API server. A job runs. The way of the dispatcher that leads drops every packet, in
both directions and without a word (its connections stay open, new ones are never answered), and at
the same moment the job ends. Until the other dispatcher leads; and until the slot of that job is
free. In turns with connections that are refused, as by a server that is down. Then the way is whole
again, and the next turn cuts off the dispatcher that leads by now. Peer: none; a leader that only
renews its lease stays for as long as the cut. Aim: at most 15 s until the other one leads.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness import Figure, Sample, Size, until
from benchmarks.kube import IMAGE, Double
from benchmarks.stage import ROOT, Stage
from tests.chaos.proxy import Proxy
from tests.support.endpoints import Endpoint, free_port

AIM = 15.0
QUEUE, KEY = "gpu.t4.shared", "bench:hold"
#: Seconds that a step may take: a turn that takes longer fails.
MOST = 120.0


class _Seat:
    """A dispatcher with its own way to the API server."""

    def __init__(self, stage: Stage, double: Double, name: str) -> None:
        self.name = name
        self._stage = stage
        config = json.loads(Path(double.kubeconfig).read_text())
        cluster = config["clusters"][0]["cluster"]
        self.way = Proxy(urlsplit(cluster["server"]).port or 0)
        cluster["server"] = f"http://127.0.0.1:{self.way.port}"
        file = stage.directory / f"{name}.kubeconfig"
        file.write_text(json.dumps(config))
        self._endpoint = Endpoint(free_port())
        stage.dispatcher(
            QUEUE,
            name=name,
            GPU_EXECUTION_MODE="k8s_job",
            GPU_EXECUTOR_IMAGE=IMAGE,
            GPU_OWNER="bench",
            GPUQUEUE_METRICS_PORT=str(self._endpoint.port),
            KUBECONFIG=str(file),
            T4_SHARED_SLOTS="8",
        )

    def leads(self) -> bool:
        return self._stage.reader.leaders() == [f"{self.name}@bench"]

    def is_ready(self) -> bool:
        return self._endpoint.ready()

    def cut(self, *, silently: bool) -> None:
        if silently:
            self.way.freeze(True)
        else:
            self.way.refuses = True
            self.way.cut()

    def mend(self) -> None:
        self.way.refuses = False
        self.way.cut()  # a real server has forgotten these connections by then
        self.way.freeze(False)


def run(size: Size) -> list[Figure]:
    """Measure it."""
    turns = size.of(5, 1)
    led: dict[bool, list[float]] = {True: [], False: []}
    freed: dict[bool, list[float]] = {True: [], False: []}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuqueue-bench-"))
        ways = stack.enter_context(ExitStack())  # they end last
        stage = stack.enter_context(Stage())
        env = {"PYTHONPATH": str(ROOT), "GPUQUEUE_APP": "benchmarks.app"}
        double = Double(Path(folder), pace=0.05, broker=stage.url(), image_env=env)
        stack.callback(double.close)
        seats = [_Seat(stage, double, name) for name in ("one", "two")]
        for seat in seats:
            ways.callback(seat.way.close)
        for _ in range(turns):
            for silently in (True, False):
                took = _turn(stage, seats, silently=silently)
                led[silently].append(took[0])
                freed[silently].append(took[1])
    return [
        _figure("until another dispatcher leads", led, AIM),
        _figure("until the slot of a job that has ended meanwhile is free", freed),
    ]


def _turn(stage: Stage, seats: list[_Seat], *, silently: bool) -> tuple[float, float]:
    """Cut the leader off. Return the seconds until another leads, and until the slot is free."""
    until(lambda: all(seat.is_ready() for seat in seats), "both are ready", MOST, 0.05)
    until(lambda: any(seat.leads() for seat in seats), "one leads", MOST, 0.05)
    one = next(seat for seat in seats if seat.leads())
    [two] = [seat for seat in seats if seat is not one]
    result = stage.app.send_task("bench.hold_until", (KEY,), queue=QUEUE)
    until(lambda: result.state == "STARTED", "the job runs", MOST, 0.05)
    one.cut(silently=silently)
    began = time.monotonic()
    stage.client.rpush(KEY, "end")
    until(two.leads, "the other leads", MOST, 0.02)
    led = time.monotonic() - began
    until(lambda: not stage.reader.holders("t4"), "the slot is free", MOST, 0.02)
    freed = time.monotonic() - began
    result.get(timeout=MOST)
    one.mend()
    return led, freed


def _figure(name: str, found: dict[bool, list[float]], aim: float = 0.0) -> Figure:
    dropped = Sample("packets dropped", tuple(found[True]))
    refused = Sample("connections refused", tuple(found[False]))
    worst = max(*dropped.values, *refused.values)
    said = (f"≤ {aim:g} s, always", worst <= aim) if aim else ("", None)
    return Figure(f"leader cut off: {name}", "s", dropped, (refused,), None, *said)
