"""A server that answers what a test says, byte by byte: what no honest API server does, and what
one was recorded to do.

Answers are functions that are given the connection: :func:`reply` for whole ones, :func:`stream`
for those that go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pod_objects import RECORDINGS

Answer = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any

    @property
    def watches(self) -> bool:
        return self.query.get("watch") == "true"


@dataclass
class Scripted:
    """Answers requests as ``respond`` says."""

    respond: Callable[[Asked], Answer]
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Let go of the port, and of every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self._open.add(connection)
            with connection, connection.makefile("rb") as lines:
                while request := lines.readline():
                    if not request.rstrip().endswith(b"HTTP/1.1"):
                        break  # a client of an ended test, whose server had this port
                    method, target, _ = request.decode().split()
                    headers = dict(
                        line.decode().rstrip().lower().split(": ", 1)
                        for line in iter(lines.readline, b"\r\n")
                    )
                    length = int(headers.get("content-length", 0))
                    body = json.loads(lines.read(length)) if length else None
                    url = urlsplit(target)
                    query = {
                        name: values[0]
                        for name, values in parse_qs(url.query, keep_blank_values=True).items()
                    }
                    self.asked.append(Asked(method, url.path, query, headers, body))
                    self.respond(self.asked[-1])(connection)
            self._open.discard(connection)


@contextlib.contextmanager
def serving(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server that gives these answers in turn, the last one for ever."""
    left = list(answers)
    server = Scripted(lambda asked: left.pop(0) if len(left) > 1 else left[0], tls)
    try:
        yield server
    finally:
        server.close()


def api_of(
    server: Scripted | str,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    user: dict[str, Any] | None = None,
    **settings: Any,
) -> Api:
    """An Api on a server, by way of a kubeconfig."""
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "gpus"}}
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": server if isinstance(server, str) else server.url}}
        ],
        "users": [{"name": "u", "user": user or {"token": "a-token"}}],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    return Api(ClusterSettings(**settings))


def reply(status: int = 200, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """A whole answer: ``body`` as it is (bytes), or as JSON."""
    data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    kind = "text/plain" if isinstance(body, bytes) else "application/json"
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return lambda connection: connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)


def refused(
    status: int,
    reason: str,
    message: str = "so it is",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Answer:
    """An error as the API words it."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": status,
        "reason": reason,
        "message": message,
    }
    return reply(status, {**body, **more}, headers)


def stream(*parts: bytes, then: Answer | None = None, headers: tuple[str, ...] = ()) -> Answer:
    """An answer in these parts, each sent by itself, and ``then`` :func:`end` or something else."""

    def answer(connection: socket.socket) -> None:
        head = [
            "HTTP/1.1 200 OK",
            "Content-Type: application/json",
            "Transfer-Encoding: chunked",
            *headers,
            "",
            "",
        ]
        connection.sendall("\r\n".join(head).encode())
        for part in parts:
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        (then or end)(connection)

    return answer


def end(connection: socket.socket) -> None:
    """End a stream in good order."""
    connection.sendall(b"0\r\n\r\n")


def hang(connection: socket.socket) -> None:
    """Say nothing more until the other side goes."""
    while connection.recv(4096):
        pass


def reset(connection: socket.socket) -> None:
    """Break off."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # close() would wait for the file that reads from it


def once(event: threading.Event, then: Answer = hang) -> Answer:
    """Wait for an event (10 s at most), then go on."""

    def answer(connection: socket.socket) -> None:
        assert event.wait(10)
        then(connection)

    return answer


def after(seconds: float, then: Answer) -> Answer:
    """Wait, then go on."""

    def answer(connection: socket.socket) -> None:
        time.sleep(seconds)
        then(connection)

    return answer


def line(kind: str, item: Any) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def bookmark(version: int | str) -> bytes:
    """A line of a watch that has nothing to tell."""
    body = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
    }
    return line("BOOKMARK", {**body, "spec": {"containers": None}, "status": {}})


def expired() -> bytes:
    """The line that a watch ends with when it is too far behind, as recorded."""
    for request in requests("api_errors", "WATCH jobs from"):
        return json.dumps(request["body"]).encode() + b"\n"
    raise LookupError


def listed(*items: Any, version: int | str = 1, more: str = "") -> Answer:
    """A page of a list."""
    return reply(
        200,
        {
            "kind": "List",
            "metadata": {"resourceVersion": str(version), "continue": more},
            "items": list(items),
        },
    )


def pod(
    name: str, version: int | str = 1, phase: str = "Pending", job: str = "", **metadata: Any
) -> dict[str, Any]:
    """A pod as the API sends it. Its uid is its name."""
    labels = {"batch.kubernetes.io/job-name": job or f"job-{name}"}
    running = {"name": "executor", "state": {"running": {"startedAt": "2026-11-23T16:12:16Z"}}}
    return {
        "metadata": {"name": name, "uid": name, "resourceVersion": str(version), "labels": labels}
        | metadata,
        "spec": {"nodeName": "node-a"} if phase != "Pending" else {},
        "status": {"phase": phase, "containerStatuses": [running] if phase == "Running" else None},
    }


def requests(recording: str, begins: str = "") -> list[dict[str, Any]]:
    """The recorded requests that begin so, with their answers."""
    told = map(json.loads, (RECORDINGS / f"{recording}.jsonl").read_text().splitlines())
    return [
        each for each in told if each.get("request", "").startswith(begins) and "request" in each
    ]
