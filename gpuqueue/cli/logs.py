"""``gpuqueue logs ID``: the log of a job, from its pod while that lives, from Redis after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import click

from gpuqueue.cli import render
from gpuqueue.cli.state import State, open_state
from gpuqueue.cli.why import find
from gpuqueue.errors import GpuQueueError
from gpuqueue.job import Record
from gpuqueue.job_names import parse_instance
from gpuqueue.names import holder_name
from gpuqueue.reasons import EndReason, WaitReason
from gpuqueue.states import BEFORE_SLOT, JobState
from gpuqueue.store.logs import Logs

if TYPE_CHECKING:
    from gpuqueue.launchers.kubernetes.requests import Requests

#: Seconds between two looks at a job that is followed.
LOOK_EVERY = 0.5
#: Seconds that a Celery retry may take to be known; one that went to another queue never is.
RETRY_KNOWN = 10.0
#: The most of a pod's log that is fetched, in bytes: the API cuts what is beyond at its end.
_LARGEST = 1 << 24
NONE = 1


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended, from attempt to attempt.")
@click.option("--attempt", type=click.IntRange(1), help="Which attempt; the newest by default.")
@click.option("--tail", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="Lines from the end, at most.")
@render.json_option
def logs(job_id: str, follow: bool, attempt: int | None, tail: int, as_json: bool) -> int:
    """Print the log of a job: of its pod while that lives, and what was kept of it after. ID: the Celery task id.

    Exit status: 0; 1 if there is none to be had.
    """
    if follow and (attempt is not None or as_json):
        raise GpuQueueError("--follow goes neither with --attempt nor with --json; leave it out")
    state = open_state()
    record = find(state, job_id)
    if record is None:
        raise GpuQueueError(f"no job {job_id!r} is known; `gpuqueue why {job_id}` says more")
    if follow:
        return _Following(state, job_id, tail).until_its_end()
    text = _read(state, record, attempt or record.get("attempt", 0), tail)
    if not text:
        return _none(record, attempt)
    text = "".join(text.splitlines(keepends=True)[-tail:])
    if as_json:
        render.emit({"id": record["id"], "attempt": attempt or record.get("attempt"), "log": text})
    else:
        _print(text)
    return 0


class _Following:
    """One log that is followed. An attempt is known by its holder's name: a Celery retry counts its attempts anew."""

    def __init__(self, state: State, job_id: str, tail: int) -> None:
        self._state, self._job_id, self._tail = state, job_id, tail
        self._said = ""
        self._shown: Record | None = None
        self._wrote = False

    def until_its_end(self) -> int:
        """Print what is written until the job has ended; what it waits for goes to stderr, once for each change."""
        while (record := find(self._state, self._job_id)) is not None and not _is_process(record):
            new = not self._has_shown(record)
            if new:
                self._print_missed(record)
            if self._over(record):
                if new and (text := _read(self._state, record, record.get("attempt", 0), self._tail)):
                    _print(text)
                    self._wrote = True
                break
            if record["state"] in BEFORE_SLOT or not self._stream(record, new):
                words = (record["state"], record.get("wait"), record.get("detail"))
                self._say(" ".join(filter(None, words)))
                time.sleep(LOOK_EVERY)
        if self._wrote:
            return 0
        return NONE if record is None else _none(record, None)

    def _over(self, record: Record) -> bool:
        """Whether no more can come: the job has ended, and its pod with it, or nobody can say so."""
        if record["state"] != JobState.ENDED:
            return False
        if record.get("reason") == EndReason.RETRIED:
            return self._state.now() - record["ended"] > RETRY_KNOWN
        return "admitted" not in record or "released" in record or record.get("wait") == WaitReason.UNCONFIRMED

    def _stream(self, record: Record, new: bool) -> bool:
        """Print a pod's log as it is written, until its container ends; False while there is nothing (more)."""
        from gpuqueue.launchers.kubernetes.errors import ApiError

        written = False
        try:
            for text in _pieces(record, self._tail if new else 0):
                if not new and not written:
                    self._say("the log broke off and goes on; what was written meanwhile is not shown")
                click.echo(text, nl=False)
                written = self._wrote = True
                self._shown = record
        except ApiError as exc:
            if not exc.passing:
                raise _unreadable(exc) from exc
            self._say(f"{exc}; trying again")
        return written

    def _print_missed(self, record: Record) -> None:
        """Print what was kept of attempts that came and went between two looks."""
        if self._shown is None or self._shown["delivery"] != record["delivery"]:
            return
        for attempt in range(self._shown["attempt"] + 1, record.get("attempt", 0)):
            if text := _kept(self._state, record, attempt):
                _print(text)
            self._shown = {**record, "attempt": attempt}

    def _has_shown(self, record: Record) -> bool:
        shown = self._shown
        return shown is not None and _holder(shown) == _holder(record)

    def _say(self, text: str) -> None:
        if text != self._said:
            click.echo(f"gpuqueue: {self._job_id}: {text}", err=True)
            self._said = text


def _read(state: State, record: Record, attempt: int, tail: int) -> str:
    """Return the log of an attempt, "" if there is none. The pod of the newest alone is known."""
    newest = attempt == record.get("attempt", 0)
    if not newest or _is_process(record):
        return _kept(state, record, attempt)
    if not record.get("released"):
        return _of_pod(record, tail) or _kept(state, record, attempt)
    kept = _kept(state, record, attempt)
    if kept:
        return kept
    try:
        return _of_pod(record, tail)  # its Job may still be there
    except GpuQueueError:
        return ""


def _of_pod(record: Record, tail: int) -> str:
    from gpuqueue.launchers.kubernetes.errors import ApiError, Invalid, NotFound

    try:
        pod = _pod(record)
        return "" if pod is None else pod[0].pod_log(pod[1], tail, _LARGEST)
    except (NotFound, Invalid):  # it is gone, or its container does not run yet
        return ""
    except ApiError as exc:
        raise _unreadable(exc) from exc


def _pieces(record: Record, tail: int) -> Iterator[str]:
    from gpuqueue.launchers.kubernetes.errors import Invalid, NotFound

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
    from gpuqueue.launchers.kubernetes.pod_table import JOB_NAME

    pods, _ = api.list_pods(f"{JOB_NAME}={instance.job}")
    return (api, pods[0].metadata.name) if pods else None


@cache
def _api(namespace: str) -> Requests:
    try:
        from gpuqueue.cluster_settings import load_cluster
        from gpuqueue.launchers.kubernetes.api import Api
    except ImportError as exc:
        raise GpuQueueError(f"the log of a running job needs {exc.name}; pip install 'gpuqueue[kubernetes]'") from exc
    return Api(load_cluster(job_namespace=namespace))


def _unreadable(exc: GpuQueueError) -> GpuQueueError:
    return GpuQueueError(f"the pod's log cannot be read: {exc}; it needs `list pods` and `get pods/log` in its namespace")


def _kept(state: State, record: Record, attempt: int) -> str:
    return Logs(state.client).read(record["gpu_class"], holder_name(record["delivery"], attempt)) or ""


def _holder(record: Record) -> str:
    return holder_name(record["delivery"], record.get("attempt", 0))


def _is_process(record: Record) -> bool:
    """Whether its attempt is a process of a local dispatcher, and no pod."""
    return bool(record.get("instance")) and parse_instance(record["instance"]) is None


def _print(text: str) -> None:
    click.echo(text, nl=not text.endswith("\n"))


def _none(record: Record, attempt: int | None) -> int:
    """Say why there is no log."""
    name, newest = f"job {record['id']}", record.get("attempt", 0)
    if not newest:
        text = f"{name} has no log: no attempt was made yet; `gpuqueue why {record['id']}` says why"
    elif attempt is not None and attempt > newest:
        text = f"{name} has no attempt {attempt}; its newest is {newest}"
    elif _is_process(record):
        host = record["instance"].partition(":")[0]
        text = f"{name} is a process on {host}: what it writes stands in the log of its dispatcher there"
    elif attempt is not None and attempt < newest:
        text = f"{name}: nothing was kept of attempt {attempt}"
    else:
        text = f"{name} has no log: it wrote nothing, or nothing of it was kept"
    click.echo(f"gpuqueue: {text}", err=True)
    return NONE
