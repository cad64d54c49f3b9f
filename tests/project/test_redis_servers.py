"""The servers of ``make test REDIS=...``: what they come from, and which one runs now."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis, find_server
from gpuqueue.store.client import connect
from tests.support import redis_servers
from tests.support.redis_servers import SERVERS, Server, install, version

ROOT = Path(__file__).parents[2]


def test_the_server_that_make_was_asked_for_is_the_one_that_runs() -> None:
    name = os.environ.get("REDIS")
    if not name:
        pytest.skip("REDIS is not set: the suite runs on the server that the demo would use")
    assert f" v={SERVERS[name].version}." in version(find_server())
    with EmbeddedRedis() as server, connect(server.url) as client:
        info = client.info("server")
    running = str(info.get("valkey_version", info["redis_version"]))
    assert running.startswith(f"{SERVERS[name].version}.")


def test_make_names_every_server() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.search(r"REDIS=7\.0 .*: (.*) or (\w+)$", makefile, re.M)
    assert named is not None
    assert [*named[1].split(", "), named[2]] == list(SERVERS)


def test_every_package_of_a_server_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    source = Path(redis_servers.__file__).read_text()
    packages = re.findall(r'"([a-z0-9-]+)"', " ".join(re.findall(r"wheels\((.*?)\)", source)))
    assert len(packages) == 4
    assert all(re.search(rf"^{package}==", pins, re.M) for package in packages)


def test_an_unknown_server_is_refused_with_the_known_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.redis_servers", "5.0", "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "REDIS='5.0' is not a known server; choose one of: 6.2, 7.0, 7.4, 8.2, valkey"
    )


def fake(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """Make "fake" a server that prints a version and its arguments."""

    def unpack(folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "any-server").write_text(f"#!/bin/sh\necho '{says} bits=64' $1\n")
        (folder / "bin" / "any.so.1").touch()

    server = Server("6.2", unpack, "bin/*-server", {"any.so": "bin/any.so.*"})
    monkeypatch.setitem(SERVERS, "fake", server)


def test_a_server_is_put_where_path_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "Redis server v=6.2.1")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "of an earlier try").touch()
    assert install("fake", tmp_path / "fake") == "Redis server v=6.2.1"
    monkeypatch.setenv("PATH", str(tmp_path / "fake"), prepend=os.pathsep)
    assert find_server() == tmp_path / "fake" / "redis-server"
    assert (tmp_path / "fake" / "linked" / "any.so").samefile(
        tmp_path / "fake" / "files" / "bin" / "any.so.1"
    )
    assert not (tmp_path / "fake" / "of an earlier try").exists()


def test_a_server_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "Redis server v=8.0.2")
    with pytest.raises(redis_servers.NoServer, match=r"another version: Redis server v=8\.0\.2"):
        install("fake", tmp_path / "fake")
    assert not (tmp_path / "fake" / "redis-server").exists()
