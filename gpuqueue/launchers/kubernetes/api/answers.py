"""What the API answers besides single objects: pages of lists, lines of watches, refusals, and
events. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from msgspec import ValidationError, field, json

from gpuqueue.launchers.kubernetes.api.objects import Decoded, Job, Meta, Pod, seconds


class ObjectReference(Decoded, frozen=True):
    """What an event is about."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EventSeries(Decoded, frozen=True):
    """How often an event came again, as newer reporters count."""

    count: int | None = None
    last_observed_time: str | None = None


class Event(Decoded, frozen=True):
    """A core Event: something that a component says of an object."""

    metadata: Meta = Meta()
    involved_object: ObjectReference = ObjectReference()
    type: str = ""
    reason: str | None = None
    message: str | None = None
    count: int | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    series: EventSeries | None = None

    @property
    def last_seen(self) -> float | None:
        """When it was last reported, in Unix seconds, whichever of its fields tells."""
        repeated = self.series.last_observed_time if self.series else None
        told = (repeated, self.last_timestamp, self.event_time, self.metadata.creation_timestamp)
        return next((at for at in map(seconds, told) if at is not None), None)


class StatusCause(Decoded, frozen=True):
    """One thing that is wrong with a request."""

    reason: str | None = None
    message: str | None = None
    field: str | None = None


class StatusDetails(Decoded, frozen=True):
    """What a refusal says besides."""

    name: str | None = None
    kind: str | None = None
    causes: tuple[StatusCause, ...] | None = None
    retry_after_seconds: int | None = None


class StatusBody(Decoded, frozen=True):
    """The body of a refusal, and the object of a watch's ERROR event."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None


class ListMeta(Decoded, frozen=True):
    """``metadata`` of a list: from where to watch, and the token of the next page ("": this was the
    last).
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
    """A line of a watch. ``type`` is ADDED, MODIFIED, DELETED, or BOOKMARK, whose object has only a
    resourceVersion.
    """

    type: str
    object: T


PodList = Listed[Pod]
JobList = Listed[Job]
EventList = Listed[Event]
PodEvent = Watched[Pod]
JobEvent = Watched[Job]
EventEvent = Watched[Event]

#: Decoders are made once: making one costs more than using it.
POD_EVENTS: Final = json.Decoder(PodEvent)
JOB_EVENTS: Final = json.Decoder(JobEvent)
EVENT_EVENTS: Final = json.Decoder(EventEvent)
_ERRORS: Final = json.Decoder(Watched[StatusBody])


def read_line(line: bytes | str, events: json.Decoder[Watched[T]]) -> Watched[T] | StatusBody:
    """Decode one line of a watch: the event, or what the server's ERROR event says (e.g. code 410:
    list again).

    ``events`` is one of the decoders above. Raises ``msgspec.DecodeError`` where the line is
    neither.
    """
    try:
        event = events.decode(line)
        if event.type != "ERROR":
            return event
    except ValidationError:  # in a Status, ``status`` is a word
        if (refused := _ERRORS.decode(line)).type == "ERROR":
            return refused.object
        raise
    return _ERRORS.decode(line).object
