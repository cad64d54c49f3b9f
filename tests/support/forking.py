"""``python -m`` of ``gpuqueue.cli``, ``celery`` and ``gpuqueue.executor`` without the time that
imports take.

One process for each worker of pytest-xdist has imported what all of them need, and forks for each
start. Environment, folder, arguments, output and session of a start are its own.
``gpuqueue.celery``, which reads settings when it is imported, is not among the imports.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpuqueue.cli import COMMANDS
from gpuqueue.store import scripts
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
#: Bytes of a start: its arguments and its environment.
LARGEST = 1 << 20
#: What commands import late, and what ``celery``, ``gpuqueue.celery`` and executors import.
LATER = (
    "gpuqueue.executor.main",
    "gpuqueue.runner.pod",
    "gpuqueue.launchers.kubernetes.assemble",
    "gpuqueue.dispatcher.assemble",
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "gpuqueue.glue.worker.consumer",
    "gpuqueue.glue.worker.control",
    "gpuqueue.glue.worker.heartbeat",
    "gpuqueue.glue.worker.intake_step",
    "gpuqueue.glue.worker.queues",
)
#: What a folder of PYTHONPATH may have in place of what is imported here → who has imported it.
REPLACED = {"pynvml": "gpuqueue.nvidia.devices"}


class Forked:
    """A process that was forked, to be used as ``subprocess.Popen`` is."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = self._next(PATIENCE)

    def poll(self) -> int | None:
        """Return its status, or None while it runs."""
        with contextlib.suppress(BlockingIOError):
            self._wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its status; raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        try:
            return self._wait(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None

    def send_signal(self, number: int) -> None:
        """Signal it, where it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int:
        with self._lock:
            if self.returncode is None:
                self.returncode = self._next(timeout)
                self._told.close()
            return self.returncode

    def _next(self, timeout: float | None) -> int:
        self._told.settimeout(timeout)
        number = self._told.recv(64)
        assert number, "the process that forks has ended"
        return int(number)


class _Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self, order: bytes, output: tuple[int, int]) -> Forked:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._orders, [order], [*output, theirs.fileno()])
        return Forked(ours)

    def stop(self) -> None:
        self._orders.close()
        self.process.kill()
        self.process.wait(PATIENCE)


_lock = threading.Lock()
_server: _Server | None = None


def start_forked(
    module: str,
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: tuple[int, int],
) -> Forked:
    """Start ``python -m MODULE WORDS`` in a new session; ``output`` are the descriptors of its
    output and of its errors, and it has no input.
    """
    global _server
    order = {"module": module, "words": list(words), "env": dict(env), "cwd": str(cwd)}
    with _lock:
        if _server is None:
            _server = _Server()
        return _server.start(json.dumps(order).encode(), output)


def end_forking() -> None:
    """End the process that forks, where there is one. What it has forked goes on."""
    global _server
    with _lock:
        if _server is not None:
            _server.stop()
            _server = None


# -- in the process that forks ---------------------------------------------------------------------


def _serve(orders: socket.socket) -> None:
    for module, _, _ in COMMANDS.values():
        importlib.import_module(module)
    for module in LATER:
        importlib.import_module(module)
    scripts.read()
    assert not {"gpuqueue.celery", "torch"} & sys.modules.keys()
    gc.collect()
    gc.freeze()
    woken, wake = socket.socketpair()
    for each in (woken, wake):
        each.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ends(running)
        if orders not in ready:
            continue
        order, descriptors, _, _ = socket.recv_fds(orders, LARGEST, 3)
        if not order:
            return  # the tests have ended
        *output, teller = descriptors
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(teller)
            for each in (orders, woken, wake, *running.values()):
                each.close()
            _become(json.loads(order), output)
        for descriptor in output:
            os.close(descriptor)
        running[pid] = socket.socket(fileno=teller)
        _tell(running[pid], pid)


def _tell_ends(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as teller:
            _tell(teller, os.waitstatus_to_exitcode(status))


def _tell(teller: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # its caller has ended
        teller.send(str(number).encode())


def _become(order: dict[str, Any], output: list[int]) -> NoReturn:
    """Be ``python -m MODULE``."""
    code: object = 1
    try:
        os.setsid()
        for number, each in enumerate(output, start=1):
            os.dup2(each, number)
            os.close(each)
        os.environ.clear()
        os.environ.update(order["env"])
        time.tzset()
        os.chdir(order["cwd"])
        if "PYTHONUNBUFFERED" in os.environ:
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        paths = [*filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))]
        sys.path[:1] = [order["cwd"], *paths]  # in place of the folder of this checkout
        for name, importer in REPLACED.items():
            if importlib.machinery.PathFinder.find_spec(name, paths):
                del sys.modules[name]
                importlib.reload(sys.modules[importer])
        sys.argv = [order["module"], *order["words"]]
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exc:
        code = exc.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    # What Python does at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
