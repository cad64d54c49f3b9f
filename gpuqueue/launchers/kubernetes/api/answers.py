"""Responses of the API other than single objects: pages of lists, lines of watches, errors, and
events. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from msgspec import ValidationError, field, json

from gpuqueue.launchers.kubernetes.api.objects import Decoded, Job, Meta, Pod, seconds


class ObjectReference(Decoded, frozen=True):
    """The object of an event."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EventSeries(Decoded, frozen=True):
    """How often an event was repeated, in the format of newer reporters."""

    count: int | None = None
    last_observed_time: str | None = None


class Event(Decoded, frozen=True):
    """A core Event: the report of a component about an object."""

    metadata: Meta = Meta()
    involved_object: ObjectReference = ObjectReference()
    type: str = ""
    reason: str | None = None
    message: str | None = None
    count: int | None = None
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    series: EventSeries | None = None

    @property
    def first_seen(self) -> float | None:
        """Time of the first report in Unix seconds, from the first field that has one."""
        times = (self.first_timestamp, self.event_time, self.metadata.creation_timestamp)
        return next((at for at in map(seconds, times) if at is not None), None)

    @property
    def last_seen(self) -> float | None:
        """Time of the last report in Unix seconds, from the first field that has one."""
        repeated = self.series.last_observed_time if self.series else None
        times = (repeated, self.last_timestamp, self.event_time, self.metadata.creation_timestamp)
        return next((at for at in map(seconds, times) if at is not None), None)


class StatusCause(Decoded, frozen=True):
    """One problem of a request. A policy names no field."""

    reason: str | None = None
    message: str | None = None
    field: str | None = None


class StatusDetails(Decoded, frozen=True):
    """Details of an error."""

    name: str | None = None
    kind: str | None = None
    causes: tuple[StatusCause, ...] | None = None
    retry_after_seconds: int | None = None


class StatusBody(Decoded, frozen=True):
    """The body of an error response, and the object of an ERROR event in a watch."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None


class ListMeta(Decoded, frozen=True):
    """``metadata`` of a list: the version to watch from, and the token of the next page.

    An empty token marks the last page.
    """

    resource_version: str = ""
    continue_: str = field(default="", name="continue")


T = TypeVar("T")


class Listed(Decoded, Generic[T], frozen=True):
    """A page of a list."""

    metadata: ListMeta = ListMeta()
    items: list[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items or ())


class Watched(Decoded, Generic[T], frozen=True):
    """A line of a watch. ``type`` is ADDED, MODIFIED, DELETED or BOOKMARK.

    The object of a BOOKMARK has only a resourceVersion.
    """

    type: str
    object: T


PodEvent = Watched[Pod]
JobEvent = Watched[Job]
EventEvent = Watched[Event]

#: Decoders are created once, since creating one costs more than using it.
POD_EVENTS: Final = json.Decoder(PodEvent)
JOB_EVENTS: Final = json.Decoder(JobEvent)
EVENT_EVENTS: Final = json.Decoder(EventEvent)
_ERRORS: Final = json.Decoder(Watched[StatusBody])


def read_line(line: bytes | str, events: json.Decoder[Watched[T]]) -> Watched[T] | StatusBody:
    """Decode one line of a watch: an event, or the Status of an ERROR event (code 410: list again).

    ``events`` is one of the decoders above. Raises ``msgspec.DecodeError`` for any other line.
    """
    try:
        event = events.decode(line)
        if event.type != "ERROR":
            return event
    except ValidationError:  # ``status`` of a Status is a string
        if (refused := _ERRORS.decode(line)).type == "ERROR":
            return refused.object
        raise
    return _ERRORS.decode(line).object
