"""HTTP on 127.0.0.1: a port, a thread for each connection, and a front that can go down with every
connection cut.

It is written on sockets because a double must be able to do what servers avoid: reset a connection
before or after a request was carried out, leave one open in silence, and close its port while
requests are under way.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.doubles.kubernetes.http.connection import Connection, Cut
from tests.doubles.kubernetes.http.messages import Answer, Request

_BACKLOG = 128


class Front:
    """A listening port; each connection has a thread, in which ``handle`` is called with every
    request.

    Args:
        handle: answers a request, or raises :class:`Cut`.
        port: 0 takes any that is free; it stays the same over :meth:`down` and :meth:`up`.
    """

    def __init__(self, handle: Callable[[Request, Connection], Answer], port: int = 0) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self.port = port
        self.up()

    @property
    def is_up(self) -> bool:
        """Whether it takes connections."""
        return self._listener is not None

    def up(self) -> None:
        """Listen."""
        with self._lock:
            if self._listener is not None:
                return
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(_BACKLOG)
            self.port = listener.getsockname()[1]
            self._listener = listener
        threading.Thread(
            target=self._accept, args=(listener,), name="cluster-front", daemon=True
        ).start()

    def down(self) -> None:
        """Close the port and reset every connection."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections = list(self._connections)
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
            listener.close()
        for connection in connections:
            connection.reset()

    def cut(self) -> None:
        """Reset every connection, and go on listening."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.reset()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(client)
            with self._lock:
                if self._listener is not listener:
                    connection.reset()
                    connection.close()
                    return
                self._connections.add(connection)
            threading.Thread(
                target=self._serve, args=(connection,), name="cluster-client", daemon=True
            ).start()

    def _serve(self, connection: Connection) -> None:
        try:
            while (request := connection.request()) is not None:
                self._answer(connection, request)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except Cut:
            connection.reset()
        except OSError:  # the client went away, or we cut it off
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: Connection, request: Request) -> None:
        answer = self._handle(request, connection)
        connection.send(answer, with_body=request.method != "HEAD")
        if answer.stream is not None:
            answer.stream(connection.chunk)
            connection.end_stream()
