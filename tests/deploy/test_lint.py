"""The style of files that people edit and of rendered manifests, and the lint of Helm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.deploy.rendering import CHART, EVERYTHING, SETS, chart_text, overlay_text, values
from tests.deploy.tools import ROOT, call

#: Files that people edit have one style; generated files are checked only for errors.
STYLE = YamlLintConfig((ROOT / ".yamllint.yaml").read_text())
MISTAKES = YamlLintConfig(
    "{rules: {key-duplicates: enable, trailing-spaces: enable, truthy: {check-keys: false},"
    " octal-values: enable}}"
)
FILES = [
    *sorted((ROOT / "deploy").rglob("*.yaml")),
    *(CHART / name for name in ("Chart.yaml", "values.yaml", "files/alerts.yaml")),
    ROOT / "tests" / "deploy" / "alert_cases.yaml",
    *sorted((ROOT / "tests" / "deploy" / "values").glob("*.yaml")),
    ROOT / ".yamllint.yaml",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_in_style(path: Path) -> None:
    assert list(linter.run(path.read_text(), STYLE)) == []


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_what_is_rendered_has_no_mistakes_of_yaml(source: str, name: str) -> None:
    text = chart_text(name) if source == "chart" else overlay_text(name)
    assert list(linter.run(text, MISTAKES)) == []


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_complain_of(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values(name)))
    done = call("helm", "lint", "--strict", "--quiet", str(CHART), "-f", str(file))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
