"""GET: one object, lists, logs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, Protocol

from tests.doubles.kubernetes.api.watches import wanted_of
from tests.doubles.kubernetes.http.messages import Answer, Ask, Request, Send
from tests.doubles.kubernetes.objects import errors
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.store import Key, Store, partial_of, whole
from tests.doubles.kubernetes.objects.wire import decode, encode


class Logs(Protocol):
    """Where the output of containers is."""

    def check(self, pod: dict[str, Any], query: dict[str, str]) -> None:
        """Refuse what has no log."""

    def stream(
        self, pod: dict[str, Any], query: dict[str, str], send: Send, gone: Callable[[], bool]
    ) -> None:
        """Send a container's log."""


def get(store: Store, ask: Ask, request: Request) -> Answer:
    """One object.

    Raises:
        Refused: 404.
    """
    with store.lock:
        record = store.record(ask.resource, ask.space, ask.name)
        if record is None:
            raise errors.not_found(ask.resource, ask.name)
        data = record.data
    if "as=PartialObjectMetadata" in request.headers.get("accept", ""):
        return Answer(200, partial_of(data, listed=False))
    return Answer(200, whole(ask.resource, data))


def list_all(store: Store, ask: Ask, request: Request) -> Answer:
    """A list, or a page of one: ``limit`` and ``continue``.

    Raises:
        Refused: 400, a selector or a continue token cannot be read; 410, the token is too old.
    """
    wanted = wanted_of(ask.resource, ask.namespace, request)
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
    kind, api_version = f"{ask.resource.kind}List", ask.resource.api_version
    items = [data for _, data in found]
    if wanted.partial:
        kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        items = [partial_of(data, listed=True) for data in items]
    head = b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":['
    return Answer(
        200,
        head % (kind.encode(), api_version.encode(), encode(metadata)) + b",".join(items) + b"]}",
    )


def log(store: Store, logs: Logs, ask: Ask, request: Request, gone: Callable[[], bool]) -> Answer:
    """The log of a container.

    Raises:
        Refused: 404, no such pod; 400, no log.
    """
    with store.lock:
        pod = store.get(PODS, ask.namespace, ask.name)
        if pod is None:
            raise errors.not_found(PODS, ask.name)
        logs.check(pod, request.query)
    if request.flag("follow"):
        return Answer(
            200,
            content_type="text/plain",
            stream=lambda send: logs.stream(pod, request.query, send, gone),
        )
    text = bytearray()

    def keep(data: bytes) -> bool:
        text.extend(data)
        return True

    logs.stream(pod, request.query, keep, lambda: True)
    return Answer(200, bytes(text), content_type="text/plain")


def _continued(token: str, oldest: int) -> Key | None:
    if not token:
        return None
    try:
        version, namespace, name = decode(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error) as error:
        raise errors.bad_request(f"continue key is not valid: {error}") from error
    if version < oldest:
        raise errors.continue_expired()
    return namespace, name
