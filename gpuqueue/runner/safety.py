"""Whether this process may fork executors: threads and open GPUs do not survive a fork."""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import selectors
import signal
import socket
import sys
import threading

#: An open file of these means that the application has opened a GPU. NVML opens /dev/nvidiactl
#: too, which a fork does no harm.
_GPUS = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/render")


def unsafe() -> str:
    """Return why this process must not fork an executor; empty if it may.

    The answer holds for this moment: a library may start threads at its first call.
    """
    if why := replaced():
        return why
    if sys.platform != "linux":
        return f"forking is not safe on {sys.platform}"
    if (count := len(os.listdir("/proc/self/task"))) > 1:  # noqa: PTH208 - at each start
        names = [each.name for each in threading.enumerate() if each.name != "MainThread"]
        of = f": {', '.join(names)}" if names else " of native libraries"
        return f"the application started {count - 1} threads when it was imported{of}"
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            opened = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
            if opened.startswith(_GPUS):
                return f"the application opened {opened} when it was imported"
    return ""


def replaced() -> str:
    """Return what gevent, or a library like it, has put in place of the functions of the system:
    its event loop serves neither a runner nor what is forked from it. Empty: nothing.
    """
    for name, used, kept in (
        ("os.fork", os.fork, os.fork.__module__ == "posix"),
        ("select.select", select.select, select.select.__module__ == "select"),
        ("socket.socket", socket.socket, issubclass(socket.socket, _socket.socket)),
        (
            "selectors.DefaultSelector",
            selectors.DefaultSelector,
            selectors.DefaultSelector.__module__ == "selectors",
        ),
    ):
        if not kept:
            return f"the application replaced {name} by that of {used.__module__}"
    return ""


def settle() -> None:
    """Fork once: OpenBLAS ends its threads at a fork, and starts them again where it needs them.
    From here on this process reaps its children itself, also if the application had them reaped.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform != "linux" or replaced():
        return
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
