"""The cgroup of an attempt (v2): where a subtree is delegated to this process, each attempt gets a
child of it, and all its processes end at once.

Never here: a cgroup whose subtree is not ours. Its files belong to the service manager.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

#: How the cgroups of attempts are named.
PREFIX = "gpuqueue-"
#: What systemd writes to a cgroup with ``Delegate=yes``.
_DELEGATED = ("user.delegate", "trusted.delegate")


def own(proc: Path = Path("/proc/self")) -> Path | None:
    """Return the cgroup of this process, if it may make others below it: the subtree is delegated,
    or the whole of a container. It changes nothing.
    """
    with contextlib.suppress(OSError, ValueError):
        [named] = [
            line[3:]
            for line in os.fsdecode((proc / "cgroup").read_bytes()).splitlines()
            if line.startswith("0::/")
        ]
        for root, mounted in _mounts(proc / "mountinfo"):
            path = mounted / os.path.relpath(named, root)
            if ".." not in path.parts and _is_ours(path, whole=named == root == "/"):
                return path
    return None


def _mounts(mountinfo: Path) -> Iterator[tuple[str, Path]]:
    """Yield where cgroups v2 are mounted, with the one that is the root there."""
    for line in os.fsdecode(mountinfo.read_bytes()).splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            yield fields.split()[3], Path(fields.split()[4])


def _is_ours(path: Path, *, whole: bool) -> bool:
    """Whether a cgroup is a delegated subtree. The root of the machine has no ``cgroup.kill``, and
    where root may write anything, only the mark of systemd tells.
    """
    if not (path / "cgroup.kill").exists():
        return False
    needed = [path, path / "cgroup.procs"]
    if not all(os.access(each, os.W_OK, effective_ids=True) for each in needed):
        return False
    return whole or os.geteuid() != 0 or any(_marked(path, name) for name in _DELEGATED)


def _marked(path: Path, name: str) -> bool:
    with contextlib.suppress(OSError, AttributeError):
        return os.getxattr(path, name) == b"1"
    return False


def make(parent: Path | None, nonce: str) -> Path | None:
    """Make the cgroup of an attempt; None if there can be none."""
    with contextlib.suppress(OSError):
        if parent is not None:
            path = parent / f"{PREFIX}{nonce}"
            path.mkdir()
            return path
    return None


def enter(path: Path | None) -> None:
    """Move this process into a cgroup: what it starts is born there."""
    with contextlib.suppress(OSError):
        if path is not None:
            (path / "cgroup.procs").write_text("0")


def named(content: str | None, nonce: str) -> Path | None:
    """Return the cgroup that the file of an attempt names."""
    path = Path(content) if content else None
    return path if path and path.name == f"{PREFIX}{nonce}" else None


def processes(path: Path) -> list[int]:
    """Return the processes in a cgroup and below it."""
    found: list[int] = []
    for each in (path, *path.rglob("*/")):
        with contextlib.suppress(OSError):
            found += map(int, (each / "cgroup.procs").read_text().split())
    return found


def kill(path: Path) -> None:
    """Kill all processes in a cgroup, also those that they start meanwhile."""
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")


def is_empty(path: Path) -> bool:
    """Whether no process is left in a cgroup, or below it. Then it is removed."""
    try:
        if "populated 0" not in (path / "cgroup.events").read_text():
            return False
    except OSError as exc:
        gone = isinstance(exc, FileNotFoundError) or exc.errno == errno.ENODEV
        return gone and path.parent.exists()
    remove(path)
    return True


def remove(path: Path) -> None:
    """Remove a cgroup that is empty, with those that the task has made below it."""
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106


def remove_empty(parent: Path | None) -> None:
    """Remove the empty cgroups of attempts that a killed runner has left."""
    for path in parent.glob(f"{PREFIX}*") if parent else ():
        is_empty(path)
