"""A process ends in time also where it can start no thread, or a thread dies as it begins."""

from __future__ import annotations

import subprocess
import sys

#: A process whose task has used up all threads, and whose interpreter would wait for one of them.
PROGRAM = """
import _thread, sys, threading, time
from gpuqueue.executor import leaving
threading.Thread(target=time.sleep, args=(60,)).start()
def start(*args):
    raise RuntimeError("can't start new thread")
def dies(self):
    raise MemoryError
if sys.argv[2] == "none":
    _thread.start_new_thread = threading.Thread.start = start
else:
    threading.Thread._bootstrap = dies  # what starts it waits for its begin, for ever
    threading.excepthook = sys.unraisablehook = lambda *_: None
leaving.end_within(60, 9) if sys.argv[1] == "in time" else leaving.leave_at_once(9)
"""


def left(how: str, threads: str = "none") -> int:
    command = [sys.executable, "-c", PROGRAM, how, threads]
    return subprocess.run(command, timeout=30, check=False).returncode


def test_a_process_without_a_thread_for_its_deadline_ends_at_once() -> None:
    assert left("in time") == 9


def test_a_process_without_a_thread_for_its_last_words_ends() -> None:
    assert left("at once") == 9


def test_a_process_whose_threads_die_as_they_begin_ends() -> None:
    assert left("at once", "dying") == 9
