"""The classes that commands and monitors are shown: those of the settings, and the class of the
unlocks of chords once there has been one.

Never here: whether a class is served. Each dispatcher serves all of its classes from its start on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.client import Redis
from gpuqueue.store.keys import CLASSES


class ShownClasses(Mapping[str, GpuClass]):
    """Name → class. Thread-safe: an iteration shows the classes as of its begin.

    Args:
        client: of the Redis that has the state.
        configured: the classes of the settings.
        chords: the class of unlocks.
    """

    def __init__(self, client: Redis, configured: Mapping[str, GpuClass], chords: GpuClass) -> None:
        self._client = client
        self._chords = chords
        self._shown = dict(configured)

    def __getitem__(self, name: str) -> GpuClass:
        return self._shown[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown)

    def __len__(self) -> int:
        return len(self._shown)

    def use(self) -> None:
        """Show the class of unlocks everywhere: it has a job. Raises RedisError."""
        if self._chords.name not in self._shown:
            self._client.hset(CLASSES, self._chords.name, json.dumps(self._chords.public()))
            self._show()

    def look(self) -> None:
        """See whether another dispatcher shows it. Raises RedisError."""
        if self._chords.name not in self._shown and self._client.hexists(
            CLASSES, self._chords.name
        ):
            self._show()

    def _show(self) -> None:
        self._shown = {**self._shown, self._chords.name: self._chords}
