"""The API server: from a request to its response."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.doubles.kubernetes.api import discovery, reads
from tests.doubles.kubernetes.api.access import Access, User, authorize
from tests.doubles.kubernetes.api.fault_injection import FaultInjection
from tests.doubles.kubernetes.api.request_info import RequestInfo, read_url
from tests.doubles.kubernetes.api.request_log import LoggedRequest, RequestLog
from tests.doubles.kubernetes.api.responses import refusal
from tests.doubles.kubernetes.api.watches import OpenWatches, error_line, open_watch
from tests.doubles.kubernetes.api.writes import Writes
from tests.doubles.kubernetes.http.connection import Connection, Cut, head_of
from tests.doubles.kubernetes.http.messages import Request, Response, Send, Stream
from tests.doubles.kubernetes.objects import errors
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import REVIEWS
from tests.doubles.kubernetes.objects.registry import Registry

log = logging.getLogger(__name__)

#: The prefix of the paths that only the double has.
CONTROL_PREFIX = "/_double/"


@dataclass(slots=True)
class ApiServer:
    """The API server. The thread of a connection calls :meth:`handle` with each request.

    ``bookmarks`` is the time in seconds between bookmarks of a watch. ``control`` handles requests
    about the double itself. ``failures`` collects bugs of the double.
    """

    registry: Registry
    access: Access
    logs: reads.Logs
    faults: FaultInjection
    requests: RequestLog
    bookmarks: float
    control: Callable[[Request], Response]
    failures: list[BaseException]
    watches: OpenWatches = field(default_factory=OpenWatches)

    def handle(self, request: Request, connection: Connection) -> Response:
        """Return the response to a request, and count the request.

        Raises:
            Cut: the server resets the connection.
        """
        if request.path.startswith(CONTROL_PREFIX):
            return self.control(request)
        key, user = (request.method.lower(), request.path), ""
        try:
            info = _read(request)
            if isinstance(info, RequestInfo):
                key = info.verb, info.resource_name
            response = self.faults.before(request, connection)
            if response is None:
                caller = self.access.authenticate(request.headers.get("authorization"))
                user = caller.name
                response = self._carry_out(info, request, caller, connection)
                self.faults.after(request)
        except Refused as refused:
            response = refusal(refused)
        except Cut:
            logged = LoggedRequest(request.method, request.target, user, 0)
            self.requests.add(key, logged, connection.received, 0)
            raise
        except Exception as error:
            log.error("the double failed at %s %s", request.method, request.target, exc_info=error)
            self.failures.append(error)
            response = refusal(Refused(500, "InternalError", f"Internal error occurred: {error}"))
        size = len(head_of(response)) + len(response.body)
        logged = LoggedRequest(request.method, request.target, user, response.code)
        self.requests.add(key, logged, connection.received, size)
        return response

    def _carry_out(
        self,
        info: RequestInfo | Refused | None,
        request: Request,
        user: User,
        connection: Connection,
    ) -> Response:
        if isinstance(info, Refused):
            raise info
        if info is None:
            response = discovery.respond(request)
            if response is None:
                raise errors.no_such_path()
            return response
        if info.resource in REVIEWS:
            return Writes(self.registry, self.access).review(info, request, user)
        authorize(user, info)
        return self._resource(info, request, connection)

    def _resource(self, info: RequestInfo, request: Request, connection: Connection) -> Response:
        store, writes = self.registry.store, Writes(self.registry, self.access)
        match info.verb:
            case "watch":
                return self._watch(info, request, connection)
            case "list":
                return reads.list_all(store, info, request)
            case "get" if info.subresource == "log":
                return reads.log(store, self.logs, info, request, connection.gone)
            case "get" if info.subresource in ("", "status"):
                return reads.get(store, info, request)
            case "create" if info.subresource:
                return writes.create_subresource(info, request)
            case "create":
                return writes.create(info, request)
            case "patch" if not info.subresource:
                return writes.patch(info, request)
            case "delete" if not info.subresource:
                return writes.delete(info, request)
            case "deletecollection":
                return writes.delete_all(info, request)
        raise errors.not_allowed()

    def _watch(self, info: RequestInfo, request: Request, connection: Connection) -> Response:
        store = self.registry.store
        try:
            if self.faults.expires_watch():
                raise errors.expired(request.query.get("resourceVersion", ""), store.version)
            watch = open_watch(store, info.resource, info.namespace, request, self.bookmarks)
        except Refused as refused:
            if refused.code in (400, 504):
                raise
            return Response(200, stream=_refuse(refused))
        if self.faults.silences_watch():
            watch.silent.set()
        self.watches.add(watch)
        connection.on_cut = lambda: watch.end(cut=True)
        if connection.cut_off.is_set():  # the cut came before `on_cut` was set
            watch.end(cut=True)

        def stream(send: Send) -> None:
            def counted(data: bytes) -> bool:
                self.requests.streamed((info.verb, info.resource_name), len(data))
                return send(data)

            try:
                watch.stream(counted, connection.gone)
            finally:
                connection.on_cut = None
                self.watches.discard(watch)

        return Response(200, stream=stream)


def _refuse(refused: Refused) -> Stream:
    """Return the stream of a watch that the server refuses after it has sent the status 200."""

    def stream(send: Send) -> None:
        send(error_line(refused))

    return stream


def _read(request: Request) -> RequestInfo | Refused | None:
    """Return what a request is about, its refusal, or None for discovery."""
    if discovery.respond(request) is not None:
        return None
    try:
        return read_url(request)
    except Refused as refused:
        return refused
