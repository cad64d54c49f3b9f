"""The queues that a dispatcher knows: those that it consumes, and no others."""

from __future__ import annotations

from celery.app.amqp import AMQP, Queues
from kombu import Queue


class KnownQueues(Queues):
    """Queues that do not grow when a callback is sent. Celery keeps each queue that a callback
    names, and Celery 5.6 also consumes it after a reconnection.
    """

    def __missing__(self, name: str) -> Queue:
        return self.new_missing(name)


class DispatcherAMQP(AMQP):
    """Celery's view of the broker, with :class:`KnownQueues`."""

    queues_cls = KnownQueues
