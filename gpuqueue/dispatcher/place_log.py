"""Log which places are set aside, each time that one is."""

from __future__ import annotations

import logging

from gpuqueue.store import places
from gpuqueue.store.client import Redis

logger = logging.getLogger(__name__)


class PlaceLog:
    """Logs the places of classes. Thread-safe: at worst, a line appears twice."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._known: dict[str, dict[str, float]] = {}

    def look(self, gpu_class: str) -> None:
        """Log the places of a class that are set aside since the last look, or for longer."""
        known = self._known.get(gpu_class, {})
        found = places.set_aside(places.of(self._client, gpu_class))
        for place in found:
            if known.get(place.name) != place.pause:
                logger.warning(
                    "%s: %s is set aside (failures: %s); one job tries it in %.0f s: %s",
                    gpu_class,
                    place.name,
                    place.failures,
                    place.pause,
                    place.error,
                    extra={"action": "place_set_aside"},
                )
        self._known[gpu_class] = {place.name: place.pause for place in found}
