"""The runtime directory: where the dispatchers and the runner of one user and application meet.

``sock``, ``lock`` and ``log`` are the runner's. ``attempts/NONCE`` names a process and its attempt
from its start until its end is known; the process holds a lock on the file. A process that goes on
to another attempt writes that there. ``ends/NONCE`` keeps an end until a dispatcher has written it
to Redis. ``output/NONCE`` has what the attempt printed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.local import output_file
from gpuqueue.model.executor_env import OF_JOB

#: The longest path of a unix socket: 108 bytes with the final zero (Linux), 104 elsewhere.
LONGEST_SOCKET = 103
#: Seconds for which an output is kept.
KEPT = 86_400.0
#: Seconds for which an end that no dispatcher has written is kept: dispatchers, or Redis, may be
#: away for days.
UNTOLD = 30 * 86_400.0
#: Variables that tell nothing about how an application is imported.
_NOISE = frozenset(
    (
        *("_", "PWD", "OLDPWD", "SHLVL", "LS_COLORS", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LINES", "COLUMNS", "TERM", "TERMCAP"),
        *("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "XDG_SESSION_ID", "WINDOWID"),
        *("TMUX", "TMUX_PANE", "STY", "WINDOW", "TERM_SESSION_ID", "SYSTEMD_EXEC_PID"),
    )
)
#: A variable of a runner whose place in its memory shows the variables of the attempt in each
#: executor that it forks, and how many bytes it has.
ROOM, ROOM_BYTES = "GPUQUEUE_ROOM", 4096
#: The stages of a runner.
IMPORTING, SERVING = "importing", "serving"
#: Bytes of a stage in the lock file.
_STAGE_BYTES = 80
_FIX = "set GPUQUEUE_RUNTIME_DIR to a directory that only this user can use"
_FOLDERS = ("attempts", "ends", "output")


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

    @property
    def has_runner(self) -> bool:
        """Whether a runner holds the lock: it serves, or imports the application."""
        try:
            with self.lock.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @staticmethod
    def stage(lock: int, stage: str) -> None:
        """Note how far the runner is, which holds the lock."""
        text = json.dumps({"pid": os.getpid(), "stage": stage})
        os.pwrite(lock, text.ljust(_STAGE_BYTES).encode(), 0)  # written over an earlier one

    @property
    def runner(self) -> tuple[int, str]:
        """The pid and the stage of the latest runner; 0 and empty if there was none."""
        try:
            found = json.loads(self.lock.read_text())
            return int(found["pid"]), str(found["stage"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""

    def attempt(self, nonce: str) -> Path:
        """The file that names an attempt, which its process holds a lock on."""
        return self.path / "attempts" / nonce

    def end(self, nonce: str) -> Path:
        """The file of an end that is not written to Redis yet."""
        return self.path / "ends" / nonce

    def output(self, nonce: str) -> Path:
        """The file of what an attempt printed."""
        return self.path / "output" / nonce

    def go_on(self, nonce: str, variables: Mapping[str, str]) -> None:
        """Note that a process has gone on to another attempt. It holds the lock on its file, which
        must stay the same one.
        """
        path = self.attempt(nonce)
        content = json.loads(path.read_text())
        kept = {each: value for each, value in content["variables"].items() if each not in OF_JOB}
        content["variables"] = kept | dict(variables)
        _overwrite(path, content)

    def keep_end(self, nonce: str, content: Mapping[str, Any]) -> None:
        """Make the file of an attempt that of its end, which needs no room on a full disk. Raises
        OSError.
        """
        try:
            _overwrite(self.attempt(nonce), content)
            self.attempt(nonce).rename(self.end(nonce))
        except FileNotFoundError:  # a dispatcher has removed it
            write(self.end(nonce), content)

    @contextlib.contextmanager
    def next_output(self, nonce: str) -> Iterator[int]:
        """Open another file for the output of a process, ``NONCE.next``; :meth:`renew_output` puts
        it in its place. Else it is removed.
        """
        path = self.output(nonce).with_name(f"{nonce}.next")
        opened = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield opened
        finally:
            os.close(opened)
            with contextlib.suppress(OSError):
                path.unlink()

    def whole_output(self, nonce: str) -> Path:
        """Give the output of a process another name, under which it stays as long as that of an
        ended attempt. Raises OSError.
        """
        output = self.output(nonce)
        path = output.with_name(f"{nonce}.{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            os.link(output_file.rotated(output), output_file.rotated(path))
        os.link(output, path)
        return path

    def renew_output(self, nonce: str) -> None:
        """Let the output of a process begin again in the file that :meth:`next_output` has opened.
        What is there moves to ``NONCE.1``, in place of what is there.
        """
        output = self.output(nonce)
        with contextlib.suppress(FileNotFoundError):
            output_file.rotated(output).unlink()
        with contextlib.suppress(FileNotFoundError):
            output.rename(output.with_name(f"{nonce}.1"))
        output.with_name(f"{nonce}.next").rename(output)

    def attempts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield nonce and content of each attempt's file."""
        return _contents(self.path / "attempts")

    def ends(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield nonce and content of each end that is not written yet."""
        return _contents(self.path / "ends")

    def rotate(self, most: int) -> None:
        """Bound the outputs of running attempts: see :mod:`.output_file`."""
        for nonce, _ in self.attempts():
            with contextlib.suppress(OSError):
                output_file.bound(self.output(nonce), most)

    def forget_old(self) -> None:
        """Remove ends and outputs of long ago. Those of running attempts stay."""
        running = {nonce for nonce, _ in self.attempts()}
        for folder, kept in (("ends", UNTOLD), ("output", KEPT)):
            for path in list((self.path / folder).iterdir()):
                with contextlib.suppress(OSError):
                    old = time.time() - path.stat().st_mtime > kept
                    if old and path.name.partition(".")[0] not in running:
                        path.unlink()


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file at once or not at all."""
    new = path.with_name(f".{path.name}")
    new.write_text(json.dumps(content))
    new.rename(path)


def _overwrite(path: Path, content: Mapping[str, Any]) -> None:
    held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # A shorter text must cover the longer one.
        os.pwrite(held, json.dumps(content).encode().ljust(os.fstat(held).st_size), 0)
    finally:
        os.close(held)


def read(path: Path) -> dict[str, Any] | None:
    """Return the content of a file; None if there is none, or its writer has just begun."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("instance") else None


def _contents(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and (content := read(path)) is not None:
            yield path.name, content


def base(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds the runtime directories of this user: GPUQUEUE_RUNTIME_DIR,
    or below XDG_RUNTIME_DIR where the system gives each user a directory. Raises
    :class:`SettingsError` if there is none.
    """
    if setting := environ.get("GPUQUEUE_RUNTIME_DIR"):
        return Path(setting)
    if given := environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "gpuqueue"
    try:
        return Path(tempfile.gettempdir()) / f"gpuqueue-{os.getuid()}"
    except FileNotFoundError as exc:
        raise SettingsError(f"GPUQUEUE_RUNTIME_DIR is not set, and {exc}; {_FIX}") from exc


def all_of(folder: Path) -> Iterator[Runtime]:
    """Yield every runtime directory below the base: those of other runners, too."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            named = not path.name.startswith(".")  # else it is being removed
            if named and all((path / name).is_dir() for name in _FOLDERS):
                yield Runtime(path)


def prepare(folder: Path, key: str) -> Runtime:
    """Make the runtime directory of a runner, or use the one that is there.

    Raises :class:`SettingsError` if another user could read or change it, or it cannot be made.
    """
    made = folder / key
    if len(os.fsencode(made / "sock")) > LONGEST_SOCKET:
        raise SettingsError(
            f"GPUQUEUE_RUNTIME_DIR={str(folder)!r} is too long for the path of a socket; use a"
            f" path of at most {LONGEST_SOCKET - len(key) - 6} bytes"
        )
    try:
        _make(folder, folder)
        with guard(folder):
            for each in (made, *(made / name for name in _FOLDERS)):
                _make(each, folder)
            os.utime(made)  # it is in use
    except OSError as exc:
        raise SettingsError(
            f"GPUQUEUE_RUNTIME_DIR={str(folder)!r} cannot be used: {exc}; {_FIX}"
        ) from exc
    return Runtime(made)


def _make(path: Path, folder: Path) -> None:
    path.mkdir(mode=0o700, parents=path == folder, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SettingsError(
            f"GPUQUEUE_RUNTIME_DIR={str(folder)!r}: {path} belongs to user {found.st_uid}, not to"
            f" {os.getuid()}; {_FIX}"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


@contextlib.contextmanager
def guard(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the lock of all runtime directories: those who make one share it, who removes some has
    it ``alone``. Raises BlockingIOError if another one removes some.
    """
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def key_of(version: str, command: Sequence[str], environ: Mapping[str, str], folder: str) -> str:
    """Return the name of the runtime directory. A runner serves the dispatchers that would import
    the application in the same way: the same version, command, environment and working directory.
    """
    known = sorted((name, value) for name, value in environ.items() if name not in _NOISE)
    text = json.dumps([version, list(command), folder, known])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
