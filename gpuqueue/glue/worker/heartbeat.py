"""The heartbeat of a worker's consumer: its loop beats while it takes messages, so that a hanging
loop is noticed.
"""

from __future__ import annotations

from typing import Any, Protocol

from celery import bootsteps

#: Seconds between two beats.
BEAT = 1.0


class Monitor(Protocol):
    """Monitors the heartbeat."""

    def beat(self) -> None:
        """The loop runs, and takes messages."""
        ...

    def pause(self) -> None:
        """The loop takes no messages: the broker is down, or the worker shuts down."""
        ...


class Heartbeat(bootsteps.StartStopStep):
    """A consumer step. It stops with each lost connection, and starts when the consumer takes
    messages again.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "gpuqueue heartbeat"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._timer: Any = None

    def start(self, c: Any) -> None:
        """Start to beat, in the timer of the loop."""
        monitor: Monitor = c.controller.gpuqueue.health
        monitor.beat()
        self._timer = c.timer.call_repeatedly(BEAT, monitor.beat)

    def stop(self, c: Any) -> None:
        """Stop to beat."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        dispatcher = c.controller.gpuqueue
        if dispatcher is not None:
            dispatcher.health.pause()

    shutdown = stop
