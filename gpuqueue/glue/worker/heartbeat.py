"""The pulse of a worker's consumer: while it takes messages its loop beats, so that a loop that
hangs is known for one.
"""

from __future__ import annotations

from typing import Any, Protocol

from celery import bootsteps

#: Seconds between two beats.
BEAT = 1.0


class Patient(Protocol):
    """Whoever is told of the pulse."""

    def beat(self) -> None:
        """The loop has come round, and messages are taken."""
        ...

    def pause(self) -> None:
        """No messages are taken: the broker is away, or the worker ends."""
        ...


class Pulse(bootsteps.StartStopStep):
    """A consumer step: it stops with every lost connection, and starts when the consumer takes
    messages (again).
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "gpuqueue pulse"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._timer: Any = None

    def start(self, c: Any) -> None:
        """Beat from now on, in the loop's own timer."""
        patient: Patient = c.controller.gpuqueue.health
        patient.beat()
        self._timer = c.timer.call_repeatedly(BEAT, patient.beat)

    def stop(self, c: Any) -> None:
        """Beat no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        node = c.controller.gpuqueue
        if node is not None:
            node.health.pause()

    shutdown = stop
