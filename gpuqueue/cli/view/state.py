"""What commands read: one connection, one clock, and small views of the store's answers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gpuqueue.model.names import CHOOSING
from gpuqueue.model.place import Place
from gpuqueue.model.profile import Profile
from gpuqueue.model.record import FIELDS, Record, Use, fields_with
from gpuqueue.settings.dispatcher import Settings, load
from gpuqueue.store import layout, serving
from gpuqueue.store.client import Redis, check, connect
from gpuqueue.store.clock import redis_time
from gpuqueue.store.profiles import Profiles
from gpuqueue.store.readable import gpu_class as gpu_class
from gpuqueue.store.reader import ClassView, Reader

#: Seconds that a command waits for Redis: a person is watching.
TIMEOUT = 5.0
#: kombu's Redis transport keeps a queue's messages in one list for each of these priority steps,
#: whose names have this separator, unless its options say otherwise.
_STEPS, _SEPARATOR = (0, 3, 6, 9), "\x06\x16"
#: The times of a job that commands show, in the order in which they come.
MOMENTS = tuple(
    name for name in fields_with(Use.SHOWN) if FIELDS[name].kind is float and name != "warm"
)


@dataclass(frozen=True, slots=True)
class State:
    """What a command reads with."""

    client: Redis
    reader: Reader
    settings: Settings

    def now(self) -> float:
        """Return the time of Redis in Unix seconds, the same on every machine."""
        return redis_time(self.client)

    def dispatchers(self) -> list[str]:
        """Return the dispatchers that are alive."""
        return self.reader.dispatchers(self.now() - serving.ALIVE)

    def unserved(self) -> list[str]:
        """Return the classes that no live dispatcher serves."""
        return serving.unserved(self.client, serving.ALIVE)

    def profiles(
        self, application: str | None, classes: Collection[str] | None = None
    ) -> dict[str, Profile]:
        """Return image → what executors have told of an application there; None: of any. Of all
        classes, unless some are named.
        """
        known = list(self.reader.classes() if classes is None else classes)
        told = Profiles(self.client, known).of(application)
        found = {image: Profile.parse(each) for image, each in told.items()}
        return {image: profile for image, profile in found.items() if profile is not None}

    def unaccepted(self, classes: Collection[str]) -> dict[str, int]:
        """Return queue → number of messages that no dispatcher has taken; no empty queues."""
        queues = [
            *(f"gpu.{name}{end}" for name in classes for end in ("", ".shared", ".exclusive"))
        ]
        queues += [f"gpu.{name}" for name in CHOOSING]
        broker, where = self.client, self.settings.redis
        if where.broker and where.broker != where.state:
            broker = connect(where.broker, timeout=TIMEOUT, retries=1)
        options = where.broker_options
        steps, separator = options.get("priority_steps") or _STEPS, options.get("sep") or _SEPARATOR
        named = {separator: set(steps)}
        # An application may name lists otherwise, whether its dispatchers have learnt that or not.
        for each in self.profiles(None, classes).values():
            named.setdefault(each.separator, set()).update(each.steps)
        ends = sorted(
            {f"{sep}{step}" if step else "" for sep, steps in named.items() for step in steps}
        )
        pipe = broker.pipeline(transaction=False)
        for queue in queues:
            for end in ends:
                pipe.llen(f"{where.broker_prefix}{queue}{end}")
        lengths, many = pipe.execute(), len(ends)
        totals = {
            queue: sum(lengths[at * many : (at + 1) * many]) for at, queue in enumerate(queues)
        }
        return {queue: total for queue, total in totals.items() if total}


def open_state() -> State:
    """Connect to Redis and check its layout.

    Raises :class:`SettingsError`, :class:`LayoutMismatch`, or, within a few seconds,
    :class:`ServerUnreachable`.
    """
    settings = load()
    client = connect(settings.redis_url, timeout=TIMEOUT, retries=1)
    check(client, settings.redis_url, settings.redis_setting)
    layout.check(client, settings.redis_url, settings.redis_setting)
    return State(client, Reader(client), settings)


def job(record: Record) -> dict[str, Any]:
    """Return the visible fields of a job. Times are Unix seconds; unknown fields are left out."""
    found: dict[str, Any] = dict(record)
    found["name"] = found.get("name") or found.get("task", "")
    return {key: found[key] for key in fields_with(Use.SHOWN) if key in found}


def place_view(found: Place) -> dict[str, Any]:
    """Return what commands show of a place. Times are Unix seconds."""
    return {
        "place": found.name,
        "kind": found.kind,
        "set_aside": found.until is not None,
        "until": found.until,
        "failures": found.failures,
        "jobs": list(found.jobs),
        "since": found.since,
        "probe": found.probe or None,
        "error": found.error,
        "domain": found.domain or None,
    }


def since(record: Record) -> float | None:
    """Return when a job got its slot, or else joined the queue, in Unix seconds."""
    return record.get("started") or record.get("admitted") or record.get("created")


def gate(view: ClassView) -> dict[str, Any]:
    """Return whether the gate is closed to shared jobs, and both counts of bounded bypass."""
    bypassed, row = view.gate.get("bypassed", 0), view.gate.get("row", 0)
    closed = view.waiting_total["exclusive"] > 0 and bypassed >= view.spec["exclusive_patience"]
    return {"closed": closed, "bypassed": bypassed, "exclusive_in_a_row": row}
