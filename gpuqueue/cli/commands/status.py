"""``gpuqueue status``: the classes, their running jobs, and their waiting jobs with reasons."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, gate, gpu_class, job, open_state, place_view, since
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER, NO_DISPATCHER_NOW, NOT_SERVED
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.record import Record
from gpuqueue.store import places as stored


@click.command()
@click.option(
    "--most",
    default=20,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="The most waiting jobs to list for each isolation.",
)
@render.json_option
def status(most: int, as_json: bool) -> None:
    """Show classes, slots in use, running and waiting jobs with reasons, and live dispatchers."""
    found = collect(open_state(), most)
    if as_json:
        render.emit(found)
    else:
        show(render.console(), found)


def collect(state: State, most: int) -> dict[str, Any]:
    """Return the whole status as plain data; times are Unix seconds."""
    specs, unserved = state.reader.classes(), state.unserved()
    return {
        "now": state.now(),
        "dispatchers": state.dispatchers(),
        "leader": state.reader.leader(),
        "unaccepted": state.unaccepted(specs or ["t4"]),
        "classes": [
            {**_class(state, name, spec, most), "served": name not in unserved}
            for name, spec in specs.items()
        ],
    }


def _class(state: State, name: str, spec: dict[str, Any], most: int) -> dict[str, Any]:
    view = state.reader.view(name, spec, most)
    built = gpu_class(spec)
    waiting = []
    for kind in ISOLATIONS:
        # All waiting jobs of one isolation share the reason: one question to Redis is enough.
        first = (
            state.reader.why(built, view.waiting[kind][0]["delivery"], 0)
            if view.waiting[kind]
            else None
        )
        for place, record in enumerate(view.waiting[kind], 1):
            reason = first.reason if first and first.place else None
            waiting.append(
                {**job(record), "place": place, "reason": reason, "since": record.get("created")}
            )
    return {
        "name": name,
        "resource": built.resource,
        "slots": {
            kind: {"used": len(view.holders[kind]), "total": built.slots(kind)}
            for kind in ISOLATIONS
        },
        "holders": [_holder(record) for kind in ISOLATIONS for record in view.holders[kind]],
        "waiting": waiting,
        "waiting_total": view.waiting_total,
        "delayed": view.delayed,
        "finishing": view.finishing,
        "idle_pods": view.idle_pods,
        "places": [place_view(each) for each in stored.of(state.client, name)],
        "gate": gate(view) if built.has_sharing and built.exclusive_slots else None,
    }


def _holder(record: Record) -> dict[str, Any]:
    shown = job(record)
    # Its wait reason says more than its state.
    stands = shown.get("wait") or shown["state"]
    return {
        **shown,
        "stands": stands,
        "where": shown.get("device", shown.get("node")),
        "since": since(record),
    }


def show(out: Console, found: dict[str, Any]) -> None:
    """Print the status for people."""
    alive, leader = found["dispatchers"], found["leader"]
    if not found["classes"]:
        out.print(NO_DISPATCHER_EVER)
    elif not alive:
        out.print(f"[bold red]{NO_DISPATCHER_NOW}[/]")
    else:
        out.print(
            "dispatchers:"
            f" {escape(', '.join(f'{each} (leads)' if each == leader else each for each in alive))}"
        )
    for queue, total in found["unaccepted"].items():
        out.print(f"{total} in {escape(queue)} not yet taken by a dispatcher")
    for each in found["classes"]:
        _show_class(out, each, found["now"])


def _show_class(out: Console, each: dict[str, Any], now: float) -> None:
    slots = [
        f"{kind} {each['slots'][kind]['used']}/{each['slots'][kind]['total']}"
        for kind in ISOLATIONS
        if _has(each, kind)
    ]
    counts = [f"waiting {sum(each['waiting_total'].values())}"]
    counts += [f"{name} {each[name]}" for name in ("delayed", "finishing") if each[name]]
    if each["idle_pods"]:
        counts.append(f"idle pods {each['idle_pods']}")
    if each["gate"]:
        counts.append(f"gate {'closed for an exclusive job' if each['gate']['closed'] else 'open'}")
    out.print(f"\n[bold]{escape(each['name'])}[/]  {', '.join([*slots, *counts])}")
    if not each["served"]:
        out.print(f"[bold red]{NOT_SERVED}[/]")
    for one in each["places"]:
        if one["set_aside"]:
            words = f"{one['place']}: {render.next_try(one, now)}: {one['error']}"
            out.print(f"[bold red]{escape(words.partition(chr(10))[0])}[/]")
    if each["holders"]:
        columns: tuple[str, ...] = ("RUNNING", "NAME", "ISOLATION", "STATE", "ATTEMPT")
        keys: tuple[str, ...] = ("id", "name", "isolation", "stands", "attempt")
        if any(one.get("warm_turn") for one in each["holders"]):
            columns, keys = (*columns, "TURN"), (*keys, "warm_turn")
        columns, keys = (*columns, "GPU", "WORKER"), (*keys, "where", "worker")
        out.print(_jobs(columns, keys, each["holders"], now))
    if each["waiting"]:
        columns, keys = (
            ("WAITING", "NAME", "ISOLATION", "PLACE", "REASON"),
            ("id", "name", "isolation", "place", "reason"),
        )
        out.print(_jobs(columns, keys, each["waiting"], now))
    hidden = sum(each["waiting_total"].values()) - len(each["waiting"])
    if hidden > 0:
        out.print(f"and {hidden} more waiting (--most)")


def _jobs(
    columns: tuple[str, ...], keys: tuple[str, ...], jobs: list[dict[str, Any]], now: float
) -> Table:
    return render.table(
        (*columns, "SINCE"),
        [(*(one.get(key) for key in keys), render.ago(one["since"], now)) for one in jobs],
    )


def _has(each: dict[str, Any], kind: str) -> bool:
    return bool(each["slots"][kind]["total"] or each["slots"][kind]["used"])
