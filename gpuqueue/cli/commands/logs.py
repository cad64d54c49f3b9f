"""``gpuqueue logs ID``: the log of a job, from its pod or its file while that exists, later from
Redis.
"""

from __future__ import annotations

import time

import click

from gpuqueue.cli.commands.why import find
from gpuqueue.cli.logs import sources as pod_logs
from gpuqueue.cli.logs import whole as whole_logs
from gpuqueue.cli.logs.seam import Seam, lines_of
from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, open_state
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, JobState
from gpuqueue.store.client import RedisError
from gpuqueue.store.passing import describe, passes
from gpuqueue.whole_logs.sink import NotInSink

#: Seconds between two polls of a followed job.
LOOK_EVERY = 0.5
#: Seconds after a job's end until its log is stored and its Celery retry is known. A retry on
#: another queue never becomes known.
SETTLED = 10.0
#: Ends of a record whose job goes on in another one.
GOES_ON = (EndReason.RETRIED, EndReason.ESCALATED)
NONE = 1


@click.command()
@click.argument("job_id", metavar="ID")
@click.option(
    "-f", "--follow", is_flag=True, help="Follow the log, across attempts, until the job has ended."
)
@click.option("--attempt", type=click.IntRange(1), help="The attempt; the newest by default.")
@click.option("--whole", is_flag=True, help="All of an ended attempt's log, from the log sink.")
@click.option(
    "--tail",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="The most lines, from the end.",
)
@render.json_option
def logs(
    job_id: str, follow: bool, attempt: int | None, whole: bool, tail: int, as_json: bool
) -> int:
    """Print the log of a job, from its pod or its file on this machine while that exists, later
    from Redis. ID: the Celery task id.

    Exit status: 0; 1 if there is no log.
    """
    if follow and (attempt is not None or as_json or whole):
        raise GpuQueueError(
            "--follow cannot be combined with --attempt, --whole or --json; leave one out"
        )
    state = open_state()
    record = find(state, job_id)
    if record is None:
        return _unknown(job_id)
    if follow:
        return _Following(state, job_id, tail).until_its_end()
    if whole:
        return _whole(state, record, attempt, as_json)
    text = pod_logs.read(state, record, attempt or record.get("attempt", 0), tail)
    if not text:
        return _none(record, attempt)
    text = "".join(lines_of(text)[-tail:])
    if as_json:
        render.emit({"id": record["id"], "attempt": attempt or record.get("attempt"), "log": text})
    else:
        _print(text)
    return 0


def _whole(state: State, record: Record, attempt: int | None, as_json: bool) -> int:
    number, newest = attempt or record.get("attempt", 0), record.get("attempt", 0)
    if not newest or number > newest:
        return _none(record, attempt)
    try:
        name, parts = whole_logs.read(state, record, number)
        if as_json:
            text = b"".join(parts).decode(errors="replace")
            render.emit({"id": record["id"], "attempt": number, "name": name, "log": text})
        else:
            for part in parts:
                click.echo(part, nl=False)
    except (whole_logs.NoWholeLog, NotInSink) as exc:
        click.echo(f"gpuqueue: job {record['id']}: {exc}", err=True)
        return NONE
    return 0


class _Following:
    """One followed log. Its holder's name identifies an attempt: a Celery retry starts again at
    attempt 1.
    """

    def __init__(self, state: State, job_id: str, tail: int) -> None:
        self._state, self._job_id, self._tail = state, job_id, tail
        self._said = ""
        self._shown: Record | None = None
        self._open = False  # whether the last attempt shown may have more to print
        self._seam = Seam(tail)
        self._wrote = False

    def until_its_end(self) -> int:
        """Print the log until the job has ended; waits go to stderr, once for each change."""
        while True:
            try:
                status = self._turn()
            except RedisError as exc:
                if not passes(exc):
                    raise
                self._say(f"Redis {describe(exc).problem}: {exc}; trying again")
                time.sleep(LOOK_EVERY)
            else:
                if status is not None:
                    return status

    def _turn(self) -> int | None:
        """Read the job once and print its pod's output. Return the exit status once no more can
        come.
        """
        record = find(self._state, self._job_id)
        if record is None:
            return 0 if self._wrote else _unknown(self._job_id)
        if pod_logs.is_out_of_reach(record):
            return _none(record, None)
        new = self._shown is None or pod_logs.holder(self._shown) != pod_logs.holder(record)
        if new:
            self._print_missed(record)
        if self._over(record, new):
            if not new:
                self._print_rest(record)
            elif text := pod_logs.read(self._state, record, record.get("attempt", 0), self._tail):
                self._print(text)
            return 0 if self._wrote else _none(record, None)
        waits = _waits(record) if record["state"] in BEFORE_SLOT else self._stream(record, new)
        if waits is not None:
            self._say(waits)
            time.sleep(LOOK_EVERY)
        return None

    def _over(self, record: Record, new: bool) -> bool:
        """Whether the job has ended, and no more of its log can come."""
        if record["state"] != JobState.ENDED:
            return False
        if self._state.now() - record["ended"] > SETTLED:
            return True
        if pod_logs.outlives_job(record) and not pod_logs.kept(
            self._state, record, record.get("attempt", 0)
        ):
            return False  # its pod goes on, and soon keeps what the job has printed
        released = "admitted" not in record or "released" in record
        return record.get("reason") not in GOES_ON and (released or not new)

    def _stream(self, record: Record, new: bool) -> str | None:
        """Print a pod's log until its container ends, or what is there now if the pod outlives the
        job. Return what the job waits for; None if the next look need not wait.
        """
        from gpuqueue.launchers.kubernetes.api.errors import ApiError

        if new:
            self._seam = Seam(self._tail)
        written = False
        try:
            for text in self._seam.join(
                pod_logs.follow(self._state, record, self._tail if new else self._seam.tail)
            ):
                if self._seam.lost and not written:
                    self._say(
                        "the log was interrupted; some lines written meanwhile are missing here"
                    )
                click.echo(text, nl=False)
                written = self._wrote = True
                self._shown, self._open = record, True
        except ApiError as exc:
            if not exc.passing:
                raise pod_logs.unreadable(exc) from exc
            return f"{exc}; trying again"
        return None if written and not pod_logs.outlives_job(record) else _waits(record)

    def _print_missed(self, record: Record) -> None:
        """Print the rest of the attempt shown last, and the stored logs of attempts that came and
        went between two polls.
        """
        if self._shown is None:
            return
        if self._open:
            self._print_rest(self._shown)
        if self._shown["delivery"] != record["delivery"]:
            return
        for attempt in range(self._shown["attempt"] + 1, record.get("attempt", 0)):
            if text := pod_logs.kept(self._state, record, attempt):
                self._print(text)
            self._shown = {**record, "attempt": attempt}

    def _print_rest(self, record: Record) -> None:
        """Print the lines of an ended attempt that follow the ones already shown."""
        try:
            text = pod_logs.read(self._state, record, record.get("attempt", 0), self._seam.tail)
        except GpuQueueError:
            text = ""
        self._open = False
        # The stored log may begin long before the lines already shown.
        text = "".join(lines_of(text)[-self._seam.tail :])
        rest = "".join(self._seam.join([text]))
        # What is kept of a job in a warm pod lacks what its runner printed before it.
        if self._seam.lost and not pod_logs.outlives_job(record):
            self._say(
                f"the log was interrupted before its end; `gpuqueue logs {self._job_id}` shows the"
                " stored part"
            )
        elif rest:
            self._print(rest)

    def _print(self, text: str) -> None:
        _print(text)
        self._wrote = True

    def _say(self, text: str) -> None:
        if text and text != self._said:
            click.echo(f"gpuqueue: {self._job_id}: {text}", err=True)
            self._said = text


def _waits(record: Record) -> str:
    """Return what a job waits for; "" for a running one."""
    if (
        record["state"] in BEFORE_SLOT
        or record["state"] == JobState.LAUNCHING
        or record.get("wait")
    ):
        return " ".join(filter(None, (record["state"], record.get("wait"), record.get("detail"))))
    return ""


def _print(text: str) -> None:
    click.echo(text, nl=not text.endswith("\n"))


def _unknown(job_id: str) -> int:
    click.echo(f"gpuqueue: no job {job_id!r} is known; see `gpuqueue why {job_id}`", err=True)
    return NONE


def _none(record: Record, attempt: int | None) -> int:
    """Explain why there is no log."""
    name, newest = f"job {record['id']}", record.get("attempt", 0)
    if not newest:
        text = f"{name} has no log: no attempt has started yet; see `gpuqueue why {record['id']}`"
    elif attempt is not None and attempt > newest:
        text = f"{name} has no attempt {attempt}; its newest is {newest}"
    elif pod_logs.is_out_of_reach(record):
        host = record["instance"].partition(":")[0]
        text = (
            f"{name} is a process on {host}: run `gpuqueue logs` there, as the user of its"
            " dispatcher, until it has ended"
        )
    elif attempt is not None and attempt < newest:
        text = f"{name}: no log of attempt {attempt} was kept"
    elif record["state"] != JobState.ENDED:
        text = f"{name} has written nothing yet; see `gpuqueue why {record['id']}`"
    else:
        text = f"{name} has no log: it wrote nothing, or its log was not kept"
    click.echo(f"gpuqueue: {text}", err=True)
    return NONE
