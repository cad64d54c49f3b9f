"""The request class of a task (``Task.Request``): an application may replace it, to be told in the
main process of its worker what becomes of a task.

Its hooks are called, and those of Celery's own class are not: states, events, errbacks and the
hooks of the task are written elsewhere, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Retry
from celery.utils.log import get_logger
from celery.worker.request import Request
from kombu.utils.imports import symbol_by_name

logger = get_logger(__name__)


class _Quiet(Request):
    """What the hooks of an application call with ``super()``."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        self.worker_pid = pid

    def on_timeout(self, soft: bool, timeout: float) -> None:
        pass

    def on_success(self, failed__retval__runtime: tuple[Any, Any, Any], **kwargs: Any) -> None:
        failed, retval, _ = failed__retval__runtime
        if failed:  # as Celery's: a hook of the application may override it
            self.on_failure(retval, return_ok=True)

    def on_retry(self, exc_info: Any) -> None:
        pass

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        if isinstance(exc_info.exception, Retry):
            self.on_retry(exc_info)

    def acknowledge(self) -> None:
        pass

    def reject(self, requeue: bool = False) -> None:
        pass


def class_of(task: Any) -> type[Request]:
    """Return the class of the requests of a task."""
    found: type[Request] = symbol_by_name(getattr(task, "Request", None) or Request)
    return Request if found is Request else type(found.__name__, (found, _Quiet), {})


def as_received(failed: ExceptionInfo) -> ExceptionInfo:
    """Return how a task failed as the main process of a worker gets it from its pool."""
    if isinstance(failed.exception, ExceptionWithTraceback):
        failed.exception = failed.exception.exc
    return failed


def tell(request: Request, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call a hook of the application. Its error changes nothing of the task's end."""
    if not isinstance(request, _Quiet):
        return
    try:
        hook(*args, **kwargs)
    except Exception:
        logger.exception(
            "%s of %s failed", hook.__name__, request.name, extra={"action": "hook_failed"}
        )
