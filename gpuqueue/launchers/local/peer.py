"""Who is at the other end of a unix socket."""

from __future__ import annotations

import os
import socket
import struct

#: pid, uid and gid of the process at the other end.
_CREDENTIALS = struct.Struct("3i")


def user_of(connection: socket.socket) -> int:
    """Return the user of the process at the other end; our own on a system that does not tell:
    there, only the mode of the directory protects the socket.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(found)[1]
    return user
