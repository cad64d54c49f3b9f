"""The leader's turns in its classes: when each is due, and what is done in it.

A class that has nothing to do rests. One command asks for all of them whether they have work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.model.names import REFUSED
from gpuqueue.steps import Steps
from gpuqueue.store.turn import Turn, Turns

logger = logging.getLogger(__name__)
#: Seconds until the next turn of a class without work, or as many as there are classes: a process
#: that ends may have changed the state, and have told none of that.
REST = 60.0
#: The steps of turn.lua.
IN_SCRIPT = (
    *("expiring", "delayed", "deadlines", "ended", "revoked_until", "warm_until", "places"),
    "slots",
    *("tenants", "tenant_idle"),
    *("admit", "stopping", "finishing", "accepted", "opened", "due"),
)


@dataclass
class ClassTurns:
    """For one thread. All times are Unix seconds by the clock of Redis."""

    turns: Turns
    classes: Mapping[str, GpuClass]
    slots: Slots
    stopper: Stopper
    finisher: Finisher
    steps: Steps
    tick: float
    """Seconds between two turns of a class that has work, and between two looks at the others."""
    patience: float
    """Seconds until an accepted job that is not in line was left behind."""
    closed: set[str] = field(default_factory=set, init=False)
    """The classes whose jobs may not start yet; see open.lua."""
    working: set[str] = field(default_factory=set, init=False)
    """The classes that had work in their latest turn."""

    def __post_init__(self) -> None:
        self._all = {**self.classes, REFUSED: GpuClass(REFUSED)}
        self._at: dict[str, float] = {}
        self._look_at = 0.0

    def forget(self) -> None:
        """Take a turn in all classes next: another watcher led, Redis has lost its data, or its
        clock has jumped.
        """
        self._at.clear()
        self._look_at = 0.0

    def take(self, now: float, woken: str | None) -> None:
        """Take the turn of each class whose time has come, of each that has work by now, and of one
        that was ``woken``.
        """
        for name in self._with_work(now):
            self._at[name] = now
        if woken:
            self._at[woken] = now
        due = [each for name, each in self._all.items() if self._at.get(name, now) <= now]
        for each in due:  # until the turn has succeeded
            self._at[each.name] = now + self.tick
        due = [each for each in due if self.steps.ready("class", where=each.name)]
        for each, turn in zip(due, self.turns.take(due), strict=True):
            self.steps.run("class", partial(self._handle, each, turn, now), None, where=each.name)

    def open(self, name: str) -> None:
        """Note that the jobs of a class may start."""
        self.closed.discard(name)
        self._at.pop(name, None)

    def next(self, now: float) -> float:
        """Return when the next turn, or look at the other classes, is due."""
        return min(self._look_at, *(self._at.get(name, now) for name in self._all))

    def _with_work(self, now: float) -> list[str]:
        """What a dispatcher does for a class shows as work in it. A tick may pass until then."""
        if now < self._look_at:
            return []
        self._look_at = now + self.tick
        return self.turns.with_work(name for name in self._all if self._at.get(name, now) > now)

    def _handle(self, gpu_class: GpuClass, turn: Turn | Exception, now: float) -> None:
        if isinstance(turn, Exception):
            raise turn
        name, run = gpu_class.name, self.steps.run
        self._plan(name, turn, now)
        problems = dict(turn.problems)
        for step in IN_SCRIPT:
            if step in problems:
                self.steps.failed(step, problems[step], where=name)
            else:
                self.steps.succeeded(step, where=name)
        run("launch", lambda: self.slots.launch(gpu_class, turn.granted), None, where=name)
        run("stop", lambda: self.stopper.stop(name, turn.stopping, now), None, where=name)
        for delivery, since in turn.accepted:
            if since <= now - self.patience:
                run("enqueue", partial(self._enqueue, gpu_class, delivery), None, job=delivery)
        for delivery, _ in turn.finishing:
            run("finish", partial(self.finisher.submit, name, delivery), None, job=delivery)

    def _plan(self, name: str, turn: Turn, now: float) -> None:
        """Note when the next turn of a class is, and what is known of it."""
        if turn.problems:
            self._at[name] = now + self.tick
        elif turn.moved:
            self._at[name] = now  # there may be more
        else:
            rest = self.tick if turn.has_work else max(REST, len(self._all))
            self._at[name] = min(turn.due, now + rest)
        (self.working.add if turn.has_work else self.working.discard)(name)
        (self.closed.discard if turn.opened else self.closed.add)(name)

    def _enqueue(self, gpu_class: GpuClass, delivery: str) -> None:
        logger.warning(
            "%s was accepted and not in line; enqueued",
            delivery,
            extra={"action": "repair_accepted"},
        )
        self.slots.enqueue(gpu_class, delivery)
