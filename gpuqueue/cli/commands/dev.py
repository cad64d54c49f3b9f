"""``gpuqueue dev``: Redis, a dispatcher and Flower in one foreground command."""

from __future__ import annotations

import os
import shlex
import time

import click

from gpuqueue.cli.checks import application
from gpuqueue.dev.signals import stoppable
from gpuqueue.dev.stack import ChildEnded, Stack
from gpuqueue.nvidia import devices
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings, load

#: Seconds between two looks at the children.
LOOK = 0.2


@click.command()
@click.option(
    "-A",
    "--app",
    envvar="GPUQUEUE_APP",
    required=True,
    help="Your application: the argument of `celery -A`.",
)
@click.option(
    "--port",
    default=5555,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port of Flower; 0 chooses a free one.",
)
@click.option("--no-flower", is_flag=True, help="Do not start Flower.")
@click.option("--redis-url", help="Use this Redis instead of CELERY_BROKER_URL or an embedded one.")
@click.option(
    "-l", "--loglevel", default="info", show_default=True, help="Log level of the dispatcher."
)
def dev(app: str, port: int, no_flower: bool, redis_url: str | None, loglevel: str) -> int:
    """Run Redis (unless CELERY_BROKER_URL names one), a dispatcher and Flower until Ctrl-C.

    Exit status: 0 after Ctrl-C; 1 if one of these processes ended by itself.
    """
    if redis_url:
        os.environ["CELERY_BROKER_URL"] = redis_url
    settings = load(app=app)
    found = devices.allowed(devices.find(), settings.devices, devices.visible_now())
    # Report settings that a dispatcher would refuse before anything starts.
    devices.deal(configured(settings).values(), found)
    stack = Stack(
        app,
        broker_url=settings.broker_url,
        flower_port=None if no_flower else port,
        log_level=loglevel,
    )
    looking = application.begin(app)
    try:
        with stoppable() as check_stop:
            click.echo("starting ...")
            stack.start()
            _warn(application.finish(looking, app))
            click.echo(summary(stack, settings, found))
            while True:
                check_stop()
                stack.check()
                time.sleep(LOOK)
    except KeyboardInterrupt:
        return 0
    except ChildEnded as exc:
        click.echo(f"gpuqueue: {exc}", err=True)
        return 1
    finally:
        if looking.poll() is None:
            looking.kill()
            looking.wait()
        click.echo("stopping ...")
        embedded = stack.embedded
        stack.stop()
        if not embedded:
            click.echo("stopped; running jobs continue, and the next dispatcher takes them over")
        elif stack.stopped_jobs:
            click.echo(
                f"stopped, with {stack.stopped_jobs} running jobs that used the embedded Redis"
            )
        else:
            click.echo("stopped")


def summary(stack: Stack, settings: Settings, found: list[devices.Device]) -> str:
    """Describe what runs, and how to use it."""
    classes = configured(settings)
    queues = [queue for each in classes.values() for queue in each.queues]
    gpus = [f"{each.index}: {each.name}, {each.memory / 2**30:.0f}GiB" for each in found] or [
        "none; jobs run on the CPU"
    ]
    export = {key: stack.env[key] for key in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")}
    if settings.state_url and "GPUQUEUE_REDIS_URL" in stack.env:
        export["GPUQUEUE_REDIS_URL"] = stack.env["GPUQUEUE_REDIS_URL"]
    lines = [
        "",
        "gpuqueue is ready. In another terminal:",
        "",
        "  export " + " ".join(f"{key}={shlex.quote(value)}" for key, value in export.items()),
        "",
        f"  Redis       {'embedded; its data ends with it' if stack.embedded else 'yours'}",
        f"  Dispatcher  {stack.dispatcher_name}",
        f"  Flower      {stack.flower_url or stack.flower_missing or 'disabled'}",
        f"  GPUs        {'; '.join(gpus)}",
        f"  Queues      {', '.join([*queues, 'gpu.auto'])}",
        "",
        f'  Submit      your_task.apply_async(args, queue="{queues[0]}")',
        f"  CPU tasks   celery -A {shlex.quote(stack.app)} worker -Q celery",
        "  Look        gpuqueue status | top | why ID | cancel ID | doctor",
        "",
        "Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)


def _warn(seen: application.Application) -> None:
    if seen.error:
        click.echo(f"warning: {seen.error}", err=True)
    elif not seen.tasks:
        click.echo(
            "warning: the application has no tasks; import them where it is created, or list their"
            " modules in `include`",
            err=True,
        )
