"""The step of a worker's consumer that takes messages: it starts the intake of the dispatcher with
each connection, and stops it before the worker shuts down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from celery import bootsteps

from gpuqueue.glue.worker.events import MessageEvents
from gpuqueue.model.names import is_gpu_queue


class Taking(Protocol):
    """Takes messages in a thread."""

    def start(self, queues: Callable[[], Sequence[str]], events: MessageEvents) -> None:
        """Start to take messages of the queues that ``queues`` returns."""
        ...

    def stop(self) -> None:
        """Give the messages in hand back, and take no more."""
        ...


class Intake(bootsteps.StartStopStep):
    """A consumer step."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "gpuqueue intake"

    def start(self, c: Any) -> None:
        """Start the intake."""
        intake: Taking = c.controller.gpuqueue.intake

        def consumed() -> list[str]:
            listed = c.task_consumer
            if listed is None:
                return []
            names = [each.name for each in listed.queues if listed.consuming_from(each.name)]
            return [name for name in names if is_gpu_queue(name)]

        def eventer() -> Any:
            return c.app.events.Dispatcher(c.app.connection_for_write(), buffer_group={"task"})

        def enabled() -> bool:
            return bool(c.event_dispatcher and c.event_dispatcher.enabled)

        intake.start(consumed, MessageEvents(eventer, enabled))

    def stop(self, c: Any) -> None:
        """Stop the intake."""
        dispatcher = c.controller.gpuqueue
        if dispatcher is not None:
            dispatcher.intake.stop()

    shutdown = stop
