"""Route any Celery task to a ``gpu.*`` queue, and it runs as its own GPU job: a local process or a
Kubernetes Job.

Applications need no import from here: ``task.apply_async(queue="gpu.t4.shared")`` suffices.
:func:`gpu` makes checked options for it, :func:`run` makes a job of a container image, and
:func:`why` tells why a job waits. The other modules are for operators, or internal.
"""

from typing import TYPE_CHECKING, Any

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
    UnknownJob,
    Unschedulable,
)
from gpuqueue.submit import gpu, run

if TYPE_CHECKING:
    from gpuqueue.explain import why

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
    "UnknownJob",
    "Unschedulable",
    "__version__",
    "gpu",
    "run",
    "why",
]


def __getattr__(name: str) -> Any:
    """Import ``why`` when it is used: applications that submit jobs need nothing of it."""
    if name == "why":
        from gpuqueue.explain import why

        return why
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
