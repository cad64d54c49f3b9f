"""Counters of this process for /metrics: launches, failed steps, and requests to the API server.

They are lost with the process, as Prometheus expects. The counters of the whole queue are in Redis:
see ``store/counts.py``.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # would add an unused gauge per counter
LAUNCHES = Counter(
    "gpuqueue_launches",
    "Launches by this dispatcher, by outcome: launched, later (retried), held (the class waits),"
    " failed.",
    ("gpu_class", "outcome"),
    registry=None,
)
STEP_FAILURES = Counter(
    "gpuqueue_step_failures",
    "Failed steps of the loops of this dispatcher, by step. The other steps and jobs went on.",
    ("step",),
    registry=None,
)
KUBERNETES_REQUESTS = Counter(
    "gpuqueue_kubernetes_requests",
    "Requests of this dispatcher to the API server, by HTTP status, or unreachable.",
    ("request", "code"),
    registry=None,
)
KUBERNETES_SECONDS = Histogram(
    "gpuqueue_kubernetes_request_seconds",
    "Seconds until the response of the API server began.",
    ("request",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=None,
)
STATES_LOST = Counter(
    "gpuqueue_states_lost",
    "States QUEUED, DISPATCHED and STARTED that this dispatcher did not store: the result backend"
    " was away for too long, or refused them. Results are never among them.",
    registry=None,
)
EVENTS_LOST = Counter(
    "gpuqueue_events_lost",
    "Celery events that this dispatcher did not send: the broker was away for too long.",
    registry=None,
)
WHOLE_LOGS = Counter(
    "gpuqueue_whole_logs",
    "Whole logs of attempts for the sink, by outcome: written, later (a try failed and is"
    " repeated), missing (the log had gone before it could be written).",
    ("outcome",),
    registry=None,
)
#: All metrics, for a registry.
OWN = (
    LAUNCHES,
    STEP_FAILURES,
    KUBERNETES_REQUESTS,
    KUBERNETES_SECONDS,
    STATES_LOST,
    EVENTS_LOST,
    WHOLE_LOGS,
)
