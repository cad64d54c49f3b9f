"""The page of the command line, from the help of each command."""

from __future__ import annotations

import click

from docs.generate.markdown import code, lines, page, table
from docs.generate.source import prose
from gpuqueue.cli import COMMANDS, cli


def make() -> str:
    """Make the page."""
    with click.Context(cli, info_name="gpuqueue") as context:
        return page(
            "Command line",
            lines(prose(cli.help or "")),
            table(
                ("command", "purpose"),
                [
                    (f"[`{name}`](#gpuqueue-{name})", text)
                    for name, (_, _, text) in COMMANDS.items()
                ],
            ),
            *(_command(context, name) for name in COMMANDS),
        )


def _command(context: click.Context, name: str) -> str:
    found = cli.get_command(context, name)
    assert found is not None
    return _section(context, name, found, "##")


def _section(context: click.Context, name: str, found: click.Command, level: str) -> str:
    with click.Context(found, info_name=name, parent=context) as own:
        usage = f"{own.command_path} {' '.join(found.collect_usage_pieces(own))}"
        records = [each.get_help_record(own) for each in found.params]
        commands = found.commands if isinstance(found, click.Group) else {}
        within = [_section(own, each, command, "###") for each, command in commands.items()]
    paragraphs = "\n\n".join(lines(prose(each)) for each in (found.help or "").split("\n\n"))
    shown = [(code(name), prose(text)) for name, text in filter(None, records) if text]
    parts = [f"{level} {own.command_path.partition(' [')[0]}", f"```text\n{usage}\n```", paragraphs]
    return "\n\n".join([*parts, *([table(("option", "meaning"), shown)] if shown else []), *within])
