"""Metrics of one dispatcher: its version, and the state of its watcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector


class Leadership(Protocol):
    """The leadership of a watcher. ``turned``: end of the last successful cycle in Unix seconds;
    0: none yet.
    """

    turned: float

    @property
    def leads(self) -> bool:
        """Whether its dispatcher leads."""
        ...

    @property
    def blind(self) -> bool:
        """Whether it leads, or has led, with an unknown cluster state."""
        ...

    @property
    def unserved_jobs(self) -> Mapping[str, int]:
        """Class that no dispatcher serves → number of its jobs."""
        ...

    @property
    def unowned_slots(self) -> Mapping[tuple[str, str], int]:
        """(class, owner) → slots that no live dispatcher looks after."""
        ...

    @property
    def silent_attempts(self) -> Mapping[tuple[str, str], int]:
        """(class, node) → attempts that hold a slot on a node that does not answer."""
        ...

    @property
    def served_elsewhere(self) -> Mapping[str, str]:
        """Class → the other cluster whose dispatchers alone start its jobs."""
        ...


class DispatcherCollector(Collector):
    """Collects the metrics of one dispatcher."""

    def __init__(self, watcher: Leadership, version: str) -> None:
        self._watcher = watcher
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield InfoMetricFamily(
            "gpuqueue_build", "The version of gpuqueue.", value={"version": self._version}
        )
        yield GaugeMetricFamily(
            "gpuqueue_watcher_leads",
            "Whether its watcher leads the dispatchers of the same classes in the same cluster.",
            value=self._watcher.leads,
        )
        yield GaugeMetricFamily(
            "gpuqueue_watcher_blind",
            "Whether the cluster state, or that of a class, is unknown to it: as the leader, so"
            " that repair is paused, or since it has resigned for that reason.",
            value=self._watcher.blind,
        )
        yield GaugeMetricFamily(
            "gpuqueue_watcher_last_turn_timestamp_seconds",
            "Unix time of the watcher's last successful cycle; 0 before the first.",
            value=self._watcher.turned,
        )
        unserved = GaugeMetricFamily(
            "gpuqueue_unserved_jobs",
            "Jobs of a class that no live dispatcher serves. Only leaders report it.",
            labels=("gpu_class",),
        )
        for name, number in self._watcher.unserved_jobs.items():
            unserved.add_metric((name,), number)
        yield unserved
        unowned = GaugeMetricFamily(
            "gpuqueue_unowned_slots",
            "Slots held by attempts of an owner without a live dispatcher. Only leaders report it.",
            labels=("gpu_class", "owner"),
        )
        for labels, slots in self._watcher.unowned_slots.items():
            unowned.add_metric(labels, slots)
        yield unowned
        silent = GaugeMetricFamily(
            "gpuqueue_silent_attempts",
            "Attempts that keep their slots on a node that does not answer, or does not confirm"
            " their end. Only leaders report it.",
            labels=("gpu_class", "node"),
        )
        for place, number in self._watcher.silent_attempts.items():
            silent.add_metric(place, number)
        yield silent
        elsewhere = GaugeMetricFamily(
            "gpuqueue_class_served_elsewhere",
            "Whether a class has the nodes of another cluster (owner) as its domains, so that this"
            " one starts none of its jobs. Only leaders report it.",
            labels=("gpu_class", "owner"),
        )
        for labels in self._watcher.served_elsewhere.items():
            elsewhere.add_metric(labels, 1)
        yield elsewhere
