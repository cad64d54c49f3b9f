"""The events of the worker that a class is to monitors, in the words of Celery's workers."""

from __future__ import annotations

from celery.utils.sysinfo import load_average
from celery.worker.state import SOFTWARE_INFO

from gpuqueue.glue.results.events import Event

#: The first event of a worker, and the others.
ONLINE, HEARTBEAT = "worker-online", "worker-heartbeat"


def sign_of_life(kind: str, gpu_class: str, every: float, active: int, processed: int) -> Event:
    """Return :data:`ONLINE` or :data:`HEARTBEAT`. Monitors wait for twice ``every`` seconds until
    they take the worker for gone. The load is that of the host of this dispatcher.
    """
    fields = {"freq": every, "active": active, "processed": processed, "loadavg": load_average()}
    return Event(gpu_class, kind, fields={**fields, **SOFTWARE_INFO})


def goodbye(gpu_class: str) -> Event:
    """Return the last event of a worker."""
    return Event(gpu_class, "worker-offline", fields=dict(SOFTWARE_INFO))
