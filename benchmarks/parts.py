"""The parts of a dispatcher around a given launcher, without Celery's consumer and without a
watcher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass, chords_class
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.dispatcher.events import EventQueue
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.observations import KeptObservations
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.shown import ShownClasses
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.glue.results.states import ResultStates
from gpuqueue.launchers.base import Launcher, Observations, OnEnd
from gpuqueue.model.attempt import RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs

#: Seconds until a repair acts, and between two comparisons.
REPAIR, RELIST = 5.0, 2.0


class Parts:
    """What a dispatcher consists of.

    Args:
        stage: Redis and the Celery application.
        classes: name → class.
        make_launcher: makes the launcher.
        owner: the owner of its attempts.
    """

    def __init__(
        self,
        stage: Stage,
        classes: Mapping[str, GpuClass],
        make_launcher: Callable[[OnEnd, Observations], Launcher],
        owner: str = "",
    ) -> None:
        client, reader, logs = stage.client, stage.reader, Logs(stage.client)
        self.states = JobStates(ResultStates(stage.app), reader, classes)
        self.events = EventQueue(stage.app)
        self.line = Line(client, by="bench", owner=owner)

        def on_end(running: RunningAttempt, end: End) -> bool:
            return self.slots.on_end(running, end)

        self.launcher = make_launcher(
            on_end, KeptObservations(client, self.line, reader, logs, self.states, self.events.put)
        )
        self.finisher = Finisher(
            self.line, reader, logs, stage.app, "bench", self.launcher, self.events.put
        )
        self.slots = Slots(client, self.line, classes, self.launcher, self.states, self.finisher)
        chords = chords_class(classes.values())
        self.shown = ShownClasses(client, classes, chords)
        self.accept = Accept(
            client,
            self.line,
            reader,
            classes,
            UNSIGNED,
            self.launcher,
            self.slots,
            self.states,
            self.finisher,
            chords,
            self.shown,
            lambda task, image: None,
        )
        self.repair = Repair(
            client, self.line, reader, classes, self.launcher, self.slots, REPAIR, RELIST
        )

    def close(self) -> None:
        """End its threads."""
        self.launcher.close()
        self.slots.close()
        self.finisher.close()
        self.states.close()
        self.events.close()
