"""Checks of one command of a page, by program: ``check(arguments, page, folder)``."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import redis
import yaml

from benchmarks import NAMES as BENCHMARKS
from gpuqueue.cli import cli
from gpuqueue.dev.embedded_redis import find_server
from gpuqueue.launchers.kubernetes.manifest.names import selector
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.docs.typed import BROKER, CALL, DISPATCHER, SHOP, blocks
from tests.support.command_line import run_command
from tests.support.pages import ROOT, defaults
from tests.support.waiting import PATIENCE, until


def check_export(arguments: list[str], page: str, folder: Path) -> None:
    """Read the settings as a dispatcher does."""
    check_settings(arguments)


def check_make(arguments: list[str], page: str, folder: Path) -> None:
    """Let make read the target."""
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def check_gpuqueue(arguments: list[str], page: str, folder: Path) -> None:
    """Let the command line parse the words; a command alone is named, not typed."""
    if arguments[0].startswith("-"):
        assert arguments[0] in [name for option in cli.params for name in option.opts]
        return
    with cli.make_context("gpuqueue", arguments) as context:
        found = cli.get_command(context, arguments[0])
        assert found is not None, arguments[0]
        if len(arguments) > 1:
            found.make_context(arguments[0], arguments[1:], parent=context)


def check_pip(arguments: list[str], page: str, folder: Path) -> None:
    """Look the extra up; test_images.py makes the wheel."""
    if arguments[0] == "wheel":
        assert arguments[-1] == "."
        return
    (extra,) = re.findall(r"\.\[(\w+)\]", " ".join(arguments))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]


def check_celery(arguments: list[str], page: str, folder: Path) -> None:
    """Let Celery read the options: it refuses an unknown one before it prints help."""
    if " ".join(["celery", *arguments]) in DISPATCHER:
        return  # the reader of the README runs it
    status, output = _celery_help(tuple(arguments))
    assert (status, "Usage:" in output) == (0, True), output


@cache
def _celery_help(arguments: tuple[str, ...]) -> tuple[int, str]:
    """Return status and output of a command with ``--help``; several pages have the same one."""
    done = run_command(
        [*arguments, "--help"],
        env={**os.environ, "CELERY_BROKER_URL": BROKER},
        timeout=PATIENCE,
        module="celery",
    )
    return done.returncode, done.stdout + done.stderr


def check_curl(arguments: list[str], page: str, folder: Path) -> None:
    """Compare port and path with settings and page; test_metrics.py asks for the paths."""
    (path,) = re.findall(rf"^-s localhost:{Settings().metrics_port}/(\w+)$", " ".join(arguments))
    assert f"| `/{path}` |" in (ROOT / page).read_text()


def check_python(arguments: list[str], page: str, folder: Path) -> None:
    """Look the module or the script up; the reader of the README runs a ``-c``."""
    if arguments[0] == "-c":
        assert f'python {shlex.join(arguments[:1])} "{arguments[1]}"' in CALL
    elif arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None
        if arguments[1] == "benchmarks":
            assert {each for each in arguments[2:] if each != "--quick"} <= set(BENCHMARKS)
    else:
        assert (ROOT / arguments[0]).is_file()


def check_settings(assignments: list[str]) -> None:
    said: dict[str, Any] = dict(each.split("=", 1) for each in assignments)
    assert said.keys() <= {
        *defaults(Settings.model_fields),
        *defaults(ClusterSettings.model_fields),
    }
    configured(Settings(**said))
    ClusterSettings(**said)


def check_docker(arguments: list[str], page: str, folder: Path) -> None:
    """Check a build or a push without running it; run here what an image would run."""
    verb, *rest = arguments
    if verb == "stop" and not rest:
        return  # named as a comparison, not typed
    if verb == "build":
        options = dict(zip(rest[:-1:2], rest[1:-1:2], strict=True))
        assert options.keys() <= {"-f", "-t"}
        assert rest[-1] == "."
        assert re.fullmatch(r"[a-z./-]+:\d[\d.]*", options["-t"])
        assert "-f" not in options or (ROOT / options["-f"]).is_file()
    elif verb == "push":
        assert f"-t {rest[0]} ." in (ROOT / page).read_text()
    else:
        assert [verb, *rest[:3]] == ["run", "--rm", "--user", "1000"]
        (folder / "shop.py").write_text(SHOP)
        program, *words = rest[4:]
        run = {
            "python3": [sys.executable, *words],
            "celery": [sys.executable, "-m", "celery", *words],
        }[program]
        done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr


def check_kubectl(arguments: list[str], page: str, folder: Path) -> None:
    """Check that the command names objects of the page; no cluster is asked."""
    first_day = "docs/howto/run-jobs-on-kubernetes.md"
    text = (ROOT / first_day).read_text()
    (objects,) = [each for each in blocks(first_day, "yaml") if "kind: Deployment" in each]
    named = {each["metadata"]["name"] for each in yaml.safe_load_all(objects)}
    if arguments[0] == "-n":
        assert arguments[1] == "gpu-jobs"
        arguments = arguments[2:]
    verb, *rest = arguments
    if verb == "patch":
        assert json.loads(rest[rest.index("--patch") + 1])["status"]["capacity"]
        return
    assert verb in {"create", "label", "apply", "rollout", "exec", "get", "delete", "logs"}
    for word in rest:
        kind, _, name = word.partition("/")
        if kind in ("deployment", "deploy"):
            assert name in named, word
    if "--" in rest:
        program, *words = rest[rest.index("--") + 1 :]
        assert program == "gpuqueue"
        cli.make_context("gpuqueue", words)
    if "-l" in rest:
        key, _, value = rest[rest.index("-l") + 1].partition("=")
        assert selector("x").startswith(f"{key}={value},")
    if verb == "apply":
        assert f"as `{rest[rest.index('-f') + 1]}`:" in text


def check_server(arguments: list[str], page: str, folder: Path) -> None:
    """Start the server as the page shows, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(find_server()), *arguments, "--port", str(port), "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, decode_responses=True)
    try:
        until(
            lambda: _answers(client) or process.poll() is not None, PATIENCE, "the server answers"
        )
        assert process.poll() is None
        for name, value in zip(arguments[::2], arguments[1::2], strict=True):
            name = name.removeprefix("--")
            assert client.config_get(name) == {name: value}
    finally:
        client.close()
        process.terminate()
        process.wait(10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


#: The program of a command → the check.
CHECKS: dict[str, Callable[[list[str], str, Path], None]] = {
    "celery": check_celery,
    "curl": check_curl,
    "docker": check_docker,
    "export": check_export,
    "gpuqueue": check_gpuqueue,
    "kubectl": check_kubectl,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "redis-server": check_server,
}
