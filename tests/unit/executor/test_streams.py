"""What is printed reaches no connection, also where standard output was closed."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Closes descriptors, as a daemon does, and opens a connection.
PROGRAM = """
import os, socket, sys
from gpuqueue.executor import streams
closed = {closed}
for each in closed:
    os.close(each)
streams.fill()
ours, _ = socket.socketpair()
inherited = all(os.get_inheritable(each) for each in range(3))
os._exit(0 if ours.fileno() > 2 and inherited else 1)
"""


@pytest.mark.parametrize("closed", [(), (1,), (0, 2), (0, 1, 2)], ids=str)
def test_a_connection_is_never_standard_output(closed: tuple[int, ...]) -> None:
    program = PROGRAM.format(closed=closed)
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
