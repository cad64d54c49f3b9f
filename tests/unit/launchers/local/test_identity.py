"""What a process is known by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gpuqueue.launchers.local.identity import Instance, Process, machine, start_of
from gpuqueue.launchers.local.marked import end_marked
from tests.support.waiting import PATIENCE


def test_process_runs_until_it_ends_also_as_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        assert [process.runs, process.is_here] == [True, True]
        assert not Process(process.machine, child.pid, "1").runs, "another had its pid before"
        assert process.signal("KILL")
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert [process.runs, start_of(child.pid), Process.of(child.pid)] == [False, "", None]
    assert child.returncode == -signal.SIGKILL
    assert process.signal("TERM") is False


def test_process_with_a_strange_name_is_read() -> None:
    program = "import ctypes, signal; ctypes.CDLL(None).prctl(15, b'a) R 1 (b', 0, 0, 0);"
    program += "print(flush=True); signal.pause()"
    command = [sys.executable, "-S", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        before = start_of(child.pid)
        assert child.stdout and child.stdout.readline()
        assert start_of(child.pid) == before != ""
        child.kill()


def test_processes_that_an_attempt_left_end_under_any_name() -> None:
    program = "import ctypes, signal; ctypes.CDLL(None).prctl(15, b'Gr\\xc3', 0, 0, 0);"
    program += "print(flush=True); signal.pause()"
    command = [sys.executable, "-S", "-c", program]
    marked = {"GPUQUEUE_INSTANCE": "host:0123456789abcdef~m.1:1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=marked) as child:
        assert child.stdout and child.stdout.readline()
        assert end_marked("0123456789abcdef")
        assert child.wait(PATIENCE) == -signal.SIGKILL


def test_instance_is_written_and_parsed() -> None:
    one = Instance("a.host", "0123", Process(machine(), 42, "77"))
    assert Instance.parse(str(one)) == one
    assert str(one).endswith(":42"), "the last part is the pid, as before"


@pytest.mark.parametrize("text", ["", "host:nonce:1", "host:nonce~m.1:x", "h:~m.1:1", "ns/job/x"])
def test_text_that_is_no_instance_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:NONCE"):
        Instance.parse(text)
