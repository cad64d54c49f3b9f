"""Injected faults of requests: refusals, hanging requests, cut connections, and watches that are
silent or get 410.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

from tests.doubles.kubernetes.http.connection import Connection, Cut
from tests.doubles.kubernetes.http.messages import Request, Response
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.wire import encode

#: The server responds to too many requests with plain text.
_TOO_MANY = b"Too many requests, please try again later.\n"
_MESSAGES = {
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    502: ("", "Bad Gateway"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: (
        "Timeout",
        "Timeout: request did not complete within requested timeout - context deadline exceeded",
    ),
}

#: Seconds between two checks whether the client of a hanging request has given up.
CHECK = 0.05

RESPOND, HANG, CUT_BEFORE, CUT_AFTER = "respond", "hang", "cut before", "cut after"


@dataclass(slots=True)
class InjectedFault:
    """The fault of the requests that match. ``count`` is their number so far.

    Args:
        action: ``respond`` (with ``status``), ``hang`` (until the client gives up), or cut the
            connection, ``cut before`` or ``cut after`` the server carries the request out.
        method: a regular expression that matches the whole method.
        path: a regular expression that matches anywhere in path and query.
        times: the number of requests, None for all.
        status: the HTTP status code.
        retry_after: the seconds of a ``Retry-After`` header.
        body: the body in place of the server's usual message.
    """

    action: str
    method: str = ".*"
    path: str = ""
    times: int | None = 1
    status: int = 0
    retry_after: int | None = None
    body: bytes | None = None
    count: int = field(default=0, init=False)

    def matches(self, request: Request) -> bool:
        """Whether this request gets the fault."""
        left = self.times is None or self.count < self.times
        return (
            left
            and re.fullmatch(self.method, request.method) is not None
            and re.search(self.path, request.target) is not None
        )


class FaultInjection:
    """The faults in force. ``latency`` is in seconds, for every request."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self._faults: list[InjectedFault] = []
        self._lock = threading.Lock()
        self._expiring = 0
        self._silent = False

    def add(self, fault: InjectedFault) -> InjectedFault:
        """Put a fault in force. A request gets the first fault that matches it."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults of requests and of new watches."""
        with self._lock:
            self._faults.clear()
            self._expiring, self._silent = 0, False

    def expire_next(self, times: int) -> None:
        """Respond with 410 to the next watches."""
        with self._lock:
            self._expiring += times

    def silence(self, on: bool) -> None:
        """Set whether new watches send nothing."""
        self._silent = on

    def before(self, request: Request, connection: Connection) -> Response | None:
        """Return a response in place of the server's, None for no fault.

        Raises:
            Cut: the server resets the connection.
        """
        if self.latency:
            connection.cut_off.wait(self.latency)
        fault = self._fault_of(request, after=False)
        if fault is None:
            return None
        if fault.action == CUT_BEFORE:
            raise Cut
        if fault.action == HANG:
            while not connection.gone():
                connection.cut_off.wait(CHECK)
            raise Cut
        return _response(fault)

    def after(self, request: Request) -> None:
        """Lose the response to a request that the server has carried out, if a fault matches.

        Raises:
            Cut: the server resets the connection.
        """
        if self._fault_of(request, after=True) is not None:
            raise Cut

    def expires_watch(self) -> bool:
        """Whether a watch that starts now gets 410."""
        with self._lock:
            if self._expiring:
                self._expiring -= 1
                return True
            return False

    def silences_watch(self) -> bool:
        """Whether a watch that starts now sends nothing."""
        return self._silent

    def _fault_of(self, request: Request, *, after: bool) -> InjectedFault | None:
        with self._lock:
            for fault in self._faults:
                if (fault.action == CUT_AFTER) is after and fault.matches(request):
                    fault.count += 1
                    return fault
            return None


def _response(fault: InjectedFault) -> Response:
    status, body = fault.status, fault.body
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if body is None and status == 429:
        body = _TOO_MANY
    if body is not None:
        return Response(status, body, headers, content_type="text/plain; charset=utf-8")
    reason, message = _MESSAGES.get(status, ("", f"status {status}"))
    return Response(status, encode(Refused(status, reason, message).status()), headers)
