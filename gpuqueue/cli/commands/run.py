"""``gpuqueue run IMAGE -- COMMAND``: runs a container image as a job and waits for it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import click
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as TookTooLong
from celery.utils import uuid
from kombu.exceptions import OperationalError

from gpuqueue.cli.commands.cancel import cancel_one, say
from gpuqueue.cli.commands.why import find
from gpuqueue.cli.logs.sources import kept
from gpuqueue.cli.view.state import State, open_state
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER, NO_DISPATCHER_NOW, sentence
from gpuqueue.dev.signals import stoppable, uninterrupted
from gpuqueue.errors import GpuQueueError, InvalidJob
from gpuqueue.model.names import CHOOSING
from gpuqueue.model.states import JobState
from gpuqueue.store import wakeups
from gpuqueue.store.client import RedisError
from gpuqueue.submit import gpu
from gpuqueue.submit import run as container

CANCELLED = 130
FAILED = 1
#: Seconds after which it says that no dispatcher has taken the job.
UNTAKEN = 5.0


@click.command()
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--class",
    "gpu_class",
    default="auto",
    show_default=True,
    help="The GPU class; auto and mig choose one.",
)
@click.option("--isolation", help="shared or exclusive.")
@click.option(
    "--env",
    "-e",
    multiple=True,
    metavar="NAME=TEXT",
    help="An environment variable of the container; may be repeated.",
)
@click.option("--working-dir", help="Working directory of the command.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds until the job is killed.",
)
@click.option("--tenant", help="The tenant of the job.")
@click.option("--detach", is_flag=True, help="Print the id and exit.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds to wait; the job continues afterwards.",
)
def run(
    image: str,
    command: tuple[str, ...],
    gpu_class: str,
    isolation: str | None,
    env: tuple[str, ...],
    working_dir: str | None,
    time_limit: float | None,
    tenant: str | None,
    detach: bool,
    timeout: float | None,
) -> int:
    """Run IMAGE as a job, with COMMAND in place of its ENTRYPOINT; wait for it and print the end of
    its log.

    Put '--' before a COMMAND with words that begin with '-'. Ctrl-C cancels the job.

    Exit status: the exit code of the container; 1 if there is none (the job failed otherwise, or
    --timeout is over); 130 if the job was cancelled; 2 if the queue refused it.
    """
    state = open_state()
    limits: dict[str, Any] = {"time_limit": time_limit} if time_limit else {}
    options = gpu(gpu_class, isolation=isolation, tenant=tenant, **limits)
    if not state.settings.redis.broker:
        raise GpuQueueError("CELERY_BROKER_URL is not set; set it as for dispatchers")
    _check_taker(state, gpu_class)
    job_id = uuid()
    with (
        Celery("gpuqueue-run", set_as_current=False) as app,
        stoppable(),
    ):
        app.conf.update(state.settings.redis.celery())
        signature = container(
            image, list(command), env=_variables(env), working_dir=working_dir, app=app
        )
        try:
            result = signature.apply_async(task_id=job_id, **options)
            if detach:
                click.echo(job_id)
                return 0
            click.echo(f"gpuqueue: job {job_id}", err=True)
            return _print(_wait(state, job_id, result, options["queue"], timeout))
        except KeyboardInterrupt:
            return _cancel(state, job_id)
        except TaskRevokedError:
            click.echo("gpuqueue: cancelled", err=True)
            return CANCELLED
        except TookTooLong:
            click.echo(
                f"gpuqueue: not ended within {timeout:g} s; the job continues; follow it with"
                f" `gpuqueue logs -f {job_id}`",
                err=True,
            )
            return FAILED
        except InvalidJob:
            raise
        except OperationalError as exc:
            raise _out_of_sight(job_id, exc) from exc
        except Exception as exc:  # any error of the job, or of Celery's backend
            return _failed(state, job_id, exc)


def _check_taker(state: State, gpu_class: str) -> None:
    """Refuse a class that no dispatcher has; warn if no dispatcher is alive."""
    classes = state.reader.classes()
    if classes and gpu_class not in (*CHOOSING, *classes):
        raise GpuQueueError(
            f"--class={gpu_class!r} is unknown; dispatchers have: {', '.join(classes)}"
        )
    if not state.dispatchers():
        click.echo(f"gpuqueue: {NO_DISPATCHER_NOW if classes else NO_DISPATCHER_EVER}", err=True)


def _wait(state: State, job_id: str, result: Any, queue: str, timeout: float | None) -> Any:
    """Return the result. Say so on the way if no dispatcher takes the job, which then waits for
    longer than any slot could explain.
    """
    first = UNTAKEN if timeout is None else min(timeout, UNTAKEN)
    try:
        return result.get(timeout=first)
    except TookTooLong:
        if first == timeout:
            raise
    with suppress(RedisError):  # the job goes on
        if find(state, job_id) is None:
            click.echo(
                f"gpuqueue: no dispatcher has taken it from {queue} yet; start one that does"
                f" (`celery -A gpuqueue worker -Q {queue}`), or name another class (--class)",
                err=True,
            )
    return result.get(timeout=None if timeout is None else timeout - first)


def _variables(env: tuple[str, ...]) -> dict[str, str]:
    wrong = next((each for each in env if not re.match(r"[^=]+=", each)), None)
    if wrong is not None:
        raise GpuQueueError(f"--env={wrong!r} is not NAME=TEXT; write e.g. --env STEPS=100")
    return dict(each.split("=", 1) for each in env)


def _print(answer: Any) -> int:
    click.echo(answer["log"], nl=False)
    return int(answer["exit_code"])


def _failed(state: State, job_id: str, exc: Exception) -> int:
    """Print the log and the reason of a failure; return the exit code of the container."""
    try:
        record = find(state, job_id)
        log = kept(state, record, record.get("attempt", 0)) if record else ""
    except RedisError as away:
        raise _out_of_sight(job_id, away) from exc
    if record is None or record["state"] not in (JobState.FINISHING, JobState.ENDED):
        raise _out_of_sight(job_id, exc) from exc
    click.echo(log, nl=False)
    reason, text = record.get("reason", ""), record.get("error") or str(exc)
    if log:  # the error quotes its end
        text = text.partition("; the end of its log:\n")[0]
    click.echo(f"gpuqueue: {reason}: {sentence(reason)}: {text}", err=True)
    return record.get("exit_code") or FAILED


def _out_of_sight(job_id: str, exc: Exception) -> GpuQueueError:
    return GpuQueueError(
        f"the state of job {job_id} is unknown: {exc}; see `gpuqueue why {job_id}`"
    )


def _cancel(state: State, job_id: str) -> int:
    with uninterrupted():
        try:
            classes = state.reader.classes()
            outcome = cancel_one(state, job_id)
            for name in classes:
                wakeups.wake(state.client, name)
        except RedisError as exc:
            raise GpuQueueError(
                f"the cancellation of {job_id} is not confirmed: {exc}; repeat"
                f" `gpuqueue cancel {job_id}`"
            ) from exc
    if classes:
        click.echo(f"gpuqueue: {say(outcome)}", err=True)
    else:  # no class is known to remember it in
        click.echo(f"gpuqueue: {job_id} is not cancelled: {NO_DISPATCHER_EVER}", err=True)
    return CANCELLED
