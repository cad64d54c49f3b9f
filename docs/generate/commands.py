"""The page of the command line, from the help of each command."""

from __future__ import annotations

import click

from docs.generate.markdown import code, lines, page, table
from docs.generate.source import prose
from gpuqueue.cli import COMMANDS, cli

#: The commands that mend something, or look for what is wrong.
_MENDING = ("places", "adopt", "confirm-gone", "dead", "tenants", "doctor")
#: The page of a section, as links of the first page name it: of other commands, and of these.
_PAGES = ("", "cli-mend.md")


def make() -> str:
    """Make the page of all commands, with the sections of those for every day."""
    with click.Context(cli, info_name="gpuqueue") as context:
        return page(
            "Command line",
            lines(f"{prose(cli.help or '')} With `--json`, a command prints JSON."),
            table(
                ("command", "purpose"),
                [
                    (f"[`{name}`]({_PAGES[name in _MENDING]}#gpuqueue-{name})", text)
                    for name, (_, _, text) in COMMANDS.items()
                ],
            ),
            *(_command(context, name) for name in COMMANDS if name not in _MENDING),
        )


def make_mending() -> str:
    """Make the page of the commands that mend something."""
    with click.Context(cli, info_name="gpuqueue") as context:
        return page(
            "Commands that mend",
            "These commands of [the command line](cli.md) find what is wrong, and mend it.",
            *(_command(context, name) for name in COMMANDS if name in _MENDING),
        )


def _command(context: click.Context, name: str) -> str:
    found = cli.get_command(context, name)
    assert found is not None
    return _section(context, name, found, "##")


def _section(context: click.Context, name: str, found: click.Command, level: str) -> str:
    with click.Context(found, info_name=name, parent=context) as own:
        json = any("--json" in each.opts for each in found.params)
        pieces = [*found.collect_usage_pieces(own), *(["[--json]"] if json else [])]
        usage = f"{own.command_path} {' '.join(pieces)}"
        records = [each.get_help_record(own) for each in found.params if "--json" not in each.opts]
        commands = found.commands if isinstance(found, click.Group) else {}
        within = [_section(own, each, command, "###") for each, command in commands.items()]
    paragraphs = "\n\n".join(lines(prose(each)) for each in (found.help or "").split("\n\n"))
    shown = [(code(name), prose(text)) for name, text in filter(None, records) if text]
    parts = [f"{level} {own.command_path.partition(' [')[0]}", f"```text\n{usage}\n```", paragraphs]
    return "\n\n".join([*parts, *([table(("option", "meaning"), shown)] if shown else []), *within])
