"""The metrics and labels that alerts, the dashboard, scaling and docs may use."""

from __future__ import annotations

import re

from gpuqueue.launchers.kubernetes.manifest import names
from tests.support.every_metric import of_dispatcher, of_queue

#: Labels that Prometheus and a ServiceMonitor add to every series.
OF_TARGETS = frozenset({"namespace", "job", "instance", "pod", "gpuqueue_io_dispatcher"})
#: Every name for expressions → the labels of its series. ``up`` comes from Prometheus.
METRICS: dict[str, frozenset[str]] = {"up": frozenset()}
for _family in [*of_queue().values(), *of_dispatcher().values()]:
    for _sample in _family.samples:
        METRICS[_sample.name] = METRICS.get(_sample.name, frozenset()) | frozenset(_sample.labels)
#: Labels of GPUs in every series of the DCGM exporter.
_OF_GPUS = frozenset({"UUID", "GPU_I_ID", "gpu"})
#: Its metrics that the dashboard uses, which the operator's default counters contain.
DCGM = (
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_XID_ERRORS",
)
#: Labels of pods that the exporter may add, as it writes them.
OF_PODS = {
    re.sub(r"\W", "_", each): each
    for each in (names.OWNER, names.CLASS, names.ISOLATION, names.TENANT)
}
METRICS |= dict.fromkeys(DCGM, _OF_GPUS.union(OF_PODS))
_NAME = re.compile(r"\b(?:up|gpuqueue_(?!io_)[a-z_]+|DCGM_[A-Z_]+)(?=[{\[ )]|$)")


def named_in(expression: str) -> set[str]:
    """Return the metrics in an expression."""
    return set(_NAME.findall(expression))


def misread(expression: str) -> set[str]:
    """Return unknown metrics, and labels that no metric of the expression has."""
    named = named_in(expression)
    known = OF_TARGETS.union(*(METRICS.get(name, frozenset()) for name in named))
    grouped = {
        each.strip()
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        for each in group.split(",")
    }
    matched = set(re.findall(r"[{,\s](\w+)(?:=~|!=|!~|=)\"", expression))
    return (named - set(METRICS)) | (grouped | matched) - known - {""}
