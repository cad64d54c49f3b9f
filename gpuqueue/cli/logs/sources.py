"""Reads the log of an attempt: from its pod or its file while that exists, later from Redis."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from gpuqueue.cli.logs import processes
from gpuqueue.cli.logs.stamped import written_since
from gpuqueue.cli.view.state import State
from gpuqueue.errors import GpuQueueError
from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record, goes_on
from gpuqueue.model.states import JobState
from gpuqueue.model.warm_pod import GOES_ON
from gpuqueue.store.logs import Logs

if TYPE_CHECKING:
    from gpuqueue.launchers.kubernetes.api.requests import Requests

#: Seconds by which the clock of a node may be behind that of Redis.
CLOCKS = 900.0
#: The most bytes of a pod's log to fetch. The API cuts the rest at the end.
_LARGEST = 1 << 24


def read(state: State, record: Record, attempt: int, tail: int) -> str:
    """Return the log of an attempt, "" if there is none.

    Raises :class:`GpuQueueError` if its pod cannot be read.
    """
    text = kept(state, record, attempt)
    # Only the pod or process of the newest attempt is known.
    if text or attempt != record.get("attempt", 0):
        return text
    if is_process(record):
        return processes.read(record, tail)
    if has_left(record, attempt):
        return ""
    try:
        return _of_pod(state, record, tail) or kept(state, record, attempt)
    except GpuQueueError:
        if "released" in record:  # its pod has ended and left no log
            return ""
        raise


def _of_pod(state: State, record: Record, tail: int) -> str:
    from gpuqueue.launchers.kubernetes.api.errors import ApiError, Invalid, NotFound

    try:
        pod = _pod(record)
        return "" if pod is None else _now(state, record, *pod, tail)
    except (NotFound, Invalid):  # gone, or its container does not run yet
        return ""
    except ApiError as exc:
        raise unreadable(exc) from exc


def _now(state: State, record: Record, api: Requests, pod: str, tail: int) -> str:
    """Return what an attempt has written in its pod by now; "" if the pod has left it."""
    if not outlives_job(record):
        return api.pod_log(pod, tail, _LARGEST)
    if record.get("warm_of"):
        since = record.get("launched", 0.0)
        stamped = api.pod_log(pod, tail, _LARGEST, since - CLOCKS)
        text = written_since(stamped, since, f"{GOES_ON} {holder(record)}")
    else:
        text = api.pod_log(pod, tail, _LARGEST)
    latest = state.reader.record(record["gpu_class"], record["delivery"])
    if latest is None or has_left(latest, record["attempt"]):
        return ""  # the text may be of another job in part
    return text


def outlives_job(record: Record) -> bool:
    """Whether the pod of an attempt may run other jobs before and after it."""
    return (goes_on(record) or bool(record.get("warm_of"))) and not is_process(record)


def has_left(record: Record, attempt: int) -> bool:
    """Whether such a pod has ended the attempt: what it writes now is not of the attempt."""
    if not outlives_job(record) or record.get("attempt") != attempt:
        return outlives_job(record)
    released = record.get("released", 0.0) >= record.get("admitted", 0.0)
    return released or bool(record.get("warm_last"))


def follow(state: State, record: Record, tail: int) -> Iterator[str]:
    """Yield the log of a pod until its container ends, or of a process until it does; nothing if
    there is none yet. Of a pod that outlives its job, only what there is by now.

    Raises :class:`~gpuqueue.launchers.kubernetes.api.errors.ApiError`, or :class:`GpuQueueError`
    if no cluster is configured.
    """
    from gpuqueue.launchers.kubernetes.api.errors import Invalid, NotFound

    if is_process(record):
        yield from processes.follow(record, tail)
        return
    pod = _pod(record)
    if pod is None:
        return
    try:
        if outlives_job(record):
            yield from filter(None, [_now(state, record, *pod, tail)])
        else:
            yield from pod[0].follow_log(pod[1], tail)
    except (NotFound, Invalid):
        return


def _pod(record: Record) -> tuple[Requests, str] | None:
    """Return the API and the name of the attempt's pod; None if there is no pod yet."""
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
    """Return an error that names the rights needed to read a pod's log."""
    return GpuQueueError(
        f"the pod's log cannot be read: {exc}; allow `list pods` and `get pods/log` in its"
        " namespace"
    )


def kept(state: State, record: Record, attempt: int) -> str:
    """Return the log of an attempt that Redis kept, "" if there is none."""
    which = Attempt(record["gpu_class"], record["delivery"], attempt)
    return Logs(state.client).read(which) or ""


def holder(record: Record) -> str:
    """Return the holder name of the newest attempt."""
    return Attempt(record["gpu_class"], record["delivery"], record.get("attempt", 0)).holder


def is_process(record: Record) -> bool:
    """Whether the attempt is a local process, not a pod."""
    return bool(record.get("instance")) and parse_instance(record["instance"]) is None


def is_out_of_reach(record: Record) -> bool:
    """Whether the attempt runs as a process whose output cannot be read on this machine."""
    running = record["state"] != JobState.ENDED
    return running and is_process(record) and processes.is_elsewhere(record)
