"""From a request to an answer: what befalls it, who asks, whether they may, and what is said."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.doubles.kubernetes.api import access, discovery, reads
from tests.doubles.kubernetes.api.access import Access, User
from tests.doubles.kubernetes.api.answers import refusal
from tests.doubles.kubernetes.api.fault_injection import Trouble
from tests.doubles.kubernetes.api.watches import Watch, error_line, open_watch
from tests.doubles.kubernetes.api.writes import Writes
from tests.doubles.kubernetes.http.connection import Connection, Cut, head_of
from tests.doubles.kubernetes.http.messages import (
    Answer,
    Ask,
    Request,
    RequestLog,
    Seen,
    Send,
    ask_of,
)
from tests.doubles.kubernetes.objects import errors
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import REVIEWS
from tests.doubles.kubernetes.objects.registry import Registry

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Api:
    """The API server; ``handle`` answers one request, in the thread of its connection.

    ``bookmarks`` are the seconds between those of a watch, ``control`` answers what is about the
    double itself, and ``failures`` gets what should not happen in the double.
    """

    registry: Registry
    access: Access
    logs: reads.Logs
    trouble: Trouble
    requests: RequestLog
    bookmarks: float
    control: Callable[[Request], Answer]
    failures: list[BaseException]
    watches: set[Watch] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, request: Request, connection: Connection) -> Answer:
        """Answer a request, and count it.

        Raises:
            Cut: the connection is to be reset.
        """
        if request.path.startswith("/_double/"):
            return self.control(request)
        key, user, answer = (request.method.lower(), request.path), "", None
        try:
            ask = _asked(request)
            if isinstance(ask, Ask):
                key = (
                    ask.verb,
                    f"{ask.resource.plural}/{ask.sub}" if ask.sub else ask.resource.plural,
                )
            answer = self.trouble.before(request, connection)
            if answer is None:
                who = self.access.who(request.headers.get("authorization"))
                user = who.name
                answer = self._carry_out(ask, request, who, connection, key)
                self.trouble.after(request)
        except Refused as refused:
            answer = refusal(refused)
        except Cut:
            self.requests.add(
                key, Seen(request.method, request.target, user, 0), connection.received, 0
            )
            raise
        except Exception as error:
            log.error(
                "the cluster's double failed at %s %s",
                request.method,
                request.target,
                exc_info=error,
            )
            self.failures.append(error)
            answer = refusal(Refused(500, "InternalError", f"Internal error occurred: {error}"))
        size = len(head_of(answer)) + len(answer.body)
        self.requests.add(
            key, Seen(request.method, request.target, user, answer.code), connection.received, size
        )
        return answer

    def _carry_out(
        self,
        ask: Ask | Refused | None,
        request: Request,
        who: User,
        connection: Connection,
        key: tuple[str, str],
    ) -> Answer:
        if isinstance(ask, Refused):
            raise ask
        if ask is None:
            answer = discovery.answer(request)
            if answer is None:
                raise errors.no_such_path()
            return answer
        if ask.resource in REVIEWS:
            return Writes(self.registry, self.access).review(ask, request, who)
        access.check(who, ask.verb, ask.resource, ask.space or ask.namespace, ask.name, ask.sub)
        return self._resource(ask, request, connection, key)

    def _resource(
        self, ask: Ask, request: Request, connection: Connection, key: tuple[str, str]
    ) -> Answer:
        store, writes = self.registry.store, Writes(self.registry, self.access)
        match ask.verb:
            case "watch":
                return self._watch(ask, request, connection, key)
            case "list":
                return reads.list_all(store, ask, request)
            case "get" if ask.sub == "log":
                return reads.log(store, self.logs, ask, request, connection.gone)
            case "get" if ask.sub in ("", "status"):
                return reads.get(store, ask, request)
            case "create":
                return writes.create_below(ask, request) if ask.sub else writes.create(ask, request)
            case "patch" if not ask.sub:
                return writes.patch(ask, request)
            case "delete" if not ask.sub:
                return writes.delete(ask, request)
            case "deletecollection":
                return writes.delete_all(ask, request)
        raise errors.not_allowed()

    def _watch(
        self, ask: Ask, request: Request, connection: Connection, key: tuple[str, str]
    ) -> Answer:
        try:
            if self.trouble.expires():
                raise errors.expired(
                    request.query.get("resourceVersion", ""), self.registry.store.version
                )
            watch = open_watch(
                self.registry.store, ask.resource, ask.namespace, request, self.bookmarks
            )
        except Refused as refused:
            if refused.code in (400, 504):
                raise
            line = error_line(refused)  # it was answered 200 when this is found out
            return Answer(200, stream=lambda send: (send(line), None)[1])
        if self.trouble.silences():
            watch.silent.set()
        with self.lock:
            self.watches.add(watch)
        connection.on_cut = lambda: watch.end(cut=True)
        if connection.cut_off.is_set():  # before it could be told
            watch.end(cut=True)

        def stream(send: Send) -> None:
            def counted(data: bytes) -> bool:
                self.requests.streamed(key, len(data))
                return send(data)

            try:
                watch.stream(counted, connection.gone)
            finally:
                connection.on_cut = None
                with self.lock:
                    self.watches.discard(watch)

        return Answer(200, stream=stream)


def _asked(request: Request) -> Ask | Refused | None:
    """What a request is about; None if no resource."""
    if discovery.answer(request) is not None:
        return None
    try:
        return ask_of(request)
    except Refused as refused:
        return refused
