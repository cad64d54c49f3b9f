"""The README and the quickstart: a reader who types what they show gets what they promise."""

from __future__ import annotations

import re

import click
import pytest

from gpuqueue.cli import cli
from tests.docs.conftest import Reader
from tests.docs.typed import CALL, LOOK, PAGES, QUICKSTART, SHOP, blocks, commands
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


def test_the_application_has_ten_lines_and_none_of_gpuqueue() -> None:
    lines = [line for line in SHOP.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    assert "gpuqueue" not in SHOP


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_quickstart_has_every_block_of_the_readme(language: str) -> None:
    elsewhere = ("make ", "kubectl ")
    of_readme = [each for each in blocks("README.md", language) if not each.startswith(elsewhere)]
    assert len(of_readme) == {"sh": 4, "python": 1}[language]
    shown = blocks(QUICKSTART, language)
    assert [each for each in shown if each in of_readme] == (of_readme)


def test_the_three_commands_of_the_readme_run_a_job(reader: Reader) -> None:
    done = reader.run(reader.script(CALL), own=False)
    assert re.search(r"^3 rounds in process \d+, GPU ", done.stdout, re.MULTILINE), (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    "page", [page for page in PAGES if [each for each in blocks(page, "python") if each != SHOP]]
)
def test_the_python_of_a_page_runs(reader: Reader, page: str) -> None:
    code = "\n".join(each for each in blocks(page, "python") if each != SHOP)
    done = reader.python(code)
    assert done.returncode == 0, done.stderr


def test_each_command_of_see_what_happens_answers(reader: Reader) -> None:
    job = reader.send(countdown=300)
    until(lambda: job in reader.command(f"gpuqueue why {job}").stdout, PATIENCE, "the job is known")
    for command in LOOK.strip().splitlines():
        if command.startswith(
            "gpuqueue logs"
        ):  # a local job's are in its dispatcher's log, a delayed one has none
            done = reader.command(command.replace("ID", job))
            assert (done.returncode, "no attempt has started yet" in done.stderr) == (1, True)
        elif command.startswith("gpuqueue"):
            done = reader.command(command.replace("ID", job))
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert done.stdout.strip(), command
            if "why" in command:
                assert "delayed" in done.stdout or "waiting for its time" in done.stdout
    another = reader.send(countdown=300)
    (cancel,) = [
        line
        for page in PAGES
        for line in commands(page)
        if line.startswith("gpuqueue cancel ID --wait")
    ]
    done = reader.command(cancel.replace("ID", another))
    assert (done.returncode, "CANCELLED" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize("name", ["status", "why", "logs", "cancel", "classes", "doctor"])
def test_commands_that_read_take_json(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert "--json" in [option for parameter in command.params for option in parameter.opts]
