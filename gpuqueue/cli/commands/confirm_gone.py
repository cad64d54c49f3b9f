"""``gpuqueue confirm-gone NODE``: an operator's word that a silent node runs nothing any more."""

from __future__ import annotations

from typing import Any

import click

from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, job, open_state
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.reasons import SILENT
from gpuqueue.store import gone, wakeups

#: Exit status if nothing was confirmed.
REFUSED = 1


@click.command("confirm-gone")
@click.argument("node", metavar="NODE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@render.json_option
def confirm_gone(node: str, yes: bool, as_json: bool) -> int:
    """Confirm that a node is gone, and free the slots of its attempts.

    Its attempts end as NODE_LOST, and their jobs get new attempts. Only confirm it if the machine
    is off, or restarted: a process that still runs there would share its GPU with the next job.

    Exit status: 1 if the node is Ready, holds no slot, or was not confirmed.
    """
    state = open_state()
    attempts = on_node(state, node)
    found: dict[str, Any] = {"node": node, "attempts": [job(each) for _, each in attempts]}
    refusal = _refusal(node, [each for _, each in attempts])
    if refusal:
        if as_json:
            render.emit({**found, "confirmed": False, "error": refusal})
        click.echo(f"gpuqueue: {refusal}", err=True)
        return REFUSED
    if not as_json:
        click.echo(f"{len(attempts)} attempts hold slots on node {node}:")
        for name, each in attempts:
            stands = ": ".join(filter(None, (each.get("wait"), each.get("detail"))))
            click.echo(render.plain(f"  {each['id']}  {name} {each['isolation']}  {stands}"))
        click.echo(
            "They end as NODE_LOST, their slots become free, and their jobs get new attempts."
            " If a process still runs there, it shares its GPU with the next job."
        )
    if not yes and not click.confirm(f"Is node {node} gone for good?", err=as_json):
        click.echo("nothing was changed", err=True)
        return REFUSED
    for name in sorted({name for name, _ in attempts}):
        gone.confirm(state.client, name, node)
        wakeups.wake(state.client, name)
    if as_json:
        render.emit({**found, "confirmed": True})
    else:
        click.echo(f"node {node} is confirmed gone; the leading dispatcher ends its attempts")
    return 0


def on_node(state: State, node: str) -> list[tuple[str, Any]]:
    """Return the records that hold a slot on a node, each with its class."""
    found = []
    for name in state.reader.classes():
        holders = (attempt.delivery for attempt, _ in state.reader.holders(name))
        records = state.reader.records(name, holders)
        found += [(name, each) for each in records if each.get("node") == node]
    return found


def _refusal(node: str, records: list[Any]) -> str:
    """Return why the word of an operator is not taken; empty: it is."""
    if not records:
        return f"no attempt holds a slot on node {node!r}; see `gpuqueue status`"
    stands, unknown = _condition(node)
    if stands == "ready":
        return (
            f"node {node!r} is Ready, so its attempts run; to move them, drain it with `kubectl"
            " drain`"
        )
    alive = [each["id"] for each in records if each.get("wait") not in SILENT]
    if unknown and alive:
        return (
            f"nothing shows that node {node!r} is silent: its attempts at {', '.join(alive[:5])}"
            f" may run, and the node cannot be read ({unknown}); wait until `gpuqueue why` shows"
            " NODE_SILENT (about a minute), or use a kubeconfig that may get nodes"
        )
    return ""


def _condition(node: str) -> tuple[str, str]:
    """Return how a node stands ('ready', 'not ready', 'gone', or ''), and why that is unknown."""
    try:
        from gpuqueue.launchers.kubernetes.api.client import Api
        from gpuqueue.launchers.kubernetes.api.errors import ApiError
        from gpuqueue.settings.kubernetes import load_cluster
    except ImportError as exc:
        return "", f"{exc.name} is not installed"
    try:
        found = Api(load_cluster()).get_node(node)
    except (ApiError, GpuQueueError) as exc:
        return "", str(exc)
    if found is None:
        return "gone", ""
    return ("ready" if found.ready else "not ready"), ""
