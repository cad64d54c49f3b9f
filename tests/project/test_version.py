"""One version in one place, and the versions of Python that the project names."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

import gpuqueue

ROOT = Path(gpuqueue.__file__).parents[1]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_the_package_alone() -> None:
    assert project()["project"]["dynamic"] == ["version"]
    assert project()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gpuqueue.__version__"}
    line = f'__version__ = "{gpuqueue.__version__}"'
    assert line in (ROOT / "gpuqueue" / "__init__.py").read_text().splitlines()


def test_the_command_prints_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpuqueue.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"gpuqueue, version {gpuqueue.__version__}\n"


def test_every_supported_python_is_named_and_tested() -> None:
    named = project()["project"]["classifiers"]
    versions = [word.rpartition(" ")[2] for word in named if " :: Python :: 3." in word]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == versions
    assert project()["project"]["requires-python"] == f">={versions[0]}"
