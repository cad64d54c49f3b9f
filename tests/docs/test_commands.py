"""Every command on every page is one that works: each runs, or its program reads it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import NAMES as BENCHMARKS
from gpuqueue.cli import cli
from gpuqueue.settings.dispatcher import Settings
from tests.docs.checks import check_docker, check_kubectl, check_server, check_settings
from tests.docs.conftest import PATIENCE
from tests.docs.typed import BROKER, CALL, DISPATCHER, PAGES, commands
from tests.support.pages import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
ALL = sorted({(command, page) for page in PAGES for command in commands(page)})


def test_pages_have_blocks_of_known_languages_only() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", (ROOT / page).read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {
            "sh",
            "text",
            "python",
            "toml",
            "mermaid",
            "yaml",
            "dockerfile",
            "promql",
        }, page


@pytest.mark.parametrize(
    ("command", "page"), ALL, ids=[f"{page}: {command}" for command, page in ALL]
)
def test_a_command_of_the_docs_is_one_that_works(command: str, page: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        check_settings([words.pop(0)])
    program, *arguments = words
    if program == "export":
        check_settings(arguments)
    elif program == "make":
        assert (
            subprocess.run(
                ["make", "-n", *arguments], cwd=ROOT, capture_output=True, timeout=PATIENCE
            ).returncode
            == 0
        )
    elif program == "gpuqueue":
        with cli.make_context("gpuqueue", arguments) as context:  # raises for what it does not know
            found = cli.get_command(context, arguments[0])
            assert found is not None
            if len(arguments) > 1:  # a command named alone is named, not typed
                found.make_context(arguments[0], arguments[1:], parent=context)
    elif program == "redis-server":
        check_server(arguments, tmp_path)
    elif program == "docker":
        check_docker(arguments, page, tmp_path)
    elif program == "kubectl":
        check_kubectl(arguments)
    elif program == "pip" and arguments[0] == "wheel":
        assert arguments[-1] == "."  # tests/integration/test_images.py makes it
    elif program == "pip":
        (extra,) = re.findall(r"\.\[(\w+)\]", " ".join(arguments))
        assert (
            extra
            in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
                "optional-dependencies"
            ]
        )
    elif program == "celery":
        if arguments[:3] == ["-A", "gpuqueue", "worker"] and command in DISPATCHER:
            return  # it runs above
        # Without the daemon: options that it does not know are refused before its help is shown.
        env = {**os.environ, "CELERY_BROKER_URL": BROKER}
        done = subprocess.run(
            [sys.executable, "-m", "celery", *arguments, "--help"],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, "Usage:" in done.stdout) == (0, True), done.stderr
    elif program == "curl":
        (path,) = re.findall(
            rf"^-s localhost:{Settings().metrics_port}/(\w+)$", " ".join(arguments)
        )
        assert (
            f"| `/{path}` |" in (ROOT / page).read_text()
        )  # tests/integration/test_metrics.py asks for them
    elif program == "python" and arguments[:2] == ["-m", "benchmarks"]:
        assert set(arguments[2:]) <= set(BENCHMARKS)
    elif program == "python" and arguments[0] == "-m":
        assert (ROOT / arguments[1].replace(".", "/") / "__main__.py").is_file()
    elif program == "python" and arguments[0] == "-c":
        assert command in CALL
    else:
        assert program == "python" and (ROOT / arguments[0]).is_file(), command
