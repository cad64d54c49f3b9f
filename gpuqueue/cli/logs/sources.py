"""Where the log of an attempt is: at its pod while that lives, in Redis after. The cluster is asked
only where it has to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from gpuqueue.cli.view.state import State
from gpuqueue.errors import GpuQueueError
from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.logs import Logs

if TYPE_CHECKING:
    from gpuqueue.launchers.kubernetes.api.requests import Requests

#: The most of a pod's log that is fetched, in bytes: the API cuts what is beyond at its end.
_LARGEST = 1 << 24


def read(state: State, record: Record, attempt: int, tail: int) -> str:
    """Return the log of an attempt, "" if there is none.

    Raises :class:`GpuQueueError` where it is at a pod that cannot be asked.
    """
    text = kept(state, record, attempt)
    if (
        text or attempt != record.get("attempt", 0) or is_process(record)
    ):  # the pod of the newest alone is known
        return text
    try:
        return _of_pod(record, tail)
    except GpuQueueError:
        if "released" in record:  # its pod has ended, and whoever may look would find as little
            return ""
        raise


def _of_pod(record: Record, tail: int) -> str:
    from gpuqueue.launchers.kubernetes.api.errors import ApiError, Invalid, NotFound

    try:
        pod = _pod(record)
        return "" if pod is None else pod[0].pod_log(pod[1], tail, _LARGEST)
    except (NotFound, Invalid):  # it is gone, or its container does not run yet
        return ""
    except ApiError as exc:
        raise unreadable(exc) from exc


def follow(record: Record, tail: int) -> Iterator[str]:
    """Yield the log of a pod as it is written, until its container ends; nothing where there is
    none (yet).

    Raises :class:`~gpuqueue.launchers.kubernetes.api.errors.ApiError`, or :class:`GpuQueueError`
    where no cluster is known.
    """
    from gpuqueue.launchers.kubernetes.api.errors import Invalid, NotFound

    pod = _pod(record)
    if pod is None:
        return
    try:
        yield from pod[0].follow_log(pod[1], tail)
    except (NotFound, Invalid):
        return


def _pod(record: Record) -> tuple[Requests, str] | None:
    """Return the API and the name of the pod of a record's attempt; None where it has none (yet)."""
    instance = parse_instance(record.get("instance", ""))
    if instance is None:
        return None
    api = _api(instance.namespace)
    if record.get("pod"):
        return api, record["pod"]
    from gpuqueue.launchers.kubernetes.follow.pod_table import JOB_NAME

    pods, _ = api.list_pods(f"{JOB_NAME}={instance.job}")
    return (api, pods[0].metadata.name) if pods else None


@cache
def _api(namespace: str) -> Requests:
    try:
        from gpuqueue.launchers.kubernetes.api.client import Api
        from gpuqueue.settings.kubernetes import load_cluster
    except ImportError as exc:
        raise GpuQueueError(
            f"the log of a running job needs {exc.name}; pip install 'gpuqueue[kubernetes]'"
        ) from exc
    return Api(load_cluster(job_namespace=namespace))


def unreadable(exc: GpuQueueError) -> GpuQueueError:
    """Say what it takes to read a pod's log."""
    return GpuQueueError(
        f"the pod's log cannot be read: {exc}; it needs `list pods` and `get pods/log` in its"
        " namespace"
    )


def kept(state: State, record: Record, attempt: int) -> str:
    """Return what was kept in Redis of an attempt's log, "" if nothing was."""
    which = Attempt(record["gpu_class"], record["delivery"], attempt)
    return Logs(state.client).read(which) or ""


def holder(record: Record) -> str:
    """Name the newest attempt of a delivery."""
    return Attempt(record["gpu_class"], record["delivery"], record.get("attempt", 0)).holder


def is_process(record: Record) -> bool:
    """Whether its attempt is a process of a local dispatcher, and no pod."""
    return bool(record.get("instance")) and parse_instance(record["instance"]) is None
