"""From a request to an answer: who asks, what is asked for, and what the registry says."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpuqueue.testing.cluster import access, discovery, errors
from gpuqueue.testing.cluster.access import Access, User
from gpuqueue.testing.cluster.errors import Refused
from gpuqueue.testing.cluster.kinds import JOBS, PODS, REVIEWS, SERVICE_ACCOUNTS, Resource
from gpuqueue.testing.cluster.registry import PRESERVED, Deletion, Registry
from gpuqueue.testing.cluster.request import Answer, Ask, Request, RequestLog, Seen, Send, ask_of
from gpuqueue.testing.cluster.server import Connection, Cut
from gpuqueue.testing.cluster.store import key_of, partial_of, whole
from gpuqueue.testing.cluster.watches import Watch, error_line, open_watch, wanted_of
from gpuqueue.testing.cluster.wire import decode, encode, stamp

log = logging.getLogger(__name__)


class Trouble(Protocol):
    """What may befall a request; see :mod:`gpuqueue.testing.cluster.faults`."""

    def before(self, request: Request, connection: Connection) -> Answer | None:
        """Answer instead of the server, or raise :class:`Cut`."""

    def after(self, request: Request, connection: Connection) -> None:
        """Raise :class:`Cut` where an answer is to be lost."""

    def expires(self) -> bool:
        """Whether a watch that starts now is to be told 410."""

    def silences(self) -> bool:
        """Whether a watch that starts now is to be silent."""


class Logs(Protocol):
    """Where the output of containers is."""

    def stream(self, pod: dict[str, Any], query: dict[str, str], send: Send, gone: Callable[[], bool]) -> None:
        """Send a container's log."""

    def check(self, pod: dict[str, Any], query: dict[str, str]) -> None:
        """Refuse what has no log."""


@dataclass(slots=True)
class Api:
    """The API server's side of the double; ``handle`` answers one request."""

    registry: Registry
    access: Access
    logs: Logs
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
        user, key = "", (request.method.lower(), request.path)
        answer: Answer | None = None
        try:
            try:
                ask = ask_of(request)
                key = (ask.verb, f"{ask.resource.plural}/{ask.sub}" if ask.sub else ask.resource.plural)
            except Refused as refused:
                ask, answer = None, _refusal(refused)
            trouble = self.trouble.before(request, connection)
            if trouble is not None:
                answer = trouble
                return answer
            who = self.access.who(request.headers.get("authorization"))
            user = who.name
            answer = discovery.answer(request) or answer
            if ask is not None and answer is None:
                access.check(who, ask.verb, ask.resource, ask.namespace if ask.resource.namespaced else "", ask.name, ask.sub)
                answer = self._resource(ask, request, who, connection, key)
            self.trouble.after(request, connection)
        except Refused as refused:
            answer = _refusal(refused)
        except Cut:
            self.requests.add(key, Seen(request.method, request.target, user, 0), connection.received, 0)
            raise
        except Exception as error:
            log.error("the cluster's double failed at %s %s", request.method, request.target, exc_info=error)
            self.failures.append(error)
            answer = _refusal(Refused(500, "InternalError", f"Internal error occurred: {error}"))
        finally:
            if answer is not None:
                size = len(answer.body) + 120  # about what the headers take
                self.requests.add(key, Seen(request.method, request.target, user, answer.code), connection.received, size)
        if answer is None:  # every path above answers
            raise AssertionError(request.target)
        return answer

    def _resource(self, ask: Ask, request: Request, user: User, connection: Connection, key: tuple[str, str]) -> Answer:
        if ask.resource in REVIEWS:
            return self._review(ask, request, user)
        match ask.verb:
            case "watch":
                return self._watch(ask, request, connection, key)
            case "list":
                return self._list(ask, request)
            case "get" if ask.sub == "log":
                return self._log(ask, request, connection)
            case "get" if ask.sub in ("", "status"):
                return self._get(ask, request)
            case "create" if ask.sub:
                return self._create_below(ask, request, user)
            case "create":
                return self._create(ask, request)
            case "patch":
                return self._patch(ask, request)
            case "delete" if not ask.sub:
                return self._delete(ask, request)
            case "deletecollection":
                return self._delete_all(ask, request)
        raise errors.not_allowed()

    def _get(self, ask: Ask, request: Request) -> Answer:
        with self.registry.store.lock:
            record = self.registry.store.record(ask.resource, ask.namespace if ask.resource.namespaced else "", ask.name)
            if record is None:
                raise errors.not_found(ask.resource, ask.name)
            data = record.data
        if "as=PartialObjectMetadata" in request.headers.get("accept", ""):
            return Answer(200, partial_of(data, listed=False))
        return Answer(200, whole(ask.resource, data))

    def _list(self, ask: Ask, request: Request) -> Answer:
        wanted = wanted_of(ask.resource, ask.namespace, request)
        store = self.registry.store
        limit = int(request.query.get("limit") or 0)
        with store.lock:
            version, after = store.version, _continued(request.query.get("continue", ""), store.oldest)
            found = [
                (key, record.data)
                for key, record in store.records(ask.resource, ask.namespace)
                if (after is None or key > after) and wanted.matches(record.labels, record.fields)
            ]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(found) > limit:
            metadata["remainingItemCount"] = len(found) - limit
            found = found[:limit]
            metadata["continue"] = base64.urlsafe_b64encode(encode([version, *found[-1][0]])).decode()
        kind, version_name = f"{ask.resource.kind}List", ask.resource.api_version
        if wanted.partial:
            kind, version_name = "PartialObjectMetadataList", "meta.k8s.io/v1"
            items = [partial_of(data, listed=True) for _, data in found]
        else:
            items = [data for _, data in found]
        head = b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":['
        return Answer(200, head % (kind.encode(), version_name.encode(), encode(metadata)) + b",".join(items) + b"]}")

    def _watch(self, ask: Ask, request: Request, connection: Connection, key: tuple[str, str]) -> Answer:
        try:
            if self.trouble.expires():
                raise errors.expired(request.query.get("resourceVersion", ""), self.registry.store.version)
            watch = open_watch(self.registry.store, ask.resource, ask.namespace, request, self.bookmarks)
        except Refused as refused:
            if refused.code == 400:
                raise
            line = error_line(refused)
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

            def cut() -> None:
                raise Cut

            try:
                watch.stream(counted, connection.gone, cut)
            finally:
                connection.on_cut = None
                with self.lock:
                    self.watches.discard(watch)

        return Answer(200, stream=stream)

    def _log(self, ask: Ask, request: Request, connection: Connection) -> Answer:
        with self.registry.store.lock:
            pod = self.registry.store.get(PODS, ask.namespace, ask.name)
            if pod is None:
                raise errors.not_found(PODS, ask.name)
            self.logs.check(pod, request.query)
        if request.flag("follow"):
            answer = Answer(200, content_type="text/plain")
            answer.stream = lambda send: self.logs.stream(pod, request.query, send, connection.gone)
            return answer
        whole_log = bytearray()

        def keep(data: bytes) -> bool:
            whole_log.extend(data)
            return True

        self.logs.stream(pod, request.query, keep, lambda: True)
        return Answer(200, bytes(whole_log), content_type="text/plain")

    def _create(self, ask: Ask, request: Request) -> Answer:
        body, warnings = self.registry.create(
            ask.resource,
            ask.namespace if ask.resource.namespaced else "",
            _body(request),
            unknown=request.query.get("fieldValidation") or "Warn",
            dry_run=request.query.get("dryRun") == "All",
        )
        return Answer(201, self._encoded(ask.resource, body), _warnings(warnings))

    def _create_below(self, ask: Ask, request: Request, user: User) -> Answer:
        del user
        body = _body(request) or {}
        if ask.sub == "eviction":
            self.registry.evict(ask.namespace, ask.name, Deletion.read(request.query, body.get("deleteOptions") or {}))
            return Answer(201, encode(_success({})))
        if ask.resource is SERVICE_ACCOUNTS:
            with self.registry.store.lock:
                account = self.registry.store.get(SERVICE_ACCOUNTS, ask.namespace, ask.name)
                if account is None:
                    raise errors.not_found(SERVICE_ACCOUNTS, ask.name)
                uid = account["metadata"]["uid"]
            name = f"system:serviceaccount:{ask.namespace}:{ask.name}"
            # It may do what was granted to it in advance, else nothing: see Cluster.grant.
            token = self.access.admit(self.access.granted(name, uid))
            status = {"token": token, "expirationTimestamp": stamp()}
            return Answer(201, encode({**body, "metadata": {"name": ask.name, "namespace": ask.namespace}, "status": status}))
        raise errors.not_allowed()

    def _review(self, ask: Ask, request: Request, user: User) -> Answer:
        body = _body(request) or {}
        if ask.resource.plural == "selfsubjectreviews":
            return Answer(201, encode(access.self_review(user, body)))
        return Answer(201, encode(access.access_review(user, body)))

    def _patch(self, ask: Ask, request: Request) -> Answer:
        content = request.headers.get("content-type", "")
        if "merge-patch" not in content:
            raise Refused(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format ({content}) - accepted media types include: "
                "application/merge-patch+json, application/strategic-merge-patch+json",
            )
        body = self.registry.patch(ask.resource, ask.namespace if ask.resource.namespaced else "", ask.name, _body(request))
        return Answer(200, self._encoded(ask.resource, body))

    def _delete(self, ask: Ask, request: Request) -> Answer:
        how = Deletion.read(request.query, _body(request) or {})
        warnings = [PRESERVED] if ask.resource is JOBS and not how.policy else []
        try:
            body, gone = self.registry.delete(ask.resource, ask.namespace if ask.resource.namespaced else "", ask.name, how)
        except Refused as refused:
            refused.headers |= _warnings(warnings)
            raise
        if ask.resource is PODS or not gone:
            return Answer(200, self._encoded(ask.resource, body), _warnings(warnings))
        details = {"name": ask.name, "kind": ask.resource.plural, "uid": body["metadata"]["uid"]}
        if ask.resource.group:
            details["group"] = ask.resource.group
        return Answer(200, encode(_success({"details": details})), _warnings(warnings))

    def _delete_all(self, ask: Ask, request: Request) -> Answer:
        wanted = wanted_of(ask.resource, ask.namespace, request)
        how = Deletion.read(request.query, _body(request) or {})
        store = self.registry.store
        with store.lock:
            found = [record for _, record in store.records(ask.resource, ask.namespace)]
            chosen = [record.body for record in found if wanted.matches(record.labels, record.fields)]
            for body in chosen:
                self.registry.delete(ask.resource, *key_of(body), how)
            items = b",".join(encode(body) for body in chosen)
            head = b'{"kind":"%sList","apiVersion":"%s","metadata":{"resourceVersion":"%d"},"items":['
            start = head % (ask.resource.kind.encode(), ask.resource.api_version.encode(), store.version)
        return Answer(200, start + items + b"]}")

    def _encoded(self, resource: Resource, body: dict[str, Any]) -> bytes:
        with self.registry.store.lock:
            return encode({"kind": resource.kind, "apiVersion": resource.api_version, **body})


def _body(request: Request) -> Any:
    if not request.body:
        return None
    try:
        return decode(request.body)
    except ValueError as error:
        raise errors.bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def _refusal(refused: Refused) -> Answer:
    return Answer(refused.code, encode(refused.status()), refused.headers)


def _success(more: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", **more}


def _warnings(texts: list[str]) -> dict[str, str]:
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return {"Warning": ", ".join(f'299 - "{text}"' for text in quoted)} if texts else {}


def _continued(token: str, oldest: int) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        version, namespace, name = decode(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error) as error:
        raise errors.bad_request(f"continue key is not valid: {error}") from error
    if version < oldest:
        raise errors.continue_expired()
    return namespace, name
