"""``gpuqueue run IMAGE -- COMMAND``: a container image as a job, waited for."""

from __future__ import annotations

import re
from typing import Any

import click
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as TookTooLong

from gpuqueue.cli.cancel import cancel_one
from gpuqueue.cli.state import State, open_state
from gpuqueue.cli.why import find
from gpuqueue.errors import GpuQueueError, InvalidJob
from gpuqueue.options import gpu
from gpuqueue.signatures import run as container
from gpuqueue.store import lease

CANCELLED = 130
FAILED = 1


@click.command()
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--class", "gpu_class", default="auto", show_default=True, help="The GPU class; auto and mig choose one.")
@click.option("--isolation", help="shared or exclusive.")
@click.option("--env", "-e", multiple=True, metavar="NAME=TEXT", help="A variable of the container; may be repeated.")
@click.option("--working-dir", help="Where the command starts.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), help="Seconds after which it is killed.")
@click.option("--tenant", help="Whose job it is.")
@click.option("--detach", is_flag=True, help="Print the id and leave.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait; it goes on afterwards.")
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
    """Run IMAGE as a job, with COMMAND in place of its ENTRYPOINT, wait for it, and print the end of its log.

    COMMAND stands behind '--' where a word of it begins with '-'. Ctrl-C cancels the job.

    Exit status: the container's; 1 if it has none (the job failed otherwise, or --timeout is over); 130 if it was cancelled.
    """
    state = open_state()
    limits: dict[str, Any] = {"time_limit": time_limit} if time_limit else {}
    options = gpu(gpu_class, isolation=isolation, tenant=tenant, **limits)
    broker, backend = state.settings.broker_url, state.settings.result_backend
    if not broker:
        raise GpuQueueError("CELERY_BROKER_URL is not set; set it as for dispatchers")
    with Celery("gpuqueue-run", broker=broker, backend=backend or broker, set_as_current=False) as app:
        signature = container(image, list(command), env=_variables(env), working_dir=working_dir, app=app)
        result = signature.apply_async(**options)
        if detach:
            click.echo(result.id)
            return 0
        click.echo(f"gpuqueue: job {result.id}", err=True)
        try:
            return _print(result.get(timeout=timeout))
        except KeyboardInterrupt:
            return _cancel(state, result.id)
        except TaskRevokedError:
            click.echo("gpuqueue: cancelled", err=True)
            return CANCELLED
        except TookTooLong:
            click.echo(f"gpuqueue: not within {timeout:g} s; it goes on: gpuqueue logs -f {result.id}", err=True)
            return FAILED
        except InvalidJob:
            raise
        except Exception as exc:  # whatever a job may fail with
            click.echo(f"gpuqueue: {exc}", err=True)
            record = find(state, result.id)
            return (record or {}).get("exit_code") or FAILED


def _variables(env: tuple[str, ...]) -> dict[str, str]:
    wrong = next((each for each in env if not re.match(r"[^=]+=", each)), None)
    if wrong is not None:
        raise GpuQueueError(f"--env={wrong!r} is not NAME=TEXT; write e.g. --env STEPS=100")
    return dict(each.split("=", 1) for each in env)


def _print(answer: Any) -> int:
    click.echo(answer["log"], nl=False)
    return int(answer["exit_code"])


def _cancel(state: State, job_id: str) -> int:
    outcome = cancel_one(state, job_id)
    for name in state.reader.classes():
        lease.wake(state.client, name)
    click.echo(f"gpuqueue: job {job_id}: {outcome['outcome']}", err=True)
    return CANCELLED
