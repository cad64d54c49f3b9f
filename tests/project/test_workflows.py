"""The workflows, the forms and the hooks: their schemas, and that what they call exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

import gpuqueue
from tests.support.redis_servers import SERVERS

ROOT = Path(gpuqueue.__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "custom.github-workflows-require-timeout": [
        path for path in WORKFLOWS if path.name != "release.yml"
    ],
    "vendor.github-issue-forms": [path for path in FORMS if path.name != "config.yml"],
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
}
#: The style of manifests; `on:` is a key of workflows, and lists of one line are usual there.
STYLE = YamlLintConfig((ROOT / ".yamllint.yaml").read_text())


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job.get("steps", [])


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMS, HOOKS], ids=relative)
def test_a_file_of_the_project_is_in_style(path: Path) -> None:
    assert list(linter.run(path.read_text(), STYLE)) == []


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_has_the_schema_that_its_reader_expects(schema: str) -> None:
    assert SCHEMAS[schema]
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run(
        [*check, *map(str, SCHEMAS[schema])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=relative)
def test_actions_are_pinned_by_major_version(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v|release/v)\d+", action) for action in used), used


def test_what_the_workflows_run_exists() -> None:
    commands = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    lines = [line for command in commands for line in command.splitlines()]
    parts = {line.split()[1] for line in lines if line.startswith(".ci/run ")}
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert parts == {"lint", "test", "slow", "docs"}
    script = (ROOT / ".ci" / "run").read_text()
    assert all(re.search(rf"^ *(\w+\|)*{part}(\|\w+)*\)", script, re.M) for part in parts), script
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"test-all", "wheel"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_server_is_tested() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["redis"] == list(SERVERS)


def test_hooks_run_what_is_installed_and_fetch_no_code() -> None:
    (local,) = yaml.safe_load(HOOKS.read_text())["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    commands = {hook["entry"].split()[0] for hook in local["hooks"]}
    assert commands == {".venv/bin/ruff", ".venv/bin/lint-imports"}
    assert all((Path(sys.executable).parent / Path(command).name).exists() for command in commands)


@pytest.mark.parametrize(
    "path",
    [ROOT / "SECURITY.md", ROOT / "RELEASE.md", GITHUB / "pull_request_template.md"],
    ids=relative,
)
def test_every_file_that_a_page_of_the_project_names_exists(path: Path) -> None:
    text = path.read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert linked
    assert all((path.parent / name).exists() for name in linked), linked
    named = re.findall(r"`((?:[\w-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|txt))`", text)
    assert all((ROOT / name).exists() for name in named), named
