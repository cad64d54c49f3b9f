"""A TCP gate before a server: it gives its clients one source address, and may end TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType

HOST = "127.0.0.1"


class Gate:
    """Forwards connections to a port of this machine; a context manager.

    ``source`` is the address that the server sees, ``context`` ends TLS here (the embedded Redis
    has no TLS).
    """

    def __init__(
        self, port: int, *, source: str = HOST, context: ssl.SSLContext | None = None
    ) -> None:
        self._to = port
        self._source = source
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    def __enter__(self) -> Gate:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._pass, HOST, 0, ssl=self._context), self._loop
        ).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        while self._open:  # each handler ends when its two ends have
            await asyncio.sleep(0.01)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(
                HOST, self._to, local_addr=(self._source, 0)
            )
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        try:
            await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))
        finally:
            for each in (writer, up_writer):
                each.transport.abort()
            self._open.discard(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # The end of one direction ends both: a client that is gone must be gone for the server, too.
    with contextlib.suppress(OSError, ssl.SSLError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.transport.abort()
