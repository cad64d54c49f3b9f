"""Places that fail the jobs which meet them: read and clear what the scripts keep of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

import redis

from gpuqueue.model.place import Place
from gpuqueue.store.keys import class_key
from gpuqueue.store.scripts import Scripts


def of(client: redis.Redis, gpu_class: str) -> list[Place]:
    """Return the places of a class with failures, those that are set aside first."""
    found: dict[str, str] = client.hgetall(class_key(gpu_class, "places"))  # type: ignore[assignment]
    return parse(found)


def parse(found: Mapping[str, str]) -> list[Place]:
    """Parse the hash ``places``, without what cannot be read."""
    made = []
    for name, text in found.items():
        with suppress(ValueError, TypeError, AttributeError):
            made.append(Place.parse(name, json.loads(text)))
    return sorted(made, key=lambda place: (place.until is None, place.name))


def set_aside(places: Iterable[Place]) -> list[Place]:
    """Return the places where only a probe starts."""
    return [place for place in places if place.until is not None]


def clear(client: redis.Redis, gpu_class: str, place: str) -> bool:
    """Use a place again at once, as if it had never failed. Returns whether it was known."""
    return bool(Scripts(client).call("clear_place", gpu_class, place=place))
