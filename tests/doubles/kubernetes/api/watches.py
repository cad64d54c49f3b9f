"""Watches: each one streams the changes of a kind of object to a client."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from tests.doubles.kubernetes.api.selection import Selection
from tests.doubles.kubernetes.http.connection import Cut
from tests.doubles.kubernetes.http.messages import Request, Send
from tests.doubles.kubernetes.objects import errors
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, Resource
from tests.doubles.kubernetes.objects.store import (
    Change,
    Store,
)
from tests.doubles.kubernetes.objects.wire import encode

#: Seconds until the end of a watch without ``timeoutSeconds``.
DEFAULT_SECONDS = 3600.0
#: Seconds between two checks whether the client of an idle watch is still connected.
CHECK = 5.0

_END, _CUT = object(), object()


class Watch:
    """The watch of one client. The caller holds the store's lock from the list to :meth:`begin`, so
    that the watch misses no change.
    """

    def __init__(
        self, selection: Selection, store: Store, bookmarks: float | None, seconds: float
    ) -> None:
        self._selection = selection
        self._store = store
        self._bookmarks = bookmarks
        self._ends = time.monotonic() + seconds
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.silent = threading.Event()
        """Set: the watch sends nothing any more, not even its end. The connection stays open."""

    def begin(self, changes: list[Change] | None) -> None:
        """Start with these changes, or with all present objects (None), then follow new changes."""
        if changes is None:
            if present := self._present():
                self._queue.put(present)
        else:
            for change in changes:
                self._take_change(change)
        self._store.subscribe(self._selection.resource, self._take_change)

    def end(self, *, cut: bool = False) -> None:
        """End in order, as the server does every few minutes, or ``cut`` the connection."""
        self._queue.put(_CUT if cut else _END)

    def stream(self, send: Send, gone: Callable[[], bool]) -> None:
        """Send until the watch ends or the client is gone.

        Raises:
            Cut: the server resets the connection.
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
                self._store.unsubscribe(self._selection.resource, self._take_change)

    def _take_change(self, change: Change) -> None:
        kind = self._selection.change_type(change)
        if kind is not None:
            self._queue.put(change.line(kind, partial=self._selection.partial))

    def _take(self, seconds: float) -> tuple[list[bytes], object]:
        lines: list[bytes] = []
        try:
            item = self._queue.get(timeout=max(0.0, min(seconds, CHECK)))
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
        return b"".join(
            b'{"type":"ADDED","object":' + self._selection.encode(record) + b"}\n"
            for record in self._selection.records(self._store)
        )

    def _bookmark(self) -> bytes:
        resource = self._selection.resource
        body = {"kind": resource.kind, "apiVersion": resource.api_version}
        if self._selection.partial:
            body = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        # Go encodes the empty object of a bookmark with its required fields; a list is null.
        empty: dict[str, object] = (
            {"spec": {"containers": None}, "status": {}} if resource is PODS else {}
        )
        if resource is JOBS:
            empty = {"spec": {"template": {"spec": {"containers": None}}}, "status": {}}
        version = {"metadata": {"resourceVersion": str(self._store.version)}}
        return (
            b'{"type":"BOOKMARK","object":'
            + encode({**body, **version, **({} if self._selection.partial else empty)})
            + b"}\n"
        )


class OpenWatches:
    """The watches that are open now."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._lock = threading.Lock()

    def add(self, watch: Watch) -> None:
        """Add a watch that starts."""
        with self._lock:
            self._watches.add(watch)

    def discard(self, watch: Watch) -> None:
        """Forget a watch that has ended."""
        with self._lock:
            self._watches.discard(watch)

    def all(self) -> list[Watch]:
        """Return the watches that are open now."""
        with self._lock:
            return list(self._watches)


def open_watch(
    store: Store, resource: Resource, namespace: str, request: Request, bookmarks: float
) -> Watch:
    """Start a watch.

    Args:
        store: the source of the changes.
        resource: the kind of the objects.
        namespace: the namespace, empty for all.
        request: selectors, ``resourceVersion``, ``timeoutSeconds``, ``allowWatchBookmarks``.
        bookmarks: seconds between bookmarks, if the client allows them.

    Raises:
        Refused: 400 or 504; 410 and 500 belong into the stream (see :func:`error_line`).
    """
    selection = Selection.of(resource, namespace, request)
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
            selection, store, bookmarks if request.flag("allowWatchBookmarks") else None, seconds
        )
        watch.begin(changes)
        return watch


def error_line(refused: errors.Refused) -> bytes:
    """Return a refusal as a line of a watch, whose status code was 200 already."""
    return b'{"type":"ERROR","object":' + encode(refused.status()) + b"}\n"
