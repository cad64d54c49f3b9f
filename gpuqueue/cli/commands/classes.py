"""``gpuqueue classes``: the GPU classes that dispatchers have announced."""

from __future__ import annotations

import click

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import gpu_class, open_state
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER


@click.command()
@render.json_option
def classes(as_json: bool) -> None:
    """List the GPU classes: resource, slots, memory, patience, warm seconds and queues."""
    found = open_state().reader.classes()
    if as_json:
        render.emit([{**spec, "queues": gpu_class(spec).queues} for spec in found.values()])
        return
    if not found:
        click.echo(NO_DISPATCHER_EVER)
        return
    known = [gpu_class(spec) for spec in found.values()]
    warm = any(each.warm_seconds for each in known)
    columns = ("CLASS", "RESOURCE", "SHARED", "EXCLUSIVE", "MEMORY", "PATIENCE")
    columns = (*columns, *(["WARM"] if warm else ()), "QUEUES")
    rows = []
    for each in known:
        patience = (
            f"{each.exclusive_patience} shared, {each.shared_patience} exclusive"
            if each.has_sharing and each.exclusive_slots
            else ""
        )
        memory = render.memory(each.memory)
        rows.append(
            (
                each.name,
                each.resource or "none",
                each.shared_slots,
                each.exclusive_slots,
                memory,
                patience,
                *([_warm(each)] if warm else ()),
                " ".join(each.queues),
            )
        )
    render.console().print(render.table(columns, rows))


def _warm(each: GpuClass) -> str:
    """Format for how long a pod of a class waits for another job."""
    return render.duration(each.warm_seconds) if each.warm_seconds else ""
