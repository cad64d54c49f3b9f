"""Commands of ``gpuqueue`` and ``celery`` in a new process, without the time that imports take.

One process for each worker of pytest-xdist has imported all commands, and forks for each call.
Environment, folder, arguments and output of a call are its own. ``gpuqueue.celery``, which reads
settings when it is imported, is not among the imports.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

from gpuqueue.cli import COMMANDS
from tests.support.waiting import PATIENCE

#: Bytes of a call: its arguments and its environment.
LARGEST = 1 << 20
#: What commands import late, and what ``celery`` and ``gpuqueue.celery`` import.
LATER = (
    "gpuqueue.launchers.kubernetes.assemble",
    "gpuqueue.dispatcher.assemble",
    "celery.bin.celery",
    "celery.apps.worker",
)


class _Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.command_line", str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def call(self, order: bytes, output: tuple[int, int], timeout: float) -> int:
        """Run one command; return its exit status."""
        socket.send_fds(self._ours, [order], list(output))
        self._ours.settimeout(timeout)
        answer = self._ours.recv(LARGEST)
        assert answer, f"the process that forks commands ended with {self.process.wait(PATIENCE)}"
        return int(answer)

    def stop(self) -> None:
        """End it, with the command that it runs."""
        self._ours.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


_lock = threading.Lock()
_server: _Server | None = None


def run_command(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout: float = 60.0,
    module: str = "gpuqueue.cli",
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE WORDS`` as ``subprocess.run`` would, with its output captured."""
    global _server
    call = {"module": module, "words": list(words), "env": dict(env), "cwd": str(cwd or Path.cwd())}
    order = json.dumps(call)
    with _lock, TemporaryFile() as out, TemporaryFile() as err:
        if _server is None:
            _server = _Server()
        try:
            status = _server.call(order.encode(), (out.fileno(), err.fileno()), timeout)
        except TimeoutError:
            _end()
            raise subprocess.TimeoutExpired(list(words), timeout, _text(out), _text(err)) from None
        return subprocess.CompletedProcess(list(words), status, _text(out), _text(err))


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode()


def end_commands() -> None:
    """End the process that forks, where there is one."""
    with _lock:
        _end()


def _end() -> None:
    global _server
    if _server is not None:
        _server.stop()
        _server = None


# -- in the process that forks ---------------------------------------------------------------------


def _serve(orders: socket.socket) -> None:
    for module, _, _ in COMMANDS.values():
        importlib.import_module(module)
    for module in LATER:
        importlib.import_module(module)
    assert "gpuqueue.celery" not in sys.modules
    gc.collect()
    gc.freeze()
    while True:
        order, output, _, _ = socket.recv_fds(orders, LARGEST, 2)
        if not order:
            return  # the tests have ended
        pid = os.fork()
        if not pid:
            orders.close()
            _become(json.loads(order), output)
        for each in output:
            os.close(each)
        _, status = os.waitpid(pid, 0)
        orders.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(order: dict[str, Any], output: list[int]) -> NoReturn:
    """Be ``python -m MODULE``."""
    code: object = 1
    try:
        for number, each in enumerate(output, start=1):
            os.dup2(each, number)
            os.close(each)
        os.environ.clear()
        os.environ.update(order["env"])
        time.tzset()
        os.chdir(order["cwd"])
        sys.path[:0] = ["", *filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))]
        sys.argv = [order["module"], *order["words"]]
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exc:
        code = exc.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
