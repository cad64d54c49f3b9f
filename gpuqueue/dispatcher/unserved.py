"""Look after the jobs of classes that no dispatcher serves, until one does again: they expire, can
be cancelled, and free their slots when they end. None of them starts.

Never here: an attempt of another cluster or machine, and a class with a live dispatcher.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.steps import Steps
from gpuqueue.store import serving
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: Leases that pass without a sign of a class's dispatchers until it counts as unserved: more than
#: a restart takes.
LEASES = 10
#: How many batches one look forgets at most in a class without jobs.
TICKS = 32


@dataclass
class Unserved:
    """The classes that no dispatcher serves.
    :meth:`names` is thread-safe; the rest is for one thread.

    Each leader looks after them: its steps may be repeated, by several leaders at once too.
    """

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    stopper: Stopper
    finisher: Finisher
    silence: float
    """Seconds without a heartbeat."""
    steps: Steps = field(default_factory=Steps)
    jobs: dict[str, int] = field(default_factory=dict, init=False)
    """Unserved class → number of its jobs, if it has any."""

    def names(self) -> list[str]:
        """Return the unserved classes, also those without jobs."""
        found = serving.unserved(self.client, self.silence)
        return [name for name in found if name not in self.classes]

    def look_after(self, now: float) -> None:
        """Expire, stop and finish their jobs."""
        names = self.names()
        jobs = serving.live_jobs(self.client, names)
        for name in names:
            if name not in jobs:
                self.steps.run("unserved class", partial(self._forget, name), None, where=name)
        for name in jobs.keys() - self.jobs.keys():
            logger.warning(
                "no dispatcher serves class %s, and it has jobs; start one with this class, or"
                " cancel them",
                name,
                extra={"action": "unserved"},
            )
        self.jobs = jobs
        for name in jobs:
            self.steps.run("unserved class", partial(self._turn, name, now), None, where=name)

    def _forget(self, name: str) -> None:
        """Forget ended jobs and old revokes of a class in which nothing else happens."""
        for _ in range(TICKS):
            if not self.line.tick(name)[0]:
                break

    def _turn(self, name: str, now: float) -> None:
        self.line.tick(name)
        todo = self.reader.todo(name, now)
        self.stopper.stop(name, todo.stopping, now)
        for delivery, _ in todo.finishing:
            self.finisher.submit(name, delivery)
