"""``gpuqueue places``: GPUs, hosts, applications and nodes that fail jobs, and how to clear one."""

from __future__ import annotations

from typing import Any

import click

from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, open_state, place_view
from gpuqueue.store import places as stored
from gpuqueue.store import wakeups


@click.command()
@click.option("--clear", metavar="PLACE", help="Use this place again at once.")
@render.json_option
def places(clear: str | None, as_json: bool) -> int:
    """List the GPUs, hosts, applications and nodes that failed jobs, and those that are set aside.

    Exit status: 1 if the place to clear is unknown.
    """
    state = open_state()
    found = collect(state)
    cleared = [each["gpu_class"] for each in found if each["place"] == clear]
    for name in cleared:
        stored.clear(state.client, name, clear or "")
        wakeups.wake(state.client, name)
    if clear is not None:
        if as_json:
            render.emit({"place": clear, "cleared": cleared})
        elif cleared:
            click.echo(f"{clear} cleared in {', '.join(cleared)}")
        else:
            click.echo(f"gpuqueue: place={clear!r} is unknown; see `gpuqueue places`", err=True)
        return 0 if cleared else 1
    if as_json:
        render.emit(found)
    elif not found:
        click.echo("no place has failed")
    else:
        show(found, state.now())
    return 0


def collect(state: State) -> list[dict[str, Any]]:
    """Return the places of all classes; times are Unix seconds."""
    return [
        {"gpu_class": name, **place_view(each)}
        for name in state.reader.classes()
        for each in stored.of(state.client, name)
    ]


def show(found: list[dict[str, Any]], now: float) -> None:
    """Print the places for people."""
    rows = [
        (
            each["gpu_class"],
            each["place"],
            render.next_try(each, now) if each["set_aside"] else "in use",
            each["failures"],
            render.ago(each["since"], now),
            each["error"].partition("\n")[0],
        )
        for each in found
    ]
    columns = ("CLASS", "PLACE", "STATE", "FAILURES", "SINCE", "LAST ERROR")
    render.console().print(render.table(columns, rows))
