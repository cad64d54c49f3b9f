"""The metrics of a dispatcher, as alerts, the dashboard, scaling and docs may name them."""

from __future__ import annotations

import re

_STATE = ("waiting_jobs", "oldest_wait_seconds", "delayed_jobs", "running_jobs", "slots", "finishing_jobs", "untaken_messages", "state_up")
_COUNTED = ("jobs_accepted_total", "jobs_ended_total", "attempts_repeated_total", "launches_total", "kubernetes_requests_total")
_MEASURED = ("wait_seconds", "slot_held_seconds", "kubernetes_request_seconds")
_OWN = ("watcher_leads", "watcher_blind", "watcher_last_turn_timestamp_seconds", "build_info")
#: Every name; a histogram's as they are asked for. ``up`` is Prometheus' own.
METRICS = frozenset(
    {"up"}
    | {f"gpuqueue_{name}" for name in (*_STATE, *_COUNTED, *_OWN)}
    | {f"gpuqueue_{name}_{part}" for name in _MEASURED for part in ("bucket", "sum", "count")}
)
_NAME = re.compile(r"\b(?:up|gpuqueue_[a-z_]+)(?=[{\[ )]|$)")


def named_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(_NAME.findall(expression))
