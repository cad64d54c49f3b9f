"""Every metric that a dispatcher can tell, without a dispatcher: for the tests of pages, alerts and
dashboards.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Metric

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.metrics.dispatcher import DispatcherCollector
from gpuqueue.dispatcher.metrics.queue import QueueCollector
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.store.counts import parse
from gpuqueue.store.measures import Measured
from gpuqueue.store.tenants import Tenant
from gpuqueue.telemetry import OWN

COUNTED = {
    f"{what}:shared:{detail}": "1"
    for what, detail in (
        ("wait", "1"),
        ("held", "1"),
        ("ended", "ERROR"),
        ("repeated", "INFRA"),
        ("given_up", "ERROR"),
    )
}


class Measuring:
    """Every class has had a job of each kind."""

    def of(self, name: str) -> Measured:
        numbers = {SHARED: 1, EXCLUSIVE: 1}
        return Measured(
            numbers,
            {SHARED: 1.0, EXCLUSIVE: 1.0},
            numbers,
            1,
            1,
            parse({"accepted:shared": "1", "warm:shared": "1", **COUNTED}),
            used={("vision", SHARED, "SUCCEEDED"): 1.0},
            tenants=[Tenant("vision", numbers, 1, numbers, 1.0, 1.0, False)],
            all_tenants=1,
        )

    def slots(self, gpu_class: GpuClass) -> dict[str, int]:
        return {each: gpu_class.slots(each) for each in (SHARED, EXCLUSIVE)}


class Watcher:
    leads, blind, turned = True, False, 1.0
    unserved_jobs = {"a100": 1}
    unowned_slots = {("t4", "north"): 8}
    silent_attempts = {("t4", "node-a"): 1}
    served_elsewhere = {"t4": "north"}


def told(*collectors: Any) -> dict[str, Metric]:
    registry = CollectorRegistry()
    for each in collectors:
        registry.register(each)
    return {family.name: family for family in registry.collect()}


def of_queue() -> dict[str, Metric]:
    measuring: Any = Measuring()
    classes = {"t4": GpuClass("t4")}
    return told(QueueCollector(measuring, classes, lambda: {"gpu.t4": 1}, lambda: 1))


def of_dispatcher() -> dict[str, Metric]:
    for each in OWN:
        if each._labelnames:
            each.labels(*(["x"] * len(each._labelnames)))
    return told(*OWN, DispatcherCollector(Watcher(), "1"))


def sample_names() -> set[str]:
    """The names that queries may use."""
    return {
        sample.name
        for family in [*of_queue().values(), *of_dispatcher().values()]
        for sample in family.samples
    }
