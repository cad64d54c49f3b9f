"""HTTP requests to the API server: raw bytes in and out, with timeouts. Each failure is an
:class:`ApiError`.

Never here: retries. The caller knows whether a request can be repeated.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import msgspec
import urllib3

from gpuqueue.launchers.kubernetes.api.errors import StreamSilent, Unreachable, refusal
from gpuqueue.launchers.kubernetes.api.server_clock import ServerClock
from gpuqueue.telemetry import KUBERNETES_REQUESTS, KUBERNETES_SECONDS

logger = logging.getLogger(__name__)
#: Seconds to connect (TCP and TLS). 5: covers a lost SYN, repeated after 1 s and 3 s.
CONNECT = 5.0
#: Bytes per read of a stream: a burst of a few dozen pod events.
_CHUNK = 1 << 18
#: Number of distinct server warnings to remember, so that each is logged once.
_WARNINGS = 256
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')


class Transport:
    """One API server. Thread-safe.

    Args:
        pool: connections, with TLS and proxy set up.
        server: its address, without a trailing slash.
        authorize: returns the credential headers. Called for each request: tokens are renewed.
        timeout: seconds until a response begins, and between any two parts of it.

    Attributes:
        clock: the clock of the server.
    """

    def __init__(
        self,
        pool: urllib3.PoolManager,
        server: str,
        authorize: Callable[[], Mapping[str, str]],
        timeout: float,
    ) -> None:
        self._pool = pool
        self.server = server
        self._authorize = authorize
        self.timeout = timeout
        self.clock = ServerClock()
        self._warned: set[str] = set()

    def send(
        self,
        request: str,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        timeout: float | None = None,
    ) -> bytes:
        """Send one request and return the response body.

        ``body`` is anything that msgspec can encode; ``timeout`` replaces the usual one. Raises
        :class:`ApiError`.
        """
        limit = self.timeout if timeout is None else timeout
        response = self._request(request, method, path, query or {}, body, limit)
        return self._read(request, response)

    def open(
        self, request: str, path: str, query: Mapping[str, str | int], silence: float | None
    ) -> Stream:
        """Open a stream that fails after ``silence`` seconds without data.

        With None it never fails, and may begin at any time, as the log of a quiet job does. Raises
        :class:`ApiError`.
        """
        response = self._request(
            request, "GET", path, query, None, None if silence is None else self.timeout
        )
        _set_timeout(response, silence)
        return Stream(request, response)

    def _request(
        self,
        request: str,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: Any,
        timeout: float | None,
    ) -> urllib3.BaseHTTPResponse:
        try:
            headers = {"Accept": "application/json", **self._authorize()}
        except Exception as exc:  # a credential plugin may raise anything
            raise Unreachable(f"the credentials cannot be renewed: {exc}", request=request) from exc
        if body is not None:
            headers["Content-Type"] = "application/json"
        kind, begun = kind_of(request), time.monotonic()
        url = f"{self.server}{path}{'?' + urllib.parse.urlencode(query) if query else ''}"
        try:
            response = self._pool.request(
                method,
                url,
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=min(CONNECT, timeout or CONNECT), read=timeout),
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            KUBERNETES_REQUESTS.labels(kind, "unreachable").inc()
            raise self._unreachable(request, exc) from exc
        except ValueError:  # its text contains the token
            raise Unreachable(
                "request not sent: the token has characters that a header cannot have",
                request=request,
            ) from None
        self.clock.answered(response.headers)
        KUBERNETES_REQUESTS.labels(kind, response.status).inc()
        KUBERNETES_SECONDS.labels(kind).observe(time.monotonic() - begun)
        for text in response.headers.getlist("Warning"):
            self._warn(text)
        if response.status >= 300:
            raise refusal(request, response.status, response.headers, self._read(request, response))
        return response

    def _read(self, request: str, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            return response.read()
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise self._unreachable(request, exc) from exc

    def _unreachable(self, request: str, exc: Exception) -> Unreachable:
        return Unreachable(f"no answer from {self.server}: {_words(exc)}", request=request)

    def _warn(self, header: str) -> None:
        for text in _WARNING.findall(header) or [header]:
            if text not in self._warned and len(self._warned) < _WARNINGS:
                self._warned.add(text)
                logger.warning("Kubernetes API warning: %s", text, extra={"action": "api_warning"})


class Stream:
    """A streamed response: iterate over its parts as they arrive.

    Any thread can close it, which ends the iteration.

    Attributes:
        broken: whether the connection has broken off.
    """

    def __init__(self, request: str, response: urllib3.BaseHTTPResponse) -> None:
        self._request = request
        self._response = response
        self._lock = threading.Lock()
        self._closed = False
        self.broken = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield parts until the server closes, the connection breaks, or :meth:`close` is called.

        Raises :class:`StreamSilent`.
        """
        try:
            while part := self._response.read1(_CHUNK):
                if self._closed:
                    return
                yield part
        except urllib3.exceptions.ReadTimeoutError:
            if not self._closed:
                raise StreamSilent(
                    "received nothing, not even a bookmark", request=self._request
                ) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            if not self._closed:
                self.broken = True
                logger.debug(
                    "%s: stream broken: %s",
                    self._request,
                    _words(exc),
                    extra={"action": "stream_broken"},
                )
        finally:
            self._finish()

    def close(self) -> None:
        """End the stream now, even while another thread blocks in a read."""
        with self._lock:
            if not self._closed:
                self._closed = True
                try:
                    self._response.shutdown()
                except (ValueError, RuntimeError, OSError):
                    pass  # already ended

    def _finish(self) -> None:
        with self._lock:
            self._closed = True
            self._response.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish()


def _set_timeout(response: urllib3.BaseHTTPResponse, seconds: float | None) -> None:
    connection = response.connection
    sock = getattr(connection, "sock", None)
    if sock is None:  # urllib3 has detached the socket of a connection without keep-alive
        sock = getattr(getattr(response, "_sock_shutdown", None), "__self__", None)
    if sock is not None:
        sock.settimeout(seconds)


def kind_of(request: str) -> str:
    """Return verb and resource of a request, without names: ``create job``, ``watch pods``."""
    return " ".join(request.split(maxsplit=2)[:2])


def _words(exc: Exception) -> str:
    """Describe an exception without the object addresses in the texts of urllib3."""
    if isinstance(exc, urllib3.exceptions.ReadTimeoutError):
        return "read timed out"
    if isinstance(exc, urllib3.exceptions.NewConnectionError):
        return str(exc).partition(": ")[2] or str(exc)
    if isinstance(exc, urllib3.exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT:g} s"
    if isinstance(exc, urllib3.exceptions.ProtocolError) and len(exc.args) > 1:
        return str(exc.args[1])
    return str(exc) or type(exc).__name__
