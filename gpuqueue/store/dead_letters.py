"""Dead letters: messages that no dispatcher could accept, on the Redis of the broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import redis

from gpuqueue.store.keys import letter_keys
from gpuqueue.store.scripts import Scripts

#: How many letters are kept; the oldest go first. 1000: more than a person reads.
MOST_LETTERS = 1000
#: Seconds for which a letter is kept. 30 days: longer than any holiday.
KEPT = 30 * 86_400.0
#: Letters read in one round trip.
_BATCH = 100


class Letter(NamedTuple):
    """A message that was set aside. Times are Unix seconds."""

    id: str
    queue: str
    message: str
    """As its sender wrote it; bytes that are no UTF-8 are surrogates."""
    tries: int
    first: float
    """When its first try failed."""
    last: float
    """When it was set aside."""
    error: str


class DeadLetters:
    """The dead letters of one broker.

    Args:
        client: of its Redis, with answers in text or bytes.
        prefix: of all keys of the broker.
    """

    def __init__(self, client: redis.Redis, prefix: str = "") -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._letters, self._times = letter_keys(prefix)

    def count(self) -> int:
        """Return how many letters there are."""
        return int(self._client.zcard(self._times))

    def all(self) -> Iterator[Letter]:
        """Yield the letters, the oldest first."""
        ids: list[Any] = self._client.zrange(self._times, 0, -1)
        for first in range(0, len(ids), _BATCH):
            raw: list[Any] = self._client.hmget(self._letters, ids[first : first + _BATCH])
            yield from (_letter(each) for each in raw if each is not None)

    def get(self, letter: str) -> Letter | None:
        """Return a letter; None for an unknown one."""
        raw: Any = self._client.hget(self._letters, letter)
        return None if raw is None else _letter(raw)

    def send(self, letter: Letter, target: str) -> bool:
        """Put a letter back onto a list of its queue, unchanged. Returns whether it was there."""
        keys = [self._letters, self._times, target]
        return bool(self._scripts.call_on(keys, "dead/send", id=letter.id))

    def drop(self, letter: str) -> bool:
        """Forget a letter. Returns whether it was there."""
        pipe = self._client.pipeline(transaction=True)
        pipe.hdel(self._letters, letter)
        pipe.zrem(self._times, letter)
        return bool(pipe.execute()[0])


def _letter(raw: str | bytes) -> Letter:
    text = raw.decode(errors="surrogateescape") if isinstance(raw, bytes) else raw
    found = json.loads(text, strict=False)
    return Letter(**{name: found.get(name) for name in Letter._fields})
