"""A TCP proxy between the processes under test and Redis. It cuts, freezes, swallows answers, and
leads to another server after a change of roles.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

HOST = "127.0.0.1"
_CHUNK = 65536


class Proxy:
    """Forwards to ``target``, a port of this machine. Its methods may be called by any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        #: New connections are closed at once.
        self.refuses = False
        self._flows, self._answers = asyncio.Event(), asyncio.Event()
        self._flows.set()
        self._answers.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, HOST, 0), self._loop
        ).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset every connection."""
        self._do(self._cut)

    def freeze(self, frozen: bool) -> None:
        """Pass nothing on, in either direction; connections stay."""
        self._do(self._flows.clear if frozen else self._flows.set)

    def lose(self) -> None:
        """Open connections pass nothing on from now on, without a word; new ones do."""

        def replace() -> None:
            self._flows.clear()
            self._flows = asyncio.Event()
            self._flows.set()

        self._do(replace)

    def hold_answers(self, held: bool) -> None:
        """Pass commands on, and no answers."""
        self._do(self._answers.clear if held else self._answers.set)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(10)

    def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        ends = {writer}
        self._open.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(HOST, self.target)
            ends.add(up_writer)
            self._open.add(up_writer)
            await asyncio.gather(
                self._pass(reader, up_writer, None), self._pass(up_reader, writer, self._answers)
            )
        except OSError:
            pass  # the server is not there
        finally:
            for each in ends:
                each.transport.abort()
            self._open -= ends

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event | None,
    ) -> None:
        flows = self._flows
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await flows.wait()
                if gate is not None:
                    await gate.wait()
                writer.write(chunk)
                await writer.drain()
        # The end of one direction ends both.
        writer.transport.abort()
