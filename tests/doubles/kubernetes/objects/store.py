"""The objects of the cluster, their versions and their history; who watches is told of every
change.

One lock guards everything. Objects are changed in place under it, and every accepted change is
frozen as bytes at once: readers and watchers get the bytes, so nobody sees an object half changed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.doubles.kubernetes.objects.kinds import STORED, Resource
from tests.doubles.kubernetes.objects.selectors import field_values
from tests.doubles.kubernetes.objects.wire import decode, encode, new_uid, stamp

Body = dict[str, Any]
Key = tuple[str, str]
Hook = Callable[["Change"], None]

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

#: Changes kept for each resource: a watch that starts further back is answered 410.
HISTORY = 4096


class Record:
    """An object, and the bytes of its last accepted version (without ``kind`` and ``apiVersion``)."""

    __slots__ = ("body", "data", "fields", "labels")

    def __init__(self, body: Body) -> None:
        self.body = body
        self.data = b""
        self.labels: dict[str, str] = {}
        self.fields: dict[str, str] = {}


class Change:
    """One version of an object. ``before`` is what it answered to selectors until then, None if it
    was not there.
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
        self, kind: str, resource: Resource, version: int, record: Record, before: Any
    ) -> None:
        self.kind = kind
        self.resource = resource
        self.version = version
        self.body = record.body
        self.data = record.data
        self.labels, self.fields = record.labels, record.fields
        self.before: tuple[dict[str, str], dict[str, str]] | None = before
        self._lines: dict[tuple[str, bool], bytes] = {}

    def line(self, kind: str, *, partial: bool) -> bytes:
        """The change as a line of a watch; ``kind`` is what it is to one watcher."""
        line = self._lines.get((kind, partial))
        if line is None:
            body = (
                partial_of(self.data, listed=False) if partial else whole(self.resource, self.data)
            )
            line = self._lines[kind, partial] = (
                b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"
            )
        return line


def whole(resource: Resource, data: bytes) -> bytes:
    """An object's bytes with the kind that items of a list go without."""
    return b'{"kind":"%s","apiVersion":"%s",%s' % (
        resource.kind.encode(),
        resource.api_version.encode(),
        data[1:],
    )


def partial_of(data: bytes, *, listed: bool) -> bytes:
    """Only the metadata of an object; an item of a list goes without its kind."""
    metadata = encode(decode(data)["metadata"])
    head = b"" if listed else b'"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",'
    return b"{" + head + b'"metadata":' + metadata + b"}"


class Store:
    """All objects. What changes or reads bodies holds ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1
        self.oldest = 1
        """Changes before this version are forgotten everywhere."""
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
        """No more."""
        with self.lock:
            self._hooks[resource].remove(hook)

    def get(self, resource: Resource, namespace: str, name: str) -> Body | None:
        """An object to read or to change in place, if it is there."""
        record = self._tables[resource].get((namespace, name))
        return None if record is None else record.body

    def record(self, resource: Resource, namespace: str, name: str) -> Record | None:
        """An object with its bytes."""
        return self._tables[resource].get((namespace, name))

    def bodies(self, resource: Resource, namespace: str = "") -> Iterator[Body]:
        """All objects of a kind, of one namespace if it is named."""
        for (space, _), record in self._tables[resource].items():
            if not namespace or space == namespace:
                yield record.body

    def unsorted(self, resource: Resource, namespace: str = "") -> list[Record]:
        """All objects of a kind with their bytes, the oldest first."""
        return [
            record
            for (space, _), record in self._tables[resource].items()
            if not namespace or space == namespace
        ]

    def records(self, resource: Resource, namespace: str = "") -> list[tuple[Key, Record]]:
        """All objects of a kind with their bytes, in the order in which lists give them."""
        return sorted(
            item
            for item in self._tables[resource].items()
            if not namespace or item[0][0] == namespace
        )

    def count(self, resource: Resource) -> int:
        """How many there are."""
        return len(self._tables[resource])

    def add(self, resource: Resource, body: Body) -> Body:
        """Store a new object: it gets uid, creation time and version. The caller has looked that
        the name is free.
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
        """Accept what was changed in place; False if nothing was. A deleted object's last finalizer
        takes it away.
        """
        record = self._tables[resource].get(key_of(body))
        if record is None or record.body is not body or encode(body) == record.data:
            return False
        metadata = body["metadata"]
        if (
            "deletionTimestamp" in metadata
            and not metadata.get("finalizers")
            and not _graceful(metadata)
        ):
            if finalizers := decode(record.data)["metadata"].get("finalizers"):
                metadata["finalizers"] = (
                    finalizers  # the last version of an object still has its last finalizer
                )
            self.remove(resource, body)
        else:
            self._accept(MODIFIED, resource, record, (record.labels, record.fields))
        return True

    def touch(self, resource: Resource, body: Body) -> None:
        """Accept a version as it is, also one that :meth:`save` would take as the end of the
        object.
        """
        record = self._tables[resource][key_of(body)]
        self._accept(MODIFIED, resource, record, (record.labels, record.fields))

    def remove(self, resource: Resource, body: Body) -> None:
        """Take an object away; its last version is told with a version of its own."""
        record = self._tables[resource].pop(key_of(body), None)
        if record is not None:
            self._accept(DELETED, resource, record, (record.labels, record.fields))

    def compact(self) -> None:
        """Forget the history: a watch from before now is answered 410. As in a busy cluster,
        something has changed meanwhile.
        """
        with self.lock:
            self.version += 1
            self.oldest = self.version
            for changes in self._history.values():
                changes.clear()

    def since(self, resource: Resource, version: int) -> Iterable[Change] | None:
        """The changes after a version, or None if they are not all known any more."""
        changes = self._history[resource]
        full = len(changes) == changes.maxlen
        if version < self.oldest or (full and version < changes[0].version - 1):
            return None
        return [change for change in changes if change.version > version]

    def oldest_of(self, resource: Resource) -> int:
        """From which version a watch can start."""
        changes = self._history[resource]
        return changes[0].version if len(changes) == changes.maxlen else self.oldest

    def _accept(self, kind: str, resource: Resource, record: Record, before: Any) -> None:
        self.version += 1
        record.body["metadata"]["resourceVersion"] = str(self.version)
        record.data = encode(record.body)
        record.labels = record.body["metadata"].get("labels") or {}
        record.fields = field_values(resource, record.body)
        change = Change(kind, resource, self.version, record, before)
        self._history[resource].append(change)
        for hook in tuple(self._hooks[resource]):
            hook(change)


def key_of(body: Body) -> Key:
    """Where an object is kept."""
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def _graceful(metadata: Body) -> bool:
    return bool(metadata.get("deletionGracePeriodSeconds"))
