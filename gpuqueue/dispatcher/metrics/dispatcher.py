"""One dispatcher in numbers: its version, and how its watcher is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector


class Leadership(Protocol):
    """A watcher, as far as it is told of here. ``turned``: Unix seconds of the last turn that
    succeeded; 0: none yet.
    """

    leads: bool
    blind: bool
    turned: float


class DispatcherCollector(Collector):
    """Answers a scrape with what one dispatcher knows of itself."""

    def __init__(self, watcher: Leadership, version: str) -> None:
        self._watcher = watcher
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Tell."""
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
