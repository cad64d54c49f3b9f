"""Child processes of a foreground command: each ends with its owner, even if the owner is killed.

On Linux the kernel sends the death signal when the *thread* that started the child ends, so a
thread of this module lives as long as the child (as in embedded_redis.py). On other systems only
an orderly end of the owner stops the child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

#: Bytes of a child's log that an error quotes.
LOG_TAIL = 3000

# Runs in the new process, which then becomes the child; embedded_redis.py says why it is not a
# preexec_fn.
_BECOME = """\
import os, sys
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[2]), 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the owner has gone")
os.execv(sys.argv[3], sys.argv[3:])
"""


class Child:
    """One child, started at once. Raises OSError if the start fails.

    Args:
        name: its name in messages.
        command: the program (absolute path) and its arguments.
        env: its whole environment.
        log: the file that its output is appended to; None for the owner's output.
        death_signal: the signal from the kernel when the owner dies; None lets it outlive the
            owner.
        leash: whether its standard input is a pipe that closes when the owner dies or calls
            ``stop``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        log: Path | None = None,
        death_signal: signal.Signals | None = signal.SIGTERM,
        leash: bool = False,
    ) -> None:
        self.name = name
        self.ended = threading.Event()
        self._log = log
        self._log_start = log.stat().st_size if log and log.exists() else 0
        started: Future[subprocess.Popen[bytes]] = Future()
        become = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _BECOME,
            str(os.getpid()),
            str(int(death_signal or 0)),
            *command,
        ]
        threading.Thread(
            target=self._run,
            args=(become, dict(env), leash, started),
            name=f"child-{name}",
            daemon=True,
        ).start()
        self._process = started.result()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status (minus the signal that killed it); None while it runs."""
        return self._process.returncode if self.ended.is_set() else None

    def stop(self, seconds: float, how: signal.Signals = signal.SIGTERM) -> bool:
        """Send ``how``, then SIGKILL after ``seconds``. Return whether SIGKILL was unnecessary.

        May be repeated.
        """
        if self._process.stdin:
            self._process.stdin.close()
        elif not self.ended.is_set():
            self._process.send_signal(how)
        if self.ended.wait(seconds):
            return True
        self._process.kill()
        self.ended.wait(seconds)
        return False

    def tail(self) -> str:
        """Return the end of its log; "" without one."""
        if self._log is None or not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LOG_TAIL))
            return log.read().decode(errors="replace").strip()

    def _run(
        self,
        command: list[str],
        env: dict[str, str],
        leash: bool,
        started: Future[subprocess.Popen[bytes]],
    ) -> None:
        try:
            log = self._log.open("ab") if self._log else None
            try:
                # In a new session: Ctrl-C in the terminal reaches only the owner, which stops its
                # children in order.
                process = subprocess.Popen(
                    command,
                    env=env,
                    stdin=subprocess.PIPE if leash else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            finally:
                if log:
                    log.close()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()
        self.ended.set()
