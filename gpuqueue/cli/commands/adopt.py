"""``gpuqueue adopt``: take over the slots of attempts that no live dispatcher looks after."""

from __future__ import annotations

import click

from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import open_state
from gpuqueue.store import wakeups
from gpuqueue.store.owners import Owners


@click.command()
@click.argument("owner", required=False)
@click.option("--by", metavar="OWNER", help="Whose they shall be, if dispatchers of several live.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@render.json_option
def adopt(owner: str | None, by: str | None, yes: bool, as_json: bool) -> int:
    """List the owners of slots that no live dispatcher looks after, or take OWNER over.

    Take an owner over if its cluster is gone, or is the one of the live dispatchers under a former
    name. They then look for its Jobs: an attempt that runs goes on, and one whose Job is gone is
    tried again.

    Exit status: 1 if OWNER holds no slot, has live dispatchers, or --by is needed or wrong.
    """
    state = open_state()
    owners = Owners(state.client)
    found = owners.unowned()
    if owner is None:
        _list(found, as_json)
        return 0
    mine = sorted(name for name, each in found if each == owner)
    if not mine:
        return _refuse(
            f"owner={owner!r} holds no slot without a live dispatcher; see `gpuqueue adopt`"
        )
    heirs = {name: _heir(owners.live(name), by) for name in mine}
    if wrong := sorted(name for name, each in heirs.items() if each is None):
        live = sorted({each for name in wrong for each in owners.live(name)})
        return _refuse(f"--by={by!r} must be one of {', '.join(live)}, whose dispatchers live")
    slots = sum(found[name, owner] for name in mine)
    if not yes:
        click.confirm(
            f"{slots} slots of {owner} in {', '.join(mine)}: is its cluster gone, or that of"
            f" {', '.join(sorted({each or '' for each in heirs.values()}))}?",
            abort=True,
            err=as_json,
        )
    taken = {}
    for name, heir in heirs.items():
        taken[name] = owners.take_over(name, owner, heir or "")
        wakeups.wake(state.client, name)
    if as_json:
        render.emit({"owner": owner, "adopted": taken})
    else:
        click.echo(
            ", ".join(f"{total} slots of {name}" for name, total in taken.items()) + " adopted"
        )
    return 0


def _heir(live: set[str], by: str | None) -> str | None:
    if by is not None:
        return by if by in live else None
    return next(iter(live)) if len(live) == 1 else None


def _list(found: dict[tuple[str, str], int], as_json: bool) -> None:
    rows = [(name, owner, slots) for (name, owner), slots in sorted(found.items())]
    if as_json:
        render.emit([{"gpu_class": n, "owner": o, "slots": s} for n, o, s in rows])
    elif not rows:
        click.echo("every slot has a live dispatcher that looks after it")
    else:
        render.console().print(render.table(("CLASS", "OWNER", "SLOTS"), rows))


def _refuse(problem: str) -> int:
    click.echo(f"gpuqueue: {problem}", err=True)
    return 1
