"""Route any Celery task to a ``gpu.*`` queue, and it runs as its own GPU job: a local process or a
Kubernetes Job.

Applications need no import from here: ``task.apply_async(queue="gpu.t4.shared")`` suffices.
:func:`gpu` makes checked options for it, and :func:`run` makes a job of a container image. The
other modules are for operators, or internal.
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
