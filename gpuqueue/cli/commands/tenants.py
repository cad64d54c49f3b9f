"""``gpuqueue tenants``: the tenants of the GPU classes, and their rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, gpu_class, open_state
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.tenant import (
    FIELDS,
    OTHERS,
    TenantRule,
    WrongRule,
    check_guarantees,
    check_half_life,
    check_name,
    shown_name,
)
from gpuqueue.store import wakeups
from gpuqueue.store.tenants import RulesChanged, Tenants, TenantsView

#: Exit status if there is no such rule.
UNKNOWN = 1
#: How often a command begins again since another one has changed the rules meanwhile.
TRIES = 20
#: How many tenants of a class the list has.
SHOWN = 1000
COLUMNS = (
    *("CLASS", "TENANT", "RUNNING", "WAITING", "DELAYED", "GPU HOURS", "COUNTING"),
    *("WEIGHT", "MAX RUNNING", "MAX QUEUED", "GUARANTEED", "SET BY"),
)
#: What an option says in place of a number: no limit.
NO_LIMIT = "none"


@click.group(invoke_without_command=True)
@render.json_option
@click.pass_context
def tenants(context: click.Context, as_json: bool) -> None:
    """List the tenants of each GPU class: their jobs, what they have used, and their rules."""
    if context.invoked_subcommand is None:
        _list(as_json)


@tenants.command(name="list")
@render.json_option
def list_(as_json: bool) -> None:
    """List the tenants of each GPU class: their jobs, what they have used, and their rules."""
    _list(as_json)


@tenants.command(name="set")
@click.argument("class_name", metavar="CLASS")
@click.argument("tenant", required=False)
@click.option("--weight", help="Its part of the GPU time, in proportion to other weights.")
@click.option("--max-running", help="Jobs that run at once, or `none`.")
@click.option("--max-queued", help="Jobs that may wait, or `none`.")
@click.option("--guaranteed", help="Slots that come to its jobs first.")
@click.option("--half-life", help="Of the class: seconds after which use counts half.")
def set_(class_name: str, tenant: str | None, half_life: str | None, **options: str | None) -> int:
    """Set the rule of a tenant, or the half-life of a class. Running jobs go on.

    TENANT: `-` stands for jobs without a tenant, `*` for all tenants without a rule. What is not
    named stays as it is.
    """
    given = {name: _number(name, text) for name, text in options.items() if text is not None}
    if (tenant is None) == bool(given) or not (given or half_life):
        raise click.UsageError("name a tenant and what to set, or a class and --half-life")
    state = open_state()

    def change(view: TenantsView) -> Change:
        seconds = None
        if half_life is not None:
            seconds = check_half_life(_number("half_life", half_life), "half_life")
        if tenant is None:
            return Change({}, seconds)
        name = check_name(tenant)
        known = view.rules.get(name)
        fields = (known.fields() if known else {}) | given
        left = {key: value for key, value in fields.items() if value is not None}
        rule = TenantRule.parse(left, f"tenant {tenant}")
        own = gpu_class(state.reader.classes()[class_name])
        check_guarantees(view.rules | {name: rule}, own.most_slots, class_name)
        return Change({name: rule}, seconds)

    apply(state, class_name, change)
    click.echo(f"{class_name}: set")
    return 0


@tenants.command()
@click.argument("class_name", metavar="CLASS")
@click.argument("tenant", required=False)
@click.option("--half-life", is_flag=True, help="The half-life of the class.")
def unset(class_name: str, tenant: str | None, half_life: bool) -> int:
    """Remove the rule of a tenant, or the half-life of a class. What a file says applies again.

    Exit status: 1 if the tenant has no rule.
    """
    if (tenant is None) != half_life:
        raise click.UsageError("name a tenant, or a class and --half-life")
    state = open_state()

    def change(view: TenantsView) -> Change | None:
        if tenant is None:
            return Change({}, default_half_life=True)
        name = check_name(tenant)
        return Change({name: None}) if name in view.rules else None

    if not apply(state, class_name, change):
        click.echo(f"gpuqueue: tenant={tenant!r} has no rule in {class_name}", err=True)
        return UNKNOWN
    click.echo(f"{class_name}: unset")
    return 0


@dataclass(frozen=True, slots=True)
class Change:
    """What a command sets; a rule that is None is removed."""

    rules: Mapping[str, TenantRule | None]
    half_life: float | None = None
    default_half_life: bool = False


def apply(state: State, class_name: str, change: Callable[[TenantsView], Change | None]) -> bool:
    """Set what follows from the rules that hold; if they have changed meanwhile, what follows from
    the new ones. Returns whether there is something to set.
    """
    for _ in range(TRIES):
        view = _view(state, class_name)
        try:
            wanted = change(view)
        except WrongRule as exc:
            raise GpuQueueError(str(exc)) from None
        if wanted is None:
            return False
        with suppress(RulesChanged):
            Tenants(state.client).set(
                class_name,
                wanted.rules,
                wanted.half_life,
                default_half_life=wanted.default_half_life,
                epoch=view.epoch,
            )
            wakeups.wake(state.client, class_name)
            return True
    raise GpuQueueError(f"the rules of {class_name} change all the time; try again")


def _view(state: State, class_name: str) -> TenantsView:
    classes = state.reader.classes()
    if not classes:
        raise GpuQueueError(f"cannot set a rule: {NO_DISPATCHER_EVER}")
    if class_name not in classes:
        raise GpuQueueError(
            f"class={class_name!r} is unknown; use one of {', '.join(sorted(classes))}"
        )
    return Tenants(state.client).of(class_name, 0)


def _number(name: str, text: str) -> float | int | str | None:
    """Return the number of an option; its text if it is none, so that the error shows it."""
    if text == NO_LIMIT and name.startswith("max_"):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _list(as_json: bool) -> None:
    state = open_state()
    client = Tenants(state.client)
    found = {name: client.of(name, SHOWN) for name in state.reader.classes()}
    if as_json:
        render.emit([_shown(name, view) for name, view in found.items()])
        return
    if not found:
        click.echo(NO_DISPATCHER_EVER)
        return
    rows = [(name, *each) for name, view in found.items() for each in _rows(view)]
    if not rows:
        click.echo("no job has named a tenant, and no rule is set")
        return
    render.console().print(render.table(COLUMNS, rows))
    for name, view in found.items():
        if view.total > SHOWN:
            click.echo(f"{name}: {view.total - SHOWN} more tenants")


def _rows(view: TenantsView) -> list[tuple[Any, ...]]:
    """Return the rows of a class: tenants, those with a rule alone, and all others."""
    found: list[tuple[Any, ...]] = []
    for each in view.tenants:
        hours, counting = (f"{value / 3600:.2f}" for value in (each.gpu_seconds, each.decayed))
        jobs = (sum(each.running.values()), sum(each.waiting.values()), each.delayed)
        found.append((shown_name(each.name), *jobs, hours, counting, *_rule(view, each.name)))
    known = {each.name for each in view.tenants}
    for name in sorted(view.rules.keys() - known):
        found += [(shown_name(name), *[None] * 5, *_rule(view, name))]
    return found


def _rule(view: TenantsView, name: str) -> tuple[Any, ...]:
    own = name if name in view.rules else OTHERS
    rule = view.rules.get(own) or TenantRule()
    source = view.sources.get(own)
    return (*(getattr(rule, field) for field in FIELDS), source and f"{source}")


def _shown(name: str, view: TenantsView) -> dict[str, Any]:
    return {
        "gpu_class": name,
        "epoch": view.epoch,
        "half_life": view.half_life,
        "tenants": [
            {
                "tenant": shown_name(each.name),
                "running": each.running,
                "waiting": each.waiting,
                "delayed": each.delayed,
                "gpu_seconds": each.gpu_seconds,
                "counting_gpu_seconds": each.decayed,
                "at_limit": each.limited,
            }
            for each in view.tenants
        ],
        "tenants_left_out": view.total - len(view.tenants),
        "rules": [
            {"tenant": shown_name(each), **rule.fields(), "set_by": view.sources.get(each)}
            for each, rule in sorted(view.rules.items())
        ],
    }
