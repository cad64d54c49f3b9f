"""A server that speaks the protocol of Redis and answers what a test says."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from types import TracebackType

#: The answers that each connection needs first.
_HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
OK = b"+OK\r\n"
#: An answer that ends the connection instead.
CLOSE = b""

Answer = Callable[[list[str]], bytes]


class ScriptedRedis:
    """A context manager. ``answer`` gets the words of each command and returns the reply.

    Pings, and what clients send when they connect, are answered here.
    """

    def __init__(self, answer: Answer) -> None:
        self.commands: list[list[str]] = []
        self.connected = 0
        self.open = 0
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.connected += 1
                outer.open += 1
                try:
                    while words := self._command():
                        reply = outer._reply(words, answer)
                        if reply == CLOSE:
                            return
                        self.wfile.write(reply)
                except ConnectionError:
                    pass
                finally:
                    outer.open -= 1

            def _command(self) -> list[str]:
                head = self.rfile.readline()
                words = []
                for _ in range(int(head[1:] or 0)):
                    size = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(size + 2)[:-2].decode())
                return words

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"redis://127.0.0.1:{self._server.server_address[1]}/0"

    def _reply(self, words: list[str], answer: Answer) -> bytes:
        if words[0] == "HELLO":
            return _HELLO
        if words[0] in ("CLIENT", "PING"):
            return OK if words[0] == "CLIENT" else b"+PONG\r\n"
        self.commands.append(words)
        return answer(words)

    def __enter__(self) -> ScriptedRedis:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
