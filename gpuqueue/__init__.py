"""Route any Celery task to a ``gpu.*`` queue and it runs as a job of its own, with a GPU.

An application needs nothing from here: ``task.apply_async(queue="gpu.t4.shared")`` is enough.
:func:`gpu` only makes the options convenient and checked, and :func:`run` makes a job of a
container image. Everything else in this package is for operators, or internal.
"""

from gpuqueue.errors import (
    ApplicationNotFound,
    ContainerFailed,
    Evicted,
    ExecutorDied,
    GpuQueueError,
    HostOutOfMemory,
    ImageUnusable,
    InvalidJob,
    LaunchFailed,
    NodeLost,
    PodDeleted,
    Preempted,
    QuotaExceeded,
    StartTimeout,
    TaskNotFound,
    Unschedulable,
)
from gpuqueue.submit import gpu, run

__version__ = "0.1.0"
__all__ = [
    "ApplicationNotFound",
    "ContainerFailed",
    "Evicted",
    "ExecutorDied",
    "GpuQueueError",
    "HostOutOfMemory",
    "ImageUnusable",
    "InvalidJob",
    "LaunchFailed",
    "NodeLost",
    "PodDeleted",
    "Preempted",
    "QuotaExceeded",
    "StartTimeout",
    "TaskNotFound",
    "Unschedulable",
    "__version__",
    "gpu",
    "run",
]
