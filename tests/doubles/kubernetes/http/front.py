"""A listening port of 127.0.0.1, with a thread for each connection.

It uses sockets and no HTTP library, because a double must do what servers avoid: reset a
connection before or after it carried out the request, leave a connection open in silence, close its
port during requests, and lose what is sent.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.doubles.kubernetes.http.connection import Connection, Cut
from tests.doubles.kubernetes.http.messages import Request, Response

_BACKLOG = 128


class Front:
    """A port that listens. The thread of each connection calls ``handle`` with every request.

    Args:
        handle: returns the response to a request, or raises :class:`Cut`.
        port: the port; 0 takes a free one. :meth:`down` and :meth:`up` keep it.
    """

    def __init__(self, handle: Callable[[Request, Connection], Response], port: int = 0) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._passes = threading.Event()
        self._passes.set()
        self.port = port
        self.up()

    @property
    def is_up(self) -> bool:
        """Whether it accepts connections."""
        return self._listener is not None

    def up(self) -> None:
        """Open the port."""
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

    def drop(self) -> None:
        """Drop the packets of both directions: connections are accepted, and none is answered.

        What is not sent waits, as TCP repeats it, until :meth:`let_through`.
        """
        self._passes.clear()

    def let_through(self) -> None:
        """End :meth:`drop`. A request whose client is gone by then is not carried out."""
        self._passes.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(client, self._passes)
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
        except OSError:  # the client went away, or the server cut it off
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: Connection, request: Request) -> None:
        if not connection.gets_through():
            raise Cut
        response = self._handle(request, connection)
        connection.send(response, with_body=request.method != "HEAD")
        if response.stream is not None:
            response.stream(connection.chunk)
            connection.end_stream()
