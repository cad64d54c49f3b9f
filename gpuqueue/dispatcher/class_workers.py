"""The Celery workers that classes are to monitors: one a class, however many dispatchers serve it.
A leader sends their signs of life, and answers for them.

Never here: an event for each job. Monitors keep each worker that they have heard of.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from gpuqueue.glue.results.events import Sender
from gpuqueue.glue.worker.class_worker import HEARTBEAT, ONLINE, goodbye, sign_of_life
from gpuqueue.store.activity import Activity, activities
from gpuqueue.store.client import Redis
from gpuqueue.store.keys import DISPATCHERS
from gpuqueue.store.lease import Lease

#: Seconds between two heartbeats, as of a Celery worker; with many classes so long for each of
#: them, since each sends its heartbeat.
BEAT, EACH = 2.0, 0.5
#: How much longer a time monitors are told of, and at least that of a lease: a new leader takes
#: over meanwhile.
SLACK = 2.5
#: Seconds until the counts of a class without work are read again: a job that came and went between
#: two looks shows then.
READ_IDLE = 6.0


@dataclass
class ClassWorkers:
    """Speaks for classes. For one thread, but for ``speaks``."""

    client: Redis
    classes: Collection[str]
    lease: Lease
    send: Sender
    every: float
    """Seconds between two heartbeats."""
    beats: bool = True
    """False: no heartbeat is sent."""
    speaks: frozenset[str] = field(default=frozenset(), init=False)
    """The classes for which this process answers."""

    def __post_init__(self) -> None:
        self._known: dict[str, Activity] = {}
        self._read_at = float("-inf")

    def look(self, since: float) -> None:
        """See for which classes this leader speaks, beside groups with a heartbeat ``since`` a
        time.
        """
        speaks = frozenset(self.lease.speaks_for(self.classes, since))
        if new := speaks - self.speaks:
            self._read(new)
            self._tell(ONLINE, new)
        self.speaks = speaks

    def be_silent(self) -> None:
        """Speak for no class: another dispatcher does."""
        self.speaks = frozenset()

    def beat(self, working: Iterable[str]) -> None:
        """Send a heartbeat of each class. ``working``: the classes that have work now."""
        busy = {name for name, known in self._known.items() if known.active} | set(working)
        idle = time.monotonic() - self._read_at >= READ_IDLE
        self._read(self.speaks if idle else self.speaks & busy)
        if idle:
            self._read_at = time.monotonic()
        self._tell(HEARTBEAT, self.speaks)

    def leave(self, since: float) -> None:
        """Say goodbye, unless another dispatcher had a heartbeat ``since`` a time: it goes on."""
        speaks, self.speaks = self.speaks, frozenset()
        if speaks and self.beats and not self.client.zcount(DISPATCHERS, since, "+inf"):
            for name in sorted(speaks):
                self.send(goodbye(name))

    def _read(self, names: Iterable[str]) -> None:
        if self.beats and (wanted := sorted(names)):
            self._known |= activities(self.client, wanted)

    def _tell(self, kind: str, names: Iterable[str]) -> None:
        if self.beats:
            for name in sorted(names):
                known = self._known[name]
                told = max(self.every * SLACK, self.lease.seconds)
                self.send(sign_of_life(kind, name, told, known.active, known.processed))


def interval(classes: Collection[str]) -> float:
    """Return the seconds between two heartbeats of each of the classes, if nothing else is set."""
    return max(BEAT, EACH * len(classes))
