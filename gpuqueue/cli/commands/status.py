"""``gpuqueue status``: the classes, their running jobs, and their waiting jobs with reasons."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from gpuqueue.classes.gpu_class import CLASS, DEVICE, NODE
from gpuqueue.cli.view import render
from gpuqueue.cli.view.own_state import own_states, shown
from gpuqueue.cli.view.state import State, gate, gpu_class, job, open_state, place_view, since
from gpuqueue.cli.view.waiting import waiting
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER, NO_DISPATCHER_NOW, NOT_SERVED
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store import places as stored
from gpuqueue.store.domains import Domains

#: The most domains of a class that people are shown; --json has all.
MOST_DOMAINS = 32


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


def collect(
    state: State, most: int, *, only: str | None = None, held: int | None = None
) -> dict[str, Any]:
    """Return the whole status as plain data; times are Unix seconds. ``only`` one class; with
    ``held``, so many holders of each isolation, those that began first, without what their tasks
    say.
    """
    specs, unserved = state.reader.classes(), state.unserved()
    if only is not None:
        specs = {name: spec for name, spec in specs.items() if name == only}
    leaders = state.reader.leaders()
    return {
        "now": state.now(),
        "dispatchers": state.dispatchers(),
        "leader": next(iter(leaders), None),
        "leaders": leaders,
        "unaccepted": state.unaccepted(specs or [only or "t4"]),
        "classes": [
            _class(state, name, spec, most, held, name not in unserved)
            for name, spec in specs.items()
        ],
    }


def _class(
    state: State, name: str, spec: dict[str, Any], most: int, held: int | None, served: bool
) -> dict[str, Any]:
    view = state.reader.view(name, spec, most, held)
    built = gpu_class(spec)
    total = Domains(state.client).slots(built)
    kind_of_domain = NODE if built.domain == NODE else DEVICE if built.domains > 1 else CLASS
    return {
        "name": name,
        "served": served,
        "resource": built.resource,
        "domain": kind_of_domain,
        "slots": {
            kind: {"used": view.held_total[kind], "total": total[kind]} for kind in ISOLATIONS
        },
        "holders": _holders(
            state, [each for kind in ISOLATIONS for each in view.holders[kind]], held is None
        ),
        "waiting": waiting(state, built, view, most, served),
        "waiting_total": view.waiting_total,
        "delayed": view.delayed,
        "finishing": view.finishing,
        "idle_pods": view.idle_pods,
        "places": [place_view(each) for each in stored.of(state.client, name)],
        "domains": [asdict(each) for each in Domains(state.client).of(name)],
        "gate": gate(view)
        if built.has_sharing and built.exclusive_slots and kind_of_domain == CLASS
        else None,
    }


def _holders(state: State, records: list[Record], told: bool) -> list[dict[str, Any]]:
    running = [each["id"] for each in records if told and each["state"] == JobState.RUNNING]
    own = own_states(state, running)
    return [_holder(each, own.get(each["id"], {})) for each in records]


def _holder(record: Record, own: dict[str, Any]) -> dict[str, Any]:
    seen = job(record)
    # Its wait reason, or what its task says, tells more than its state.
    stands = seen.get("wait") or (shown(own, 40) if own else seen["state"])
    return {
        **seen,
        **own,
        "stands": stands,
        "where": seen.get("all_devices", seen.get("device", seen.get("node"))),
        "since": since(record),
        "time_limit": record.get("time_limit"),
    }


def show(out: Console, found: dict[str, Any]) -> None:
    """Print the status for people."""
    alive, leader = found["dispatchers"], found["leader"]
    if not found["classes"]:
        out.print(NO_DISPATCHER_EVER)
    elif not alive:
        out.print(f"[bold red]{NO_DISPATCHER_NOW}[/]")
    else:
        names = (f"{each} (leads)" if each == leader else each for each in alive)
        out.print(render.safe(f"dispatchers: {', '.join(names)}"))
    for queue, total in found["unaccepted"].items():
        out.print(f"{total} in {render.safe(queue)} not yet taken by a dispatcher")
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
    out.print(f"\n[bold]{render.safe(each['name'])}[/]  {', '.join([*slots, *counts])}")
    if not each["served"]:
        out.print(f"[bold red]{NOT_SERVED}[/]")
    if each["domains"]:
        out.print(render.safe(f"{'nodes' if each['domain'] == NODE else 'GPUs'}  {_domains(each)}"))
    for one in each["places"]:
        if one["set_aside"]:
            words = f"{one['place']}: {render.next_try(one, now)}: {one['error']}"
            out.print(f"[bold red]{render.safe(words.partition(chr(10))[0])}[/]")
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


def _domains(each: dict[str, Any]) -> str:
    """Return the domains of a class in one line, and how many nodes may come."""
    found = [one for one in each["domains"] if one["bound"] or any(one["held"].values())]
    to_come = len(each["domains"]) - len(found)
    words = [*map(_domain, found[:MOST_DOMAINS])]
    if found[MOST_DOMAINS:]:
        words.append(f"and {len(found) - MOST_DOMAINS} more")
    return " | ".join([*words, *([f"{to_come} more may come"] if to_come else [])])


def _domain(one: dict[str, Any]) -> str:
    """Return one domain in a few words: its name, and what runs or waits for a node there."""
    held = [f"{kind} {one['held'][kind]}/{one['slots'][kind]}" for kind in ISOLATIONS]
    runs = [words for kind, words in zip(ISOLATIONS, held, strict=True) if one["held"][kind]]
    told = ", ".join(runs) or "idle"
    name = one["name"] if one["bound"] else "a node to come"
    kept = ", becomes idle for an exclusive job" if one["drained"] else ""
    if one["reserved"] and not one["drained"]:
        kept = ", is reserved for a job of several GPUs"
    return f"{name}: {told}{kept}"


def _jobs(
    columns: tuple[str, ...], keys: tuple[str, ...], jobs: list[dict[str, Any]], now: float
) -> Table:
    return render.table(
        (*columns, "SINCE"),
        [(*(one.get(key) for key in keys), render.ago(one["since"], now)) for one in jobs],
    )


def _has(each: dict[str, Any], kind: str) -> bool:
    return bool(each["slots"][kind]["total"] or each["slots"][kind]["used"])
