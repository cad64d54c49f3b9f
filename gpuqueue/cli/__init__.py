"""The command line ``gpuqueue``. A command's module is imported only when the command is called.

Never here: changes to the state, except to jobs by `cancel`, to messages by `dead`, to places by
`places --clear`, to rules by `tenants`, to owners by `adopt`, and to nodes by `confirm-gone`.
Commands read through ``store.reader``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from gpuqueue import __version__
from gpuqueue.errors import GpuQueueError
from gpuqueue.imports import uncollected

#: command → (module, function, its line in `--help`). The line stands here so that help imports no
#: command.
COMMANDS = {
    "demo": (
        "gpuqueue.cli.commands.demo",
        "demo",
        "Run a live demo on this machine, with or without a GPU.",
    ),
    "dev": (
        "gpuqueue.cli.commands.dev",
        "dev",
        "Run Redis, a dispatcher and Flower for development.",
    ),
    "status": (
        "gpuqueue.cli.commands.status",
        "status",
        "Show classes, running jobs and waiting jobs.",
    ),
    "top": ("gpuqueue.cli.commands.top", "top", "Watch classes, GPUs, tenants and jobs live."),
    "why": ("gpuqueue.cli.commands.why", "why", "Explain why a job waits, or how it ended."),
    "logs": (
        "gpuqueue.cli.commands.logs",
        "logs",
        "Print the log of a job, even after its pod is gone.",
    ),
    "run": ("gpuqueue.cli.commands.run", "run", "Run a container image as a job, and wait for it."),
    "cancel": ("gpuqueue.cli.commands.cancel", "cancel", "Cancel jobs, waiting or running."),
    "classes": ("gpuqueue.cli.commands.classes", "classes", "List the GPU classes."),
    "usage": (
        "gpuqueue.cli.commands.usage",
        "usage",
        "Show who used what, and what it cost.",
    ),
    "tenants": (
        "gpuqueue.cli.commands.tenants",
        "tenants",
        "List tenants, and set what they may have.",
    ),
    "places": (
        "gpuqueue.cli.commands.places",
        "places",
        "List GPUs, hosts and applications that fail jobs.",
    ),
    "adopt": (
        "gpuqueue.cli.commands.adopt",
        "adopt",
        "Take over slots that no live dispatcher looks after.",
    ),
    "confirm-gone": (
        "gpuqueue.cli.commands.confirm_gone",
        "confirm_gone",
        "Free the slots of a node that is gone for good.",
    ),
    "dead": (
        "gpuqueue.cli.commands.dead",
        "dead",
        "List, show and send again the messages that could not be accepted.",
    ),
    "doctor": (
        "gpuqueue.cli.commands.doctor",
        "doctor",
        "Check settings, Redis, Celery and GPUs, and say what to fix.",
    ),
}


class Commands(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        try:
            with uncollected():
                command: click.Command = getattr(import_module(module), function)
        except ModuleNotFoundError as exc:
            if exc.name and exc.name.partition(".")[0] == "gpuqueue":
                raise
            raise GpuQueueError(
                f"`{cmd_name}` needs {exc.name}, which is not installed; pip install"
                " 'gpuqueue[all]'"
            ) from exc
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuqueue")
def cli() -> None:
    """Inspect and control GPU jobs. Settings come from the environment, as for dispatchers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit status. What is wrong is told in one line, with status
    2.
    """
    try:
        status = cli.main(args=arguments, prog_name="gpuqueue", standalone_mode=False)
    except GpuQueueError as exc:
        click.echo(f"gpuqueue: {exc}", err=True)
        return 2
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as `| head` does
        return 141
    except Exception as exc:
        redis = sys.modules.get("redis")  # help imports none
        if redis is None or not isinstance(exc, redis.RedisError):
            raise
        from gpuqueue.store.passing import describe, forbidden

        state = describe(exc)
        rights = "grant its user the rights of gpuqueue-dispatcher (deploy/redis/users.acl)"
        click.echo(
            f"gpuqueue: Redis {state.problem}: {exc}; {rights if forbidden(exc) else state.fix}",
            err=True,
        )
        return 2
    return status if isinstance(status, int) else 0
