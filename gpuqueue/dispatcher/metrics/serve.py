"""A small HTTP server beside the worker, for Prometheus and the probes of the kubelet."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.registry import Collector

from gpuqueue.errors import SettingsError
from gpuqueue.telemetry import OWN

logger = logging.getLogger(__name__)
#: Seconds until a silent client is disconnected, so that it occupies no thread.
SILENCE = 10.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Not as HTTPServer does: it resolves the name of the host, which may take long.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = (
            str(self.server_address[0]),
            int(self.server_address[1]),
        )
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = SILENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        logger.debug(format, *args)

    def address_string(self) -> str:
        return str(self.client_address[0])


class Endpoint:
    """Serves ``/metrics`` and a path for each check: 200 and ``ok``, or 503 and the problem.

    Args:
        host: address to listen at; empty: every address, with IPv6 if the host has it.
        port: port; 0: a free one (see :attr:`port`).
        collectors: collectors for ``/metrics``, beside those of the process.
        checks: path → function that returns the problem; empty: none.

    Raises OSError if it cannot listen on the port.
    """

    def __init__(
        self,
        host: str,
        port: int,
        collectors: Iterable[Collector],
        checks: Mapping[str, Callable[[], str]],
    ) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        for each in [*OWN, *collectors]:
            registry.register(each)
        self._metrics = make_wsgi_app(registry)
        self._checks = checks
        family = (
            socket.AF_INET6
            if ":" in host or (not host and socket.has_dualstack_ipv6())
            else socket.AF_INET
        )

        class Server(_Server):
            address_family = family

        self._server = make_server(host, port, self._answer, Server, _Handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="gpuqueue-http", daemon=True
        )

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _text(start_response, "405 Method Not Allowed", "only GET")
        if path == "/metrics":
            metrics: Iterable[bytes] = self._metrics(environ, start_response)
            return metrics
        check = self._checks.get(path)
        if check is None:
            return _text(
                start_response,
                "404 Not Found",
                f"paths: {', '.join(['/metrics', *self._checks])}",
            )
        problem = check()
        return _text(
            start_response, "503 Service Unavailable" if problem else "200 OK", problem or "ok"
        )


def _text(start_response: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start_response(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    )
    return [body]


def open_endpoint(
    host: str,
    port: int,
    chosen: bool,
    collectors: Iterable[Collector],
    checks: Mapping[str, Callable[[], str]],
) -> Endpoint | None:
    """Make the endpoint of a dispatcher. If the default port is in use, log a warning and return
    None.

    Raises :class:`SettingsError` if a ``chosen`` port is in use, or the address is not available.
    """
    try:
        return Endpoint(host, port, collectors, checks)
    except OSError as exc:
        where = f"{host or '*'}:{port}"
        if exc.errno == errno.EADDRINUSE and not chosen:
            logger.warning(
                "%s is in use: no /metrics, /healthz, /readyz here; set GPUQUEUE_METRICS_PORT",
                where,
            )
            return None
        setting = (
            "GPUQUEUE_METRICS_PORT"
            if exc.errno in (errno.EADDRINUSE, errno.EACCES)
            else "GPUQUEUE_METRICS_HOST"
        )
        value = port if setting.endswith("PORT") else repr(host)
        raise SettingsError(
            f"{setting}={value}: cannot listen on {where}: {exc.strerror or exc}; choose another,"
            " or port 0 to disable it"
        ) from None
