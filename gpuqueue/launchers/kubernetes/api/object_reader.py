"""Read and decode objects of the API: one object, or all pages of a list.

Never here: which objects exist. :class:`~gpuqueue.launchers.kubernetes.api.requests.Requests`
builds on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import Listed
from gpuqueue.launchers.kubernetes.api.errors import Expired, NotFound, Unreachable
from gpuqueue.launchers.kubernetes.api.transport import Transport

T = TypeVar("T")
#: Objects in one page of a list, as in kubectl.
PAGE = 500
#: Page sizes of the tries of a list: it starts again if its next page has expired. The last try
#: has no pages, so none can expire.
_LIMITS = (PAGE, PAGE, 0)


class ObjectReader:
    """Reads from one server and one namespace."""

    def __init__(self, transport: Transport, namespace: str) -> None:
        self._transport = transport
        self.namespace = namespace
        self._jobs = f"/apis/batch/v1/namespaces/{quote(namespace, safe='')}/jobs"
        self._core = f"/api/v1/namespaces/{quote(namespace, safe='')}"

    def server_time(self, now: float) -> float:
        """Return the time of the server at ``now``, a time of Redis: the same if none is known."""
        known = self._transport.clock.now()
        return now if known is None else known

    def _get(self, request: str, path: str) -> bytes | None:
        try:
            return self._transport.send(request, "GET", path)
        except NotFound:
            return None

    def _list(
        self,
        kind: str,
        path: str,
        decoder: msgspec.json.Decoder[Listed[T]],
        query: Mapping[str, str],
    ) -> tuple[list[T], str]:
        request = f"list {kind} in {self.namespace}"
        for limit in _LIMITS:
            try:
                return self._pages(
                    request, path, decoder, {**query, **({"limit": limit} if limit else {})}
                )
            except Expired as exc:
                expired = exc
        raise expired

    def _pages(
        self,
        request: str,
        path: str,
        decoder: msgspec.json.Decoder[Listed[T]],
        query: dict[str, str | int],
    ) -> tuple[list[T], str]:
        items: list[T] = []
        while True:
            page = self._decode(request, decoder, self._transport.send(request, "GET", path, query))
            items += page
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    def _decode(self, request: str, decoder: msgspec.json.Decoder[T], body: bytes) -> T:
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise Unreachable(
                f"{self._transport.server} does not answer like a Kubernetes API: {exc}",
                request=request,
            ) from exc
