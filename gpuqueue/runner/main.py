"""The entry point of a runner: ``python -m gpuqueue.runner DIRECTORY``.

The environment is that of the dispatcher that starts it, which is also that of its application:
see :mod:`gpuqueue.launchers.local.runtime` for the directory. A second runner of a directory ends
at once, with exit status 0.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from gpuqueue.launchers.local.runtime import IMPORTING, ROOM, SERVING, Runtime
from gpuqueue.model.executor_env import START

#: Tells a runner that has begun again why its executors are spawned.
WHY_SPAWN = "GPUQUEUE_WHY_SPAWN"


def main(argv: list[str]) -> int:
    """Be the runner of a directory; return the exit status. More arguments are the command of the
    executor, in place of ``python -m gpuqueue.executor``.
    """
    if not argv:
        sys.stderr.write("usage: python -m gpuqueue.runner DIRECTORY [COMMAND...]\n")
        return os.EX_USAGE
    runtime = Runtime(Path(argv[0]))
    if (lock := _lock(runtime)) < 0:
        return 0
    # Only the one that has the lock pays for the imports.
    from gpuqueue.executor.redis_of import forget_default
    from gpuqueue.runner import safety
    from gpuqueue.runner.parent import load, shut_down
    from gpuqueue.runner.server import Server

    # A dispatcher reads it where this process dies.
    runtime.stage(lock, IMPORTING)
    forget_default(os.environ)
    why_spawn = os.environ.pop(WHY_SPAWN, "")
    environ = {name: value for name, value in os.environ.items() if name != ROOM}
    folder = Path.cwd()
    parent = load(environ, why_spawn)
    if environ.get(START) != "spawn" and (why := safety.replaced()):
        _begin_again(argv, folder, {**environ, START: "spawn", WHY_SPAWN: why})
    if (lock := _held(runtime, lock)) < 0:
        return 0
    runtime.stage(lock, SERVING)
    server = Server(runtime, parent, environ, lock=lock, command=argv[1:])
    server.serve()
    server.close()
    shut_down(environ, 0, server.stopped_by)
    return 0


def _lock(runtime: Runtime) -> int:
    """Lock a directory; return the descriptor, negative if another runner has it."""
    lock = os.open(runtime.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return -1
    return lock


def _held(runtime: Runtime, lock: int) -> int:
    """Return the descriptor of the lock; negative: another runner has it. An application may have
    closed all descriptors when it was imported, as a daemon does.
    """
    with suppress(OSError):
        if os.path.samestat(os.fstat(lock), runtime.lock.stat()):
            return lock
    return _lock(runtime)


def _begin_again(argv: list[str], folder: Path, environ: dict[str, str]) -> NoReturn:
    """Become a runner that has not imported the application. The lock is free until that has it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(folder)  # the application may have left it
    os.execve(sys.executable, [sys.executable, "-m", "gpuqueue.runner", *argv], environ)


def run() -> None:
    """Run the runner, and leave without taking the application apart."""
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
