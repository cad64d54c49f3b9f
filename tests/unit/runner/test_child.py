"""What a forked executor has of its runner, and what it has not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.launchers.local.runtime import ROOM, ROOM_BYTES

#: Forks a child that runs ``body``; prints its exit status.
PARENT = """
import os, signal, sys
from gpuqueue.runner import child
{before}
private = os.open(os.devnull, os.O_RDONLY)
def run():
{body}
output = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
pid = child.fork(run, close=[private], output=output)
{after}
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
os._exit(0)
"""


def forked(
    tmp_path: Path, body: str, before: str = "", after: str = "", **env: str
) -> tuple[int, str]:
    """The exit status and output of a child."""
    output = tmp_path / "output"
    program = PARENT.format(body=textwrap.indent(body, "    "), before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", program, str(output)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", **env},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout), output.read_text()


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("print('done')", 0, "done\n"),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('why')", 1, "why\n"),
        ("os._exit(9)", 9, ""),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
        ("import atexit; atexit.register(print, 'at exit')", 0, "at exit\n"),
    ],
)
def test_child_ends_as_a_process_does(tmp_path: Path, body: str, code: int, text: str) -> None:
    assert forked(tmp_path, body) == (code, text)


def test_error_does_not_return_into_the_parent(tmp_path: Path) -> None:
    code, text = forked(tmp_path, "raise ValueError('broken')")
    assert (code, "ValueError: broken" in text) == (70, True)


def test_child_has_no_descriptor_and_no_handler_of_its_parent(tmp_path: Path) -> None:
    before = "for n in (15, 2, 1): signal.signal(n, lambda *a: print('the parent', flush=True))"
    body = """
try: os.fstat(private)
except OSError: print("closed")
print([signal.getsignal(n) is signal.SIG_DFL for n in (15, 1)])
print(signal.getsignal(2) is signal.default_int_handler, signal.pthread_sigmask(0, []))
print(os.getsid(0) == os.getpid())
"""
    code, text = forked(tmp_path, body, before)
    assert (code, text) == (0, "closed\n[True, True]\nTrue set()\nTrue\n")


def test_threads_are_awaited_at_the_end(tmp_path: Path) -> None:
    body = "import threading; threading.Timer(0.2, print, ['late']).start()"
    assert forked(tmp_path, body) == (0, "late\n")


def test_random_numbers_differ_from_child_to_child(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    before = "import random, numpy.random; random.seed(1); numpy.random.seed(1)"
    body = "print(random.random(), numpy.random.rand())"
    found = {
        forked(tmp_path / name, body, before)[1] for name in ("a", "b") if _made(tmp_path, name)
    }
    first, second = (each.split() for each in found)
    assert first[0] != second[0] and first[1] != second[1]


def _made(tmp_path: Path, name: str) -> bool:
    (tmp_path / name).mkdir()
    return True


def test_system_shows_the_environment_of_the_attempt(tmp_path: Path) -> None:
    body = """
child.show_environment({"GPUQUEUE_TOKEN": "secret", "GPUQUEUE_TASK": "ä.b"})
os.environ["GPUQUEUE_TOKEN"] = "secret"
import json, subprocess
own = open("/proc/self/environ", "rb").read().decode().split("\\0")
below = subprocess.run(["env"], capture_output=True, text=True).stdout.split("\\n")
print(json.dumps([own, below, sorted(os.environ)]))
"""
    env = {ROOM: " " * ROOM_BYTES, "BEFORE": "1", "ZZZ": "2"}
    code, text = forked(tmp_path, body, **env)
    found: Any = json.loads(text)
    own, below, known = found
    assert code == 0
    assert {"GPUQUEUE_TOKEN=secret", "GPUQUEUE_TASK=ä.b", "BEFORE=1", "ZZZ=2"} <= set(own)
    assert {"GPUQUEUE_TOKEN=secret", "BEFORE=1", "ZZZ=2"} <= set(below)
    assert not [each for each in below if each.startswith(ROOM)] and ROOM not in known


def test_variables_without_room_are_not_shown(tmp_path: Path) -> None:
    body = 'child.show_environment({"A": "x" * 100}); print(os.environ["BEFORE"])'
    assert forked(tmp_path, body, BEFORE="1", **{ROOM: " " * 10}) == (0, "1\n")
