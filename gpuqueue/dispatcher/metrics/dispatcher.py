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

    leads: bool
    blind: bool
    turned: float

    @property
    def unserved_jobs(self) -> Mapping[str, int]:
        """Class that no dispatcher serves → number of its jobs."""
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
            "Whether it leads with an unknown cluster state, so that repair is paused.",
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
