"""The connection of one client: HTTP/1.1 over a socket that can also be reset or left silent."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.http.messages import Request, Response

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_HEAD_LIMIT = 64 * 1024
#: Seconds between two checks whether the client of a connection without packets is gone.
CHECK = 0.05
_RESET = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The server resets the connection without a response."""


class Connection:
    """The connection of one client. ``received`` has the size of the current request.

    While ``passes`` is not set, nothing gets through in either direction.
    """

    def __init__(self, client: socket.socket, passes: threading.Event) -> None:
        self._client = client
        self._passes = passes
        self._held = not passes.is_set()  # what it sends has waited
        self._buffer = b""
        self.cut_off = threading.Event()
        """Set once the server has closed the connection: threads that wait for it give up."""
        self.on_cut: Callable[[], None] | None = None
        """Wakes a stream that waits for something to send."""
        self.received = 0

    def request(self) -> Request | None:
        """Return the next request, None when the client has closed the connection."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        line, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {}
        for header in rest:
            name, _, value = header.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            self._client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = (
            self._chunks()
            if "chunked" in headers.get("transfer-encoding", "")
            else self._exactly(_length(headers))
        )
        if body is None:
            return None
        self.received = len(head) + 4 + len(body)
        return Request(method, target, headers, body)

    def send(self, response: Response, *, with_body: bool = True) -> None:
        """Send a response, or only the head of a stream."""
        head = head_of(response)
        self._write(head + response.body if with_body and response.stream is None else head)

    def chunk(self, data: bytes) -> bool:
        """Send a chunk of a stream; False if the client is gone."""
        if not data:  # an empty chunk would end the stream
            return True
        if self.cut_off.is_set():
            return False
        try:
            self._write(b"%x\r\n%s\r\n" % (len(data), data))
        except OSError:
            return False
        return True

    def gone(self) -> bool:
        """Whether the client has closed the connection. Does not wait."""
        if self.cut_off.is_set():
            return True
        try:
            return self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def gets_through(self) -> bool:
        """Wait until packets pass; False if the client is gone before."""
        if self._passes.is_set() and not self._held:
            return True
        while not self._passes.wait(CHECK):
            if self.gone():
                return False
        self._held = False
        return not self.gone()

    def end_stream(self) -> None:
        """Send the last chunk."""
        self._write(b"0\r\n\r\n")

    def reset(self) -> None:
        """Close at once; the client sees its connection reset."""
        self.cut_off.set()
        with contextlib.suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # This wakes the thread in recv, which closes the socket: that sends the reset.
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RD)
        if (wake := self.on_cut) is not None:
            wake()

    def close(self) -> None:
        """Close the socket."""
        self.cut_off.set()
        with contextlib.suppress(OSError):
            self._client.close()

    def _write(self, data: bytes) -> None:
        if not self.gets_through() or self.cut_off.is_set():
            raise ConnectionResetError("the server has cut this connection, or the client has")
        self._client.sendall(data)

    def _read(self) -> bool:
        data = self._client.recv(65536)
        self._buffer += data
        return bool(data) and not self.cut_off.is_set()

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT or not self._read():
                return None
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            if not self._read():
                return None
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def _chunks(self) -> bytes | None:
        body = b""
        while (line := self._until(b"\r\n")) is not None:
            size = int(line.split(b";")[0], 16)
            chunk = self._exactly(size + 2)
            if chunk is None:
                return None
            if size == 0:
                return body
            body += chunk[:-2]
        return None


def _length(headers: dict[str, str]) -> int:
    return int(headers.get("content-length") or 0)


def head_of(response: Response) -> bytes:
    """Return the status line and the headers of a response."""
    lines = [
        f"HTTP/1.1 {response.code} {_REASONS.get(response.code, 'Unknown')}",
        f"Content-Type: {response.content_type}",
        f"Date: {formatdate(clock.now(), usegmt=True)}",
    ]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines.append(
        f"Content-Length: {len(response.body)}"
        if response.stream is None
        else "Transfer-Encoding: chunked"
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
