"""The queues that a dispatcher knows: those that it consumes, and no others. Celery lists them, and
the intake takes their messages.
"""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP, Queues
from kombu import Consumer, Queue


class KnownQueues(Queues):
    """Queues that do not grow when a callback is sent. Celery keeps each queue that a callback
    names, and Celery 5.6 also consumes it after a reconnection.
    """

    def __missing__(self, name: str) -> Queue:
        return self.new_missing(name)


class ListedQueues(Consumer):
    """The queues that Celery's worker consumes, adds and cancels. No message arrives here: kombu
    takes a message off its list before it is noted.
    """

    def _basic_consume(self, queue: Queue, consumer_tag: Any = None, **_: Any) -> Any:
        return self._active_tags.get(queue.name) or self._add_tag(queue, consumer_tag)


class DispatcherAMQP(AMQP):
    """Celery's view of the broker, with :class:`KnownQueues` and :class:`ListedQueues`."""

    queues_cls = KnownQueues
    Consumer = ListedQueues
