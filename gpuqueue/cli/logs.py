"""``gpuqueue logs ID``: the log of a job, from its pod while that is there, from Redis after."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from gpuqueue.cli import render
from gpuqueue.cli.state import State, open_state
from gpuqueue.cli.why import find
from gpuqueue.errors import GpuQueueError
from gpuqueue.job import Record
from gpuqueue.job_names import parse_instance
from gpuqueue.names import holder_name
from gpuqueue.states import BEFORE_SLOT
from gpuqueue.store.logs import Logs

#: Seconds between two looks at a job that is followed.
LOOK_EVERY = 0.5
NONE = 1


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended, from attempt to attempt.")
@click.option("--attempt", type=click.IntRange(1), help="Which attempt; the newest by default.")
@click.option("--tail", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="Lines from the end, at most.")
@render.json_option
def logs(job_id: str, follow: bool, attempt: int | None, tail: int, as_json: bool) -> int:
    """Print the log of a job: of its pod while that is there, and what was kept of it after. ID: the Celery task id.

    Exit status: 0; 1 if there is none to be had.
    """
    if follow and (attempt is not None or as_json):
        raise GpuQueueError("--follow goes neither with --attempt nor with --json; leave it out")
    state = open_state()
    record = find(state, job_id)
    if record is None:
        raise GpuQueueError(f"no job {job_id!r} is known; `gpuqueue why {job_id}` says more")
    if follow:
        return _follow(state, job_id, tail)
    if attempt is not None:
        record = {**record, "attempt": attempt} if attempt != record.get("attempt") else record
    text = _kept(state, record) if attempt is not None else None
    text = text or _of_pod(record, tail) or _kept(state, record)
    if not text:
        click.echo(f"gpuqueue: {_why_none(record)}", err=True)
        return NONE
    text = "".join(text.splitlines(keepends=True)[-tail:])
    if as_json:
        render.emit({"id": record["id"], "attempt": record.get("attempt"), "log": text})
    else:
        click.echo(text, nl=not text.endswith("\n"))
    return 0


def _follow(state: State, job_id: str, tail: int) -> int:
    """Print what is written, until the job has ended; what it waits for goes to stderr, once for each change."""
    said, shown, seen = "", 0, False
    while (record := find(state, job_id)) is not None:
        attempt = record.get("attempt", 0)
        if attempt > shown and record["state"] not in BEFORE_SLOT and _streamed(record, tail):
            shown, seen = attempt, True
        elif record["state"] == "ended":
            text = _kept(state, record) if attempt > shown else None
            if text:
                click.echo(text, nl=not text.endswith("\n"))
            elif not seen:
                click.echo(f"gpuqueue: {_why_none(record)}", err=True)
            return 0 if seen or text else NONE
        else:
            waits = " ".join(filter(None, (record["state"], record.get("wait"), record.get("detail"))))
            if waits != said:
                click.echo(f"gpuqueue: {job_id}: {waits}", err=True)
                said = waits
            time.sleep(LOOK_EVERY)
    return NONE


def _streamed(record: Record, tail: int) -> bool:
    """Print a pod's log as it is written, until its container ends; False while there is none."""
    written = False
    for text in _pieces(record, tail):
        click.echo(text, nl=False)
        written = True
    return written


def _pieces(record: Record, tail: int) -> Iterator[str]:
    from gpuqueue.launchers.kubernetes.errors import ApiError, Invalid, NotFound

    pod = _pod(record)
    if pod is None:
        return
    api, name = pod
    try:
        yield from api.follow_log(name, tail)
    except (NotFound, Invalid):  # it is gone, or its container does not run yet
        return
    except ApiError as exc:
        raise GpuQueueError(f"the pod's log cannot be read: {exc}; it needs `get pods/log`, or wait for the job's end") from exc


def _of_pod(record: Record, tail: int) -> str:
    from gpuqueue.launchers.kubernetes.errors import ApiError, Invalid, NotFound

    if record.get("released"):  # what was kept is as good, and its pod may be gone
        return ""
    pod = _pod(record)
    if pod is None:
        return ""
    api, name = pod
    try:
        return str(api.pod_log(name, tail, 1 << 24))
    except (NotFound, Invalid):
        return ""
    except ApiError as exc:
        raise GpuQueueError(f"the pod's log cannot be read: {exc}; it needs `get pods/log` in its namespace") from exc


def _pod(record: Record):  # type: ignore[no-untyped-def]
    """Return the API and the name of the pod of a record's attempt; None where it has none (yet)."""
    instance = parse_instance(record.get("instance", ""))
    if instance is None:
        return None
    try:
        from gpuqueue.cluster_settings import load_cluster
        from gpuqueue.launchers.kubernetes.api import Api
        from gpuqueue.launchers.kubernetes.errors import ApiError
        from gpuqueue.launchers.kubernetes.pod_table import JOB_NAME
    except ImportError as exc:
        raise GpuQueueError(f"the log of a running job needs {exc.name}; pip install 'gpuqueue[kubernetes]'") from exc
    api = Api(load_cluster(job_namespace=instance.namespace))
    if record.get("pod"):
        return api, record["pod"]
    try:
        pods, _ = api.list_pods(f"{JOB_NAME}={instance.job}")
    except ApiError as exc:
        raise GpuQueueError(f"the job's pod cannot be found: {exc}; it needs `list pods` in its namespace") from exc
    return (api, pods[0].metadata.name) if pods else None


def _kept(state: State, record: Record) -> str | None:
    return Logs(state.client).read(record["gpu_class"], holder_name(record["delivery"], record.get("attempt", 0)))


def _why_none(record: Record) -> str:
    instance = record.get("instance", "")
    if not record.get("attempt"):
        return f"job {record['id']} has no log: no attempt was made yet; `gpuqueue why {record['id']}` says why"
    if instance and parse_instance(instance) is None:
        host = instance.partition(":")[0]
        return f"job {record['id']} was a process on {host}: what it wrote stands in the log of its dispatcher there"
    return f"job {record['id']} has no log: it wrote nothing, or nothing of it was kept"
