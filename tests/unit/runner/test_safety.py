"""Where an application must not be forked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def said(program: str) -> str:
    """What a process that has run a program says of itself."""
    whole = (
        f"{program}\nfrom gpuqueue.runner import safety\nsafety.settle()\nprint(safety.unsafe())"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_process_with_one_thread_may_fork() -> None:
    assert said("") == ""


def test_threads_of_python_are_named() -> None:
    program = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), name='pump', daemon=True).start()"
    )
    assert said(program) == "the application started 1 threads when it was imported: pump"


def test_threads_of_openblas_end_at_a_fork() -> None:
    pytest.importorskip("numpy")
    assert said("import numpy\na = numpy.ones((600, 600))\na @ a") == ""


def test_open_gpu_is_named(tmp_path: Path) -> None:
    device = tmp_path / "nvidia-uvm"
    device.touch()
    program = (
        "from gpuqueue.runner import safety\n"
        f"safety._GPUS = ({str(tmp_path)!r},)\nopened = open({str(device)!r})"
    )
    assert said(program) == f"the application opened {device} when it was imported"


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "fork"), ("select", "select"), ("selectors", "DefaultSelector"), ("socket", "socket")],
)
def test_a_function_of_another_event_loop_is_named(module: str, name: str) -> None:
    program = f"import {module}\nclass Other: pass\n{module}.{name} = Other"
    why = f"the application replaced {module}.{name} by that of __main__"
    assert said(program) == why


def test_a_process_with_a_socket_of_another_kind_may_fork() -> None:
    program = "import socket\nclass Proxied(socket.socket): pass\nsocket.socket = Proxied"
    assert said(program) == ""
