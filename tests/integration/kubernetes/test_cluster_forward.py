"""The port-forward of the tests for a real cluster, against a server that speaks its protocol and
has a Redis behind it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest
import redis
from kubernetes import client
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.cluster.forward import Forward
from tests.cluster.rights import kubeconfig, loaded

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PORT = 6379


class Server:
    """Takes WebSockets of ``pods/portforward``: a data and an error channel, each opened with the
    port's number.
    """

    def __init__(self, target: tuple[str, int], status: str = "101 Switching Protocols") -> None:
        self.asked: list[str] = []
        self._target, self._status = target, status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, near.makefile("rb") as lines:
            head = b"".join(iter(lines.readline, b"\r\n")).decode()
            self.asked.append(head)
            fields = dict(line.split(": ", 1) for line in head.splitlines()[1:])
            key = next(
                value for name, value in fields.items() if name.lower() == "sec-websocket-key"
            )
            accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
            near.sendall(
                f"HTTP/1.1 {self._status}\r\nUpgrade: websocket\r\nConnection:"
                " Upgrade\r\nContent-Length: 0\r\nSec-WebSocket-Accept:"
                f" {accept}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode()
            )
            if not self._status.startswith("101"):
                return
            for channel in (b"\0", b"\1"):
                near.sendall(frame(channel + struct.pack("<H", PORT)))
            with socket.create_connection(self._target) as far:
                threading.Thread(target=answers, args=(far, near), daemon=True).start()
                with suppress(OSError, struct.error):
                    while (data := unmasked(lines)) is not None:
                        far.sendall(data[1:])


def frame(data: bytes) -> bytes:
    """A binary frame, as a server sends it; shorter than 64 KiB."""
    if len(data) < 126:
        return bytes([0x82, len(data)]) + data
    return struct.pack(">BBH", 0x82, 126, len(data)) + data


def unmasked(lines: BinaryIO) -> bytes | None:
    """What a client's next binary frame holds, None when it closes."""
    first, size = lines.read(2)
    size &= 127
    if size > 125:
        (size,) = struct.unpack(*((">H", lines.read(2)) if size == 126 else (">Q", lines.read(8))))
    mask = lines.read(4)
    data = lines.read(size)
    plain = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
    return plain if first & 15 == 2 else None


def answers(far: socket.socket, near: socket.socket) -> None:
    with suppress(OSError):
        while data := far.recv(1 << 15):
            near.sendall(frame(b"\0" + data))
        near.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with EmbeddedRedis(tmp_path / "redis") as behind:
        host, _, port = behind.url.removeprefix("redis://").partition("/")[0].rpartition(":")
        made = Server((host, int(port)), *getattr(request, "param", ()))
        yield made
        made.close()


@pytest.fixture
def forward(server: Server, tmp_path: Path) -> Iterator[Forward]:
    path = tmp_path / "kubeconfig.json"
    known = client.Configuration()
    known.host = server.url
    path.write_text(json.dumps(kubeconfig(known, "a-token", "ml")))
    made = Forward("redis-0", "ml", PORT, loaded(path))
    yield made
    made.close()


def test_a_redis_in_a_pod_is_reached_as_if_it_were_here(server: Server, forward: Forward) -> None:
    large = b"x" * 300_000
    with (
        redis.Redis(port=forward.port, socket_timeout=20) as first,
        redis.Redis(port=forward.port, socket_timeout=20) as second,
    ):
        assert first.set("key", large)
        assert second.get("key") == large
        assert first.blpop(["none"], timeout=1) is None
    assert server.asked[0].startswith(
        "GET /api/v1/namespaces/ml/pods/redis-0/portforward?ports=6379 "
    )
    assert "authorization: Bearer a-token" in server.asked[0]


def test_a_client_that_waits_is_answered_when_another_one_pushes(forward: Forward) -> None:
    got: list[object] = []
    with (
        redis.Redis(port=forward.port, socket_timeout=20) as waits,
        redis.Redis(port=forward.port, socket_timeout=20) as pushes,
    ):
        thread = threading.Thread(target=lambda: got.append(waits.blpop(["list"], timeout=10)))
        thread.start()
        pushes.rpush("list", "word")
        thread.join()
    assert got == [(b"list", b"word")]


@pytest.mark.parametrize("server", [("403 Forbidden",)], indirect=True)
def test_what_the_api_server_refuses_is_a_connection_that_closes(forward: Forward) -> None:
    once = Retry(NoBackoff(), 0)
    with (
        redis.Redis(port=forward.port, socket_timeout=20, retry=once) as asked,
        pytest.raises(redis.ConnectionError),
    ):
        asked.ping()
