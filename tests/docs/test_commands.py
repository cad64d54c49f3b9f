"""Every command on every page is one that works: each runs, or its program reads it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from gpuqueue.errors import SettingsError
from tests.docs.checks import CHECKS, check_settings
from tests.docs.cluster_checks import check_cluster_kubectl, check_helm
from tests.docs.typed import PAGES, PRODUCTION, commands
from tests.support.pages import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
ALL = sorted({(command, page) for page in PAGES for command in commands(page)})
#: Programs that are checked with the manifests on pages about production.
IN_PRODUCTION = {"kubectl": check_cluster_kubectl, "helm": check_helm}
LANGUAGES = {"sh", "text", "python", "toml", "yaml", "dockerfile", "promql", "ini"}


def test_pages_have_blocks_of_known_languages_only() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", (ROOT / page).read_text(), re.MULTILINE)[::2]
        assert set(opened) <= LANGUAGES, page


def test_systemd_unit_sets_known_settings_and_starts_a_dispatcher(tmp_path: Path) -> None:
    page = "docs/operate/local.md"
    [unit] = re.findall(r"```ini\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    check_settings(re.findall(r"^Environment=(.*)$", unit, re.MULTILINE))
    [command] = re.findall(r"^ExecStart=\S*/(celery .*)$", unit, re.MULTILINE)
    check_command(command, page, tmp_path)


@pytest.mark.parametrize(
    ("command", "page"), ALL, ids=[f"{page}: {command}" for command, page in ALL]
)
def test_a_command_of_a_page_works(command: str, page: str, tmp_path: Path) -> None:
    check_command(command, page, tmp_path)


def check_command(command: str, page: str, folder: Path) -> None:
    """Check one command as a shell would split it."""
    words = shlex.split(command, comments=True)
    while re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        check_settings([words.pop(0)])
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program in IN_PRODUCTION and page in (*PRODUCTION, "README.md"):
        IN_PRODUCTION[program](arguments, page, folder)
    else:
        CHECKS[program](arguments, page, folder)


@pytest.mark.parametrize(
    "wrong",
    [
        "gpuqueue statsu",
        "gpuqueue why ID --al",
        "make tset",
        "python -m benchmarks sumbit",
        "celery -A gpuqueue worker --pol threads",
        "redis-server --apendonly yes",
        "pip install '.[al]'",
        "export GPUQUEUE_GRACE_SECONDS=-1",
    ],
)
def test_a_command_that_does_not_work_is_found(wrong: str, tmp_path: Path) -> None:
    program, *arguments = shlex.split(wrong)
    with pytest.raises((AssertionError, click.ClickException, SettingsError, ValueError)):
        CHECKS[program](arguments, "README.md", tmp_path)
