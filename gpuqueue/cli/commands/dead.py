"""``gpuqueue dead``: the messages that no dispatcher could accept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from gpuqueue.cli.view import render
from gpuqueue.cli.view.dead_letters import Dead, open_dead
from gpuqueue.store.dead_letters import Letter

#: Exit status if a letter is unknown.
UNKNOWN = 1
#: Characters of an error in the list.
SHOWN = 80


@click.group(invoke_without_command=True)
@render.json_option
@click.pass_context
def dead(context: click.Context, as_json: bool) -> None:
    """List the messages that were set aside, the oldest first.

    A message is set aside if it has no task id, or if no dispatcher could accept it in 5 tries.
    """
    if context.invoked_subcommand is not None:
        return
    with open_dead() as found:
        letters = list(found.letters.all())
    if as_json:
        render.emit([_shown(each) for each in letters])
        return
    if not letters:
        click.echo("no message was set aside")
        return
    rows = [
        (each.id, _headers(each).get("id"), _headers(each).get("task"), each.tries, _short(each))
        for each in letters
    ]
    render.console().print(render.table(("ID", "TASK ID", "TASK", "TRIES", "ERROR"), rows))


@dead.command()
@click.argument("letter_id", metavar="ID")
@render.json_option
def show(letter_id: str, as_json: bool) -> int:
    """Show one message: its error, and its text, which --json has as its sender wrote it.

    ID is that of the list, or a task id.

    Exit status: 1 if there is no such message.
    """
    with open_dead() as found:
        letters, now = _named(found, letter_id), found.now()
    if as_json:
        render.emit([_shown(each) for each in letters])
    elif not letters:
        click.echo(_unknown(letter_id), err=True)
    else:
        for each in letters:
            since = render.ago(each.last, now)
            told = f"{each.id}: set aside {since} ago after {each.tries} tries: {each.error}"
            click.echo(render.readable(told))
            click.echo(render.readable(each.message))
    return 0 if letters else UNKNOWN


@dead.command()
@click.argument("letter_ids", metavar="ID...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Send all of them.")
@render.json_option
def send(letter_ids: tuple[str, ...], every: bool, as_json: bool) -> int:
    """Put messages back into their queues, unchanged, with all their tries.

    ID is that of the list, or a task id.

    Exit status: 1 if there is no such message.
    """
    return _each(letter_ids, every, as_json, Dead.send, "sent")


@dead.command()
@click.argument("letter_ids", metavar="ID...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Drop all of them.")
@render.json_option
def drop(letter_ids: tuple[str, ...], every: bool, as_json: bool) -> int:
    """Forget messages for good.

    ID is that of the list, or a task id.

    Exit status: 1 if there is no such message.
    """
    return _each(letter_ids, every, as_json, Dead.drop, "dropped")


def _each(
    ids: tuple[str, ...],
    every: bool,
    as_json: bool,
    act: Callable[[Dead, Letter], bool],
    word: str,
) -> int:
    if bool(ids) == every:
        raise click.UsageError("name the messages, or all of them with --all")
    done: list[str] = []
    unknown: list[str] = []
    with open_dead() as found:
        for name in ids:
            letters = _named(found, name)
            done += [each.id for each in letters if act(found, each)]
            unknown += [] if letters else [name]
        if every:
            done += [each.id for each in found.letters.all() if act(found, each)]
    if as_json:
        render.emit({word: done, "unknown": unknown})
    else:
        for each in done:
            click.echo(f"{each} {word}")
        for each in unknown:
            click.echo(_unknown(each), err=True)
    return UNKNOWN if unknown else 0


def _named(found: Dead, name: str) -> list[Letter]:
    letter = found.letters.get(name)
    if letter is not None:
        return [letter]
    return [each for each in found.letters.all() if _headers(each).get("id") == name]


def _unknown(name: str) -> str:
    return f"{name} is not a message that was set aside; `gpuqueue dead` lists them"


def _headers(letter: Letter) -> dict[str, Any]:
    """Return the headers of a message, if it can be read at all."""
    try:
        headers = json.loads(letter.message)["headers"]
        return {name: headers[name] for name in ("id", "task") if name in headers}
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}


def _shown(letter: Letter) -> dict[str, Any]:
    headers = _headers(letter)
    return {**letter._asdict(), "task_id": headers.get("id"), "task": headers.get("task")}


def _short(letter: Letter) -> str:
    return letter.error if len(letter.error) <= SHOWN else f"{letter.error[: SHOWN - 1]}…"
