"""``gpuqueue top``: the classes, their GPUs and their jobs, live."""

from __future__ import annotations

import click
from rich.console import Console

from gpuqueue.cli.top.feed import read
from gpuqueue.cli.top.screen import follow
from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import open_state
from gpuqueue.cli.view.top_lines import draw
from gpuqueue.dev.signals import stoppable

#: Columns of a frame that is no terminal's.
WIDTH = 80


@click.command()
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.2, 3600),
    help="Seconds between two frames.",
)
@click.option("--once", is_flag=True, help="Print one frame.")
@click.option("--class", "only", metavar="CLASS", help="Show this class alone.")
@click.option(
    "--most",
    default=100,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="The most waiting jobs to read for each isolation.",
)
@render.json_option
def top(interval: float, once: bool, only: str | None, most: int, as_json: bool) -> int:
    """Show live: classes with their GPUs, who is next and why it waits, the longest running jobs,
    tenants, and what is set aside. Press q to quit.

    A box has the slots of one GPU, or of a class. Without a terminal, one frame is printed.

    Exit status: 1 if one frame was asked for, and the class is unknown.
    """
    out = render.console()
    if not (once or as_json) and out.is_terminal and not out.is_dumb_terminal:
        try:
            with stoppable():
                follow(Console(highlight=False), most, interval, only)
        except KeyboardInterrupt:
            pass  # Ctrl-C is a way to end it
        return 0
    found = read(open_state(), most, only)
    if only is not None and not found["classes"]:
        click.echo(f"gpuqueue: class={only!r} is unknown; see `gpuqueue classes`", err=True)
        return 1
    if as_json:
        render.emit(found)
    else:
        out.print(draw(found, out.width if out.is_terminal else WIDTH))
    return 0
