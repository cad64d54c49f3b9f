"""Checks of one command of a page, by program."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import redis
import yaml

from gpuqueue.cli import cli
from gpuqueue.dev.embedded_redis import find_server
from gpuqueue.launchers.kubernetes.manifest.names import selector
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.docs.conftest import PATIENCE
from tests.docs.typed import SHOP, blocks
from tests.support.pages import ROOT, defaults
from tests.support.waiting import until


def check_settings(assignments: list[str]) -> None:
    said = dict(each.split("=", 1) for each in assignments)
    assert said.keys() <= {
        *defaults(Settings.model_fields),
        *defaults(ClusterSettings.model_fields),
    }
    configured(Settings(**said))
    ClusterSettings(**said)


def check_docker(arguments: list[str], page: str, directory: Path) -> None:
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
        (directory / "shop.py").write_text(SHOP)
        program, *words = rest[4:]
        run = {
            "python3": [sys.executable, *words],
            "celery": [sys.executable, "-m", "celery", *words],
        }[program]
        done = subprocess.run(run, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr


def check_kubectl(arguments: list[str]) -> None:
    """Check that the command names objects of the page; no cluster is asked."""
    page = "docs/howto/run-jobs-on-kubernetes.md"
    text = (ROOT / page).read_text()
    (objects,) = [block for block in blocks(page, "yaml") if "kind: Deployment" in block]
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


def check_server(arguments: list[str], directory: Path) -> None:
    """Start the server as the page shows, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(find_server()), *arguments, "--port", str(port), "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, decode_responses=True)
    try:
        until(lambda: _answers(client), PATIENCE, "the server answers")
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
