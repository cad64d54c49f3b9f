"""Watches: the changes of a kind of object, as they happen, to each client that follows them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.doubles.kubernetes.http.connection import Cut
from tests.doubles.kubernetes.http.messages import Request, Send
from tests.doubles.kubernetes.objects import errors, selectors
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, Resource
from tests.doubles.kubernetes.objects.store import (
    ADDED,
    DELETED,
    MODIFIED,
    Change,
    Store,
    partial_of,
    whole,
)
from tests.doubles.kubernetes.objects.wire import encode

#: Seconds a watch lasts that names no end.
DEFAULT_SECONDS = 3600.0
#: Seconds between two looks whether a client that is sent nothing is still there.
LOOK = 5.0

_END, _CUT = object(), object()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes a client asked for."""

    resource: Resource
    namespace: str
    labels: selectors.Match | None
    fields: selectors.Match | None
    partial: bool

    def kind(self, change: Change) -> str | None:
        """What a change is to this client, None if nothing: an object that leaves the selection is
        DELETED.
        """
        if self.namespace and change.fields["metadata.namespace"] != self.namespace:
            return None
        now = change.kind != DELETED and self.matches(change.labels, change.fields)
        before = change.before is not None and self.matches(*change.before)
        if now:
            return MODIFIED if before else ADDED
        return DELETED if before else None

    def matches(self, labels: selectors.Values, fields: selectors.Values) -> bool:
        """Whether an object is selected."""
        return (self.labels is None or self.labels(labels)) and (
            self.fields is None or self.fields(fields)
        )


class Watch:
    """One client's watch. Made under the store's lock, so that no change falls between the list and
    the watch.
    """

    def __init__(
        self, wanted: Wanted, store: Store, bookmarks: float | None, seconds: float
    ) -> None:
        self._wanted = wanted
        self._store = store
        self._bookmarks = bookmarks
        self._ends = time.monotonic() + seconds
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.silent = threading.Event()
        """Set: nothing is sent any more, not even the end, and the connection stays open."""

    def begin(self, changes: list[Change] | None) -> None:
        """Follow from now on, after ``changes``, or after all that is there (None)."""
        if changes is None:
            if present := self._present():
                self._queue.put(present)
        else:
            for change in changes:
                self.hook(change)
        self._store.subscribe(self._wanted.resource, self.hook)

    def hook(self, change: Change) -> None:
        """Take a change."""
        kind = self._wanted.kind(change)
        if kind is not None:
            self._queue.put(change.line(kind, partial=self._wanted.partial))

    def end(self, *, cut: bool = False) -> None:
        """End in order, as the server does every few minutes; or ``cut`` the connection."""
        self._queue.put(_CUT if cut else _END)

    def stream(self, send: Send, gone: Callable[[], bool]) -> None:
        """Send until the watch ends or the client is gone.

        Raises:
            Cut: the connection is to be reset.
        """
        due = time.monotonic() + self._bookmarks if self._bookmarks else float("inf")
        try:
            while True:
                now = time.monotonic()
                lines, end = self._take(min(due, self._ends) - now)
                if self.silent.is_set():
                    if end is _CUT or gone():
                        raise Cut
                    continue
                if time.monotonic() >= min(due, self._ends) and self._bookmarks:
                    with self._store.lock:
                        lines += self._drain()
                        lines.append(self._bookmark())
                    due = time.monotonic() + self._bookmarks
                if lines and not send(b"".join(lines)):
                    return
                if end is _CUT:
                    raise Cut
                if end is _END or time.monotonic() >= self._ends or (not lines and gone()):
                    return
        finally:
            with self._store.lock:
                self._store.unsubscribe(self._wanted.resource, self.hook)

    def _take(self, seconds: float) -> tuple[list[bytes], object]:
        lines: list[bytes] = []
        try:
            item = self._queue.get(timeout=max(0.0, min(seconds, LOOK)))
            while isinstance(item, bytes):
                lines.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return lines, None
        return lines, item

    def _drain(self) -> list[bytes]:
        lines: list[bytes] = []
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if not isinstance(item, bytes):
                self._queue.put(item)
                break
            lines.append(item)
        return lines

    def _present(self) -> bytes:
        wanted = self._wanted
        lines = []
        for _, record in self._store.records(wanted.resource, wanted.namespace):
            if wanted.matches(record.labels, record.fields):
                if wanted.partial:
                    body = partial_of(record.data, listed=False)
                else:
                    body = whole(wanted.resource, record.data)
                lines.append(b'{"type":"ADDED","object":' + body + b"}\n")
        return b"".join(lines)

    def _bookmark(self) -> bytes:
        resource = self._wanted.resource
        body = {"kind": resource.kind, "apiVersion": resource.api_version}
        if self._wanted.partial:
            body = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        # Go writes the empty object that a bookmark carries with its required fields, and a list
        # that is null.
        empty: dict[str, object] = (
            {"spec": {"containers": None}, "status": {}} if resource is PODS else {}
        )
        if resource is JOBS:
            empty = {"spec": {"template": {"spec": {"containers": None}}}, "status": {}}
        version = {"metadata": {"resourceVersion": str(self._store.version)}}
        return (
            b'{"type":"BOOKMARK","object":'
            + encode({**body, **version, **({} if self._wanted.partial else empty)})
            + b"}\n"
        )


def wanted_of(resource: Resource, namespace: str, request: Request) -> Wanted:
    """Read what a list or a watch asks for.

    Raises:
        Refused: 400, a selector cannot be read.
    """
    return Wanted(
        resource,
        namespace,
        selectors.labels(request.query.get("labelSelector", "")),
        selectors.fields(resource, request.query.get("fieldSelector", "")),
        "as=PartialObjectMetadata" in request.headers.get("accept", ""),
    )


def open_watch(
    store: Store, resource: Resource, namespace: str, request: Request, bookmarks: float
) -> Watch:
    """Start a watch.

    Args:
        store: where the changes come from.
        resource: whose.
        namespace: of which namespace, empty for all.
        request: selectors, ``resourceVersion``, ``timeoutSeconds``, ``allowWatchBookmarks``.
        bookmarks: seconds between bookmarks, for those who allow them.

    Raises:
        Refused: 400; 410 and 500 are to be told in the stream (see :func:`error_line`).
    """
    wanted = wanted_of(resource, namespace, request)
    if request.flag("sendInitialEvents"):
        raise errors.no_initial_events()
    version = request.query.get("resourceVersion", "")
    seconds = float(request.query.get("timeoutSeconds") or DEFAULT_SECONDS)
    with store.lock:
        changes: list[Change] | None = None
        if version not in ("", "0"):
            if not version.isdigit():
                raise errors.bad_request(
                    f'Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid'
                    " syntax"
                )
            if int(version) > store.version:
                raise errors.too_large(version, store.version)
            found = store.since(resource, int(version))
            if found is None:
                raise errors.expired(version, store.oldest_of(resource))
            changes = list(found)
        watch = Watch(
            wanted, store, bookmarks if request.flag("allowWatchBookmarks") else None, seconds
        )
        watch.begin(changes)
        return watch


def error_line(refused: errors.Refused) -> bytes:
    """A refusal inside a watch: it was answered 200 already."""
    return b'{"type":"ERROR","object":' + encode(refused.status()) + b"}\n"
