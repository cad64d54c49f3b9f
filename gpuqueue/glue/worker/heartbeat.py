"""The heartbeat of a worker's consumer: its loop beats while the intake takes messages, so that a
hang of either is noticed.
"""

from __future__ import annotations

from typing import Any, Protocol

from celery import bootsteps

from gpuqueue.glue.worker.intake_step import Intake

#: Seconds between two beats.
BEAT = 1.0


class Monitor(Protocol):
    """Monitors the heartbeat."""

    def beat(self) -> None:
        """The loop runs, and the intake takes messages."""
        ...

    def pause(self) -> None:
        """No messages are taken: the broker is down, or the worker shuts down."""
        ...


class Taking(Protocol):
    """The health of the intake."""

    def works(self) -> bool | None:
        """Return whether it takes messages; None: it may hang."""
        ...


class Heartbeat(bootsteps.StartStopStep):
    """A consumer step. It stops with each lost connection, and starts when the consumer takes
    messages again.
    """

    requires = (Intake,)
    name = "gpuqueue heartbeat"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._timer: Any = None

    def start(self, c: Any) -> None:
        """Start to beat, in the timer of the loop."""
        monitor: Monitor = c.controller.gpuqueue.health
        intake: Taking = c.controller.gpuqueue.intake

        def beat() -> None:
            works = intake.works()
            if works:
                monitor.beat()
            elif works is False:
                monitor.pause()

        self._timer = c.timer.call_repeatedly(BEAT, beat)

    def stop(self, c: Any) -> None:
        """Stop to beat."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        dispatcher = c.controller.gpuqueue
        if dispatcher is not None:
            dispatcher.health.pause()

    shutdown = stop
