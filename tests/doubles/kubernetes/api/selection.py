"""Which objects a list or a watch is about, and in which form."""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles.kubernetes.http.messages import Request
from tests.doubles.kubernetes.objects import selectors
from tests.doubles.kubernetes.objects.kinds import Resource
from tests.doubles.kubernetes.objects.store import (
    ADDED,
    DELETED,
    MODIFIED,
    Change,
    Record,
    Store,
    metadata_of,
    whole,
)


def wants_metadata(request: Request) -> bool:
    """Whether the client asks for PartialObjectMetadata."""
    return "as=PartialObjectMetadata" in request.headers.get("accept", "")


@dataclass(frozen=True, slots=True)
class Selection:
    """The objects that a client selects. ``partial``: it gets their metadata alone."""

    resource: Resource
    namespace: str
    labels: selectors.Match | None
    fields: selectors.Match | None
    partial: bool

    @classmethod
    def of(cls, resource: Resource, namespace: str, request: Request) -> Selection:
        """Return the selection of a request.

        Raises:
            Refused: 400, a selector is invalid.
        """
        return cls(
            resource,
            namespace,
            selectors.labels(request.query.get("labelSelector", "")),
            selectors.fields(resource, request.query.get("fieldSelector", "")),
            wants_metadata(request),
        )

    def matches(self, labels: selectors.Values, fields: selectors.Values) -> bool:
        """Whether the selectors match an object."""
        return (self.labels is None or self.labels(labels)) and (
            self.fields is None or self.fields(fields)
        )

    def records(self, store: Store) -> list[Record]:
        """Return the selected objects in the order of lists. The caller holds the store's lock."""
        return [
            record
            for _, record in store.records(self.resource, self.namespace)
            if self.matches(record.labels, record.fields)
        ]

    def change_type(self, change: Change) -> str | None:
        """Return the type of a change for this client, None if the client gets none of it.

        An object that leaves the selection is DELETED.
        """
        if self.namespace and change.fields["metadata.namespace"] != self.namespace:
            return None
        now = change.kind != DELETED and self.matches(change.labels, change.fields)
        before = change.before is not None and self.matches(*change.before)
        if now:
            return MODIFIED if before else ADDED
        return DELETED if before else None

    def encode(self, record: Record) -> bytes:
        """Return a selected object as JSON."""
        if self.partial:
            return metadata_of(record.data, listed=False)
        return whole(self.resource, record.data)
