"""Route any Celery task to a ``gpu.*`` queue and it runs as a job of its own, with a GPU.

An application needs nothing from here: ``task.apply_async(queue="gpu.t4.shared")`` is enough. :func:`gpu` only makes the
options convenient and checked. Everything else in this package is for operators, or internal.
"""

from gpuqueue.errors import (
    ApplicationNotFound,
    ExecutorDied,
    GpuQueueError,
    InvalidJob,
    LaunchFailed,
    StartTimeout,
    TaskNotFound,
)
from gpuqueue.options import gpu

__version__ = "0.1.0"
__all__ = [
    "ApplicationNotFound",
    "ExecutorDied",
    "GpuQueueError",
    "InvalidJob",
    "LaunchFailed",
    "StartTimeout",
    "TaskNotFound",
    "__version__",
    "gpu",
]
