"""Ask a runner what it is, without an attempt to start."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from gpuqueue.launchers.local import wire
from gpuqueue.launchers.local.peer import user_of
from gpuqueue.launchers.local.runtime import Runtime

#: Seconds that a runner has to answer.
WITHIN = 2.0


def greeting(runtime: Runtime) -> Mapping[str, Any] | None:
    """Return what the runner of a directory says of itself; None if there is none that answers."""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError, wire.Malformed):
        connection.settimeout(WITHIN)
        connection.connect(str(runtime.socket))
        lines = wire.Lines()
        while user_of(connection) == os.getuid() and (data := connection.recv(1 << 16)):
            for message in lines.feed(data):
                return message if message["is"] == "hello" else None
    return None
