"""The dead letters of the broker, as the settings name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gpuqueue.errors import SettingsError
from gpuqueue.glue.worker.broker import Broker
from gpuqueue.settings.dispatcher import load
from gpuqueue.store.clock import redis_time
from gpuqueue.store.dead_letters import DeadLetters, Letter


@dataclass(frozen=True, slots=True)
class Dead:
    """What a command works with."""

    broker: Broker
    letters: DeadLetters

    def now(self) -> float:
        """Return the time of Redis in Unix seconds."""
        return redis_time(self.broker.client)

    def send(self, letter: Letter) -> bool:
        """Put a letter back into its queue. Returns whether it was there."""
        return self.letters.send(letter, self.broker.list_for(letter.queue, letter.message))

    def drop(self, letter: Letter) -> bool:
        """Forget a letter. Returns whether it was there."""
        return self.letters.drop(letter.id)


@contextmanager
def open_dead() -> Iterator[Dead]:
    """Connect to the broker."""
    if not load().broker_url:
        raise SettingsError("CELERY_BROKER_URL is not set; set it to the applications' broker")
    from gpuqueue.celery import app  # its settings, read at import, are valid here

    broker = Broker(app, tracked=False)
    try:
        yield Dead(broker, DeadLetters(broker.client, broker.prefix))
    finally:
        broker.close()
