"""The objects of the cluster with their versions and history; subscribers get every change.

One lock guards all of it. Parts of the cluster change objects in place under the lock. The store
encodes each accepted version at once, and readers and watches get these bytes: no client sees a
half-made change.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tests.doubles.kubernetes.objects.bodies import Body, Key, is_terminating, key_of
from tests.doubles.kubernetes.objects.kinds import STORED, Resource
from tests.doubles.kubernetes.objects.selectors import field_values
from tests.doubles.kubernetes.objects.wire import decode, encode, new_uid, stamp

#: The labels and the selectable fields of an object.
Selectable = tuple[dict[str, str], dict[str, str]]
Hook = Callable[["Change"], None]

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

#: Changes kept for each resource: a watch that starts before them gets 410.
HISTORY = 4096


class Record:
    """An object, and the bytes of its newest version (without ``kind`` and ``apiVersion``)."""

    __slots__ = ("body", "data", "fields", "labels")

    def __init__(self, body: Body) -> None:
        self.body = body
        self.data = b""
        self.labels: dict[str, str] = {}
        self.fields: dict[str, str] = {}


class Change:
    """A new version of an object. ``before`` is what selectors matched in the version before it,
    None for a new object.
    """

    __slots__ = (
        "_lines",
        "before",
        "body",
        "data",
        "fields",
        "kind",
        "labels",
        "resource",
        "version",
    )

    def __init__(
        self,
        kind: str,
        resource: Resource,
        version: int,
        record: Record,
        before: Selectable | None,
    ) -> None:
        self.kind = kind
        self.resource = resource
        self.version = version
        self.body = record.body
        self.data = record.data
        self.labels, self.fields = record.labels, record.fields
        self.before = before
        self._lines: dict[tuple[str, bool], bytes] = {}

    def line(self, kind: str, *, partial: bool) -> bytes:
        """Return the change as a line of a watch; ``kind`` is the type for that watch."""
        line = self._lines.get((kind, partial))
        if line is None:
            body = (
                metadata_of(self.data, listed=False) if partial else whole(self.resource, self.data)
            )
            line = self._lines[kind, partial] = (
                b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"
            )
        return line


def whole(resource: Resource, data: bytes) -> bytes:
    """Return the bytes of an object with ``kind`` and ``apiVersion``, which items of lists lack."""
    return b'{"kind":"%s","apiVersion":"%s",%s' % (
        resource.kind.encode(),
        resource.api_version.encode(),
        data[1:],
    )


def metadata_of(data: bytes, *, listed: bool) -> bytes:
    """Return the metadata of an object alone; without ``kind`` for an item of a list."""
    metadata = encode(decode(data)["metadata"])
    head = b"" if listed else b'"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",'
    return b"{" + head + b'"metadata":' + metadata + b"}"


class Store:
    """All objects. Code that changes or reads bodies holds ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1
        self.oldest = 1
        """The history of every resource starts here or later."""
        self._tables: dict[Resource, dict[Key, Record]] = {resource: {} for resource in STORED}
        self._history: dict[Resource, deque[Change]] = {
            resource: deque(maxlen=HISTORY) for resource in STORED
        }
        self._hooks: dict[Resource, list[Hook]] = {resource: [] for resource in STORED}

    def subscribe(self, resource: Resource, hook: Hook) -> None:
        """Call ``hook`` with every change, under the lock: it must be quick."""
        with self.lock:
            self._hooks[resource].append(hook)

    def unsubscribe(self, resource: Resource, hook: Hook) -> None:
        """Stop calling ``hook``."""
        with self.lock:
            self._hooks[resource].remove(hook)

    def get(self, resource: Resource, namespace: str, name: str) -> Body | None:
        """Return an object, to read or to change in place; None if it does not exist."""
        record = self._tables[resource].get((namespace, name))
        return None if record is None else record.body

    def record(self, resource: Resource, namespace: str, name: str) -> Record | None:
        """Return an object with its bytes, None if it does not exist."""
        return self._tables[resource].get((namespace, name))

    def bodies(self, resource: Resource, namespace: str = "") -> Iterator[Body]:
        """Yield all objects of a kind, or those of one namespace."""
        for (space, _), record in self._tables[resource].items():
            if not namespace or space == namespace:
                yield record.body

    def unsorted(self, resource: Resource, namespace: str = "") -> list[Record]:
        """Return all objects of a kind with their bytes, oldest first."""
        return [
            record
            for (space, _), record in self._tables[resource].items()
            if not namespace or space == namespace
        ]

    def records(self, resource: Resource, namespace: str = "") -> list[tuple[Key, Record]]:
        """Return all objects of a kind with their bytes, in the order of lists."""
        return sorted(
            item
            for item in self._tables[resource].items()
            if not namespace or item[0][0] == namespace
        )

    def count(self, resource: Resource) -> int:
        """Return the number of objects of a kind."""
        return len(self._tables[resource])

    def add(self, resource: Resource, body: Body) -> Body:
        """Store a new object with uid, creation time and version. The caller has checked that the
        name is free.
        """
        metadata = body["metadata"]
        metadata.setdefault("uid", new_uid())
        metadata.setdefault("creationTimestamp", stamp())
        body.pop("kind", None)
        body.pop("apiVersion", None)
        record = Record(body)
        self._tables[resource][key_of(body)] = record
        self._accept(ADDED, resource, record, None)
        return body

    def save(self, resource: Resource, body: Body) -> bool:
        """Accept a change made in place; False if there is none. Removes an object that is being
        deleted and has lost its last finalizer.
        """
        record = self._tables[resource].get(key_of(body))
        if record is None or record.body is not body or encode(body) == record.data:
            return False
        metadata = body["metadata"]
        if is_terminating(body) and not metadata.get("finalizers") and not _graceful(metadata):
            if finalizers := decode(record.data)["metadata"].get("finalizers"):
                # The last version of an object still has its last finalizer.
                metadata["finalizers"] = finalizers
            self.remove(resource, body)
        else:
            self._accept(MODIFIED, resource, record, (record.labels, record.fields))
        return True

    def touch(self, resource: Resource, body: Body) -> None:
        """Accept a new version as it is, even where :meth:`save` would remove the object."""
        record = self._tables[resource][key_of(body)]
        self._accept(MODIFIED, resource, record, (record.labels, record.fields))

    def remove(self, resource: Resource, body: Body) -> None:
        """Remove an object. The removal is a version too."""
        record = self._tables[resource].pop(key_of(body), None)
        if record is not None:
            self._accept(DELETED, resource, record, (record.labels, record.fields))

    def compact(self) -> None:
        """Forget the history: a watch from an older version gets 410. The version grows, as if an
        object had changed meanwhile.
        """
        with self.lock:
            self.version += 1
            self.oldest = self.version
            for changes in self._history.values():
                changes.clear()

    def since(self, resource: Resource, version: int) -> Iterable[Change] | None:
        """Return the changes after a version, None if the history does not have all of them."""
        changes = self._history[resource]
        full = len(changes) == changes.maxlen
        if version < self.oldest or (full and version < changes[0].version - 1):
            return None
        return [change for change in changes if change.version > version]

    def oldest_of(self, resource: Resource) -> int:
        """Return the oldest version from which a watch of a kind can start."""
        changes = self._history[resource]
        return changes[0].version if len(changes) == changes.maxlen else self.oldest

    def _accept(
        self, kind: str, resource: Resource, record: Record, before: Selectable | None
    ) -> None:
        self.version += 1
        record.body["metadata"]["resourceVersion"] = str(self.version)
        record.data = encode(record.body)
        record.labels = record.body["metadata"].get("labels") or {}
        record.fields = field_values(resource, record.body)
        change = Change(kind, resource, self.version, record, before)
        self._history[resource].append(change)
        for hook in tuple(self._hooks[resource]):
            hook(change)


def _graceful(metadata: Body) -> bool:
    return bool(metadata.get("deletionGracePeriodSeconds"))
