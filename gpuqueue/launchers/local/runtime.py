"""The runtime directory: where the dispatchers and the runner of one user and application meet.

``sock``, ``lock`` and ``log`` are the runner's. ``attempts/NONCE`` names a process and its attempt
from before its start until its end is written; the process holds a lock on the file. ``ends/NONCE``
keeps an end until a dispatcher has written it to Redis. ``output/NONCE`` has what it printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuqueue.errors import SettingsError

#: The longest path of a unix socket: 108 bytes with the final zero (Linux), 104 elsewhere.
LONGEST_SOCKET = 103
#: Variables that tell nothing about how an application is imported.
_NOISE = frozenset(
    ("_", "PWD", "OLDPWD", "SHLVL", "INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "LS_COLORS")
)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The runtime directory of one runner."""

    path: Path

    @property
    def socket(self) -> Path:
        """The socket that the runner listens on."""
        return self.path / "sock"

    @property
    def lock(self) -> Path:
        """The file that the runner holds a lock on."""
        return self.path / "lock"

    @property
    def log(self) -> Path:
        """What the runner and the import of the application print."""
        return self.path / "log"

    def attempt(self, nonce: str) -> Path:
        """The file that names an attempt, which its process holds a lock on."""
        return self.path / "attempts" / nonce

    def end(self, nonce: str) -> Path:
        """The file of an end that is not written to Redis yet."""
        return self.path / "ends" / nonce

    def output(self, nonce: str) -> Path:
        """The file of what an attempt printed."""
        return self.path / "output" / nonce

    def attempts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield nonce and content of each attempt's file."""
        return _contents(self.path / "attempts")

    def ends(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield nonce and content of each end that is not written yet."""
        return _contents(self.path / "ends")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file at once or not at all."""
    new = path.with_name(f".{path.name}")
    new.write_text(json.dumps(content))
    new.rename(path)


def _contents(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            yield path.name, json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # it has just gone, or its writer died: then nothing was started


def base(setting: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds the runtime directories of this user.

    Args:
        setting: GPUQUEUE_RUNTIME_DIR.
        environ: has XDG_RUNTIME_DIR where the system gives each user a directory.
    """
    if setting:
        return Path(setting)
    if given := environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "gpuqueue"
    return Path(tempfile.gettempdir()) / f"gpuqueue-{os.getuid()}"


def prepare(folder: Path, key: str) -> Runtime:
    """Make the runtime directory of a runner, or use the one that is there.

    Raises :class:`SettingsError` if another user could read or change it, or it cannot be made.
    """
    fix = "set GPUQUEUE_RUNTIME_DIR to a directory that only this user can use"
    made = folder / key
    if len(os.fsencode(made / "sock")) > LONGEST_SOCKET:
        raise SettingsError(
            f"GPUQUEUE_RUNTIME_DIR={str(folder)!r} is too long for the path of a socket; use a"
            f" path of at most {LONGEST_SOCKET - len(key) - 6} bytes"
        )
    try:
        for each in (folder, made, *(made / name for name in ("attempts", "ends", "output"))):
            each.mkdir(mode=0o700, parents=each == folder, exist_ok=True)
            found = os.lstat(each)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise SettingsError(
                    f"GPUQUEUE_RUNTIME_DIR={str(folder)!r}: {each} belongs to user"
                    f" {found.st_uid}, not to {os.getuid()}; {fix}"
                )
            if stat.S_IMODE(found.st_mode) & 0o077:
                each.chmod(0o700)
    except OSError as exc:
        raise SettingsError(
            f"GPUQUEUE_RUNTIME_DIR={str(folder)!r} cannot be used: {exc}; {fix}"
        ) from exc
    return Runtime(made)


def key_of(version: str, command: str, environ: Mapping[str, str], directory: str) -> str:
    """Return the name of the runtime directory. A runner serves the dispatchers that would import
    the application in the same way: the same version, interpreter, environment and directory.
    """
    known = sorted((name, value) for name, value in environ.items() if name not in _NOISE)
    text = json.dumps([version, command, directory, known])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
