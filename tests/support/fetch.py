"""Download packages that the tests take programs from; nothing is installed and no root is needed.

The package index gives wheels, in the versions of constraints.txt; apt gives Debian packages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def wheel(package: str, folder: Path, *options: str) -> Path:
    """Download one wheel from the package index, without its dependencies."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*pip, "--no-deps", "--only-binary=:all:", *pins, *options, "-d", str(folder), package],
        check=True,
    )
    (found,) = folder.glob(f"{package.replace('-', '_').replace('.', '?')}-*.whl")
    return found


def packages(names: Sequence[str], folder: Path) -> None:
    """Put packages of the package index, with their dependencies, into a folder for PYTHONPATH."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *pins, "--target", str(folder), *names], check=True)


def debian(packages: Sequence[str], folder: Path) -> list[Path]:
    """Download Debian packages, without their dependencies; [] if apt has not all of them.

    The machine's own package lists come first. Without lists there, apt fetches them into
    ``folder``.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return []
    state, cache = folder / "state", folder / "cache"
    for made in (state / "lists" / "partial", cache / "archives" / "partial"):
        made.mkdir(parents=True)
    # As the current user: apt would change to a user that may not write here.
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=0"]
    private = ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={cache}"]
    tries = (
        (["download", *packages],),
        (
            [*private, "update"],
            [*private, "download", *packages],
        ),
    )
    for commands in tries:
        for command in commands:
            subprocess.run([*apt, *command], cwd=folder, stderr=subprocess.DEVNULL, check=False)
        found = sorted(folder.glob("*.deb"))
        if len(found) == len(packages):
            return found
    return []


def unpack_debian(package: Path, folder: Path) -> None:
    """Unpack the files of a Debian package into ``folder``."""
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
