"""The page of metrics, from the collectors of a dispatcher with one job of each kind."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric

from docs.generate.markdown import code, codes, page, table
from tests.support.every_metric import of_dispatcher, of_queue

#: Type of a family → what its name ends with in a query.
_SUFFIX = {"counter": "_total", "info": "_info"}


def make() -> str:
    """Make the page."""
    return page(
        "Metrics",
        "Every dispatcher serves these metrics at `/metrics`, on the port of"
        " `GPUQUEUE_METRICS_PORT`.",
        "## The queue\n\n"
        "A scrape reads these from Redis, so every dispatcher of a class reports the same value.\n"
        "**Aggregate them with `max by (gpu_class, isolation)`, never with `sum`.**\n"
        "Redis keeps the counters: they outlive dispatchers and start again only after Redis has"
        " lost its data.\nJobs that no class can run count as ended in the class `refused`.\n\n"
        + _table(of_queue()),
        "## One dispatcher\n\n"
        "These describe the process that serves them, since its start.\n"
        "The `process_…` metrics of the Prometheus client stand beside them.\n\n"
        + _table(of_dispatcher()),
    )


def described(families: Mapping[str, Metric]) -> dict[str, tuple[str, list[str], str]]:
    """Return the name that queries use → type, labels and description."""
    found = {}
    for name, family in families.items():
        labels = dict.fromkeys(label for each in family.samples for label in each.labels)
        labels.pop("le", None)
        kind = "gauge" if family.type == "info" else family.type
        found[name + _SUFFIX.get(family.type, "")] = (kind, list(labels), family.documentation)
    return found


def _table(families: Mapping[str, Metric]) -> str:
    return table(
        ("metric", "type", "labels", "meaning"),
        [
            (code(name), kind, codes(labels), text)
            for name, (kind, labels, text) in described(families).items()
        ],
    )
