"""What this process counts for /metrics as it happens: launches, and requests to the API server.

Lost with the process, as Prometheus expects. What the whole queue counts is kept in Redis instead:
see counts.py.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge for each counter, that nobody reads
LAUNCHES = Counter(
    "gpuqueue_launches",
    "Launches by outcome: launched, later (not accepted now, retried), failed.",
    ("gpu_class", "outcome"),
    registry=None,
)
KUBERNETES_REQUESTS = Counter(
    "gpuqueue_kubernetes_requests",
    "Requests to the API server (create job, watch pods, ...) by HTTP status, or unreachable.",
    ("request", "code"),
    registry=None,
)
KUBERNETES_SECONDS = Histogram(
    "gpuqueue_kubernetes_request_seconds",
    "Seconds until the API server began to respond.",
    ("request",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=None,
)
#: All of them, for a registry.
OWN = (LAUNCHES, KUBERNETES_REQUESTS, KUBERNETES_SECONDS)
