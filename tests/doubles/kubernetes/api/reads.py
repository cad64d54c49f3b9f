"""GET: one object, lists, logs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tests.doubles.kubernetes.api.request_info import RequestInfo
from tests.doubles.kubernetes.api.selection import Selection, wants_metadata
from tests.doubles.kubernetes.http.messages import Request, Response, Send
from tests.doubles.kubernetes.objects import errors
from tests.doubles.kubernetes.objects.bodies import Body, Key, key_of
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.store import Store, metadata_of, whole
from tests.doubles.kubernetes.objects.wire import decode, encode


class Logs(Protocol):
    """The source of the output of containers."""

    def check(self, pod: Body, query: Mapping[str, str]) -> None:
        """Refuse a container that has no log."""

    def stream(
        self, pod: Body, query: Mapping[str, str], send: Send, gone: Callable[[], bool]
    ) -> None:
        """Send the log of a container."""


def get(store: Store, info: RequestInfo, request: Request) -> Response:
    """Return one object.

    Raises:
        Refused: 404.
    """
    with store.lock:
        record = store.record(info.resource, info.space, info.name)
        if record is None:
            raise errors.not_found(info.resource, info.name)
        data = record.data
    if wants_metadata(request):
        return Response(200, metadata_of(data, listed=False))
    return Response(200, whole(info.resource, data))


def list_all(store: Store, info: RequestInfo, request: Request) -> Response:
    """Return a list, or a page of one (``limit`` and ``continue``).

    Raises:
        Refused: 400, a selector or a continue token is invalid; 410, the token is too old.
    """
    selection = Selection.of(info.resource, info.namespace, request)
    limit = int(request.query.get("limit") or 0)
    with store.lock:
        version, after = store.version, _continued(request.query.get("continue", ""), store.oldest)
        chosen = [
            (key_of(record.body), record.data)
            for record in selection.records(store)
            if after is None or key_of(record.body) > after
        ]
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if limit and len(chosen) > limit:
        metadata["remainingItemCount"] = len(chosen) - limit
        chosen = chosen[:limit]
        metadata["continue"] = base64.urlsafe_b64encode(encode([version, *chosen[-1][0]])).decode()
    kind, api_version = f"{info.resource.kind}List", info.resource.api_version
    items = [data for _, data in chosen]
    if selection.partial:
        kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        items = [metadata_of(data, listed=True) for data in items]
    head = b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":['
    return Response(
        200,
        head % (kind.encode(), api_version.encode(), encode(metadata)) + b",".join(items) + b"]}",
    )


def log(
    store: Store, logs: Logs, info: RequestInfo, request: Request, gone: Callable[[], bool]
) -> Response:
    """Return the log of a container.

    Raises:
        Refused: 404, the pod does not exist; 400, the container has no log.
    """
    with store.lock:
        pod = store.get(PODS, info.namespace, info.name)
        if pod is None:
            raise errors.not_found(PODS, info.name)
        logs.check(pod, request.query)
    if request.flag("follow"):
        return Response(
            200,
            content_type="text/plain",
            stream=lambda send: logs.stream(pod, request.query, send, gone),
        )
    text = bytearray()

    def keep(data: bytes) -> bool:
        text.extend(data)
        return True

    logs.stream(pod, request.query, keep, lambda: True)
    return Response(200, bytes(text), content_type="text/plain")


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
