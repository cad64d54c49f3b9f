"""What applications say of their broker and their results (see :mod:`gpuqueue.model.profile`), as
the processes that import them tell it to the dispatchers of a class. Needs only redis.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import redis

from gpuqueue.store.keys import class_key
from gpuqueue.store.readable import readable
from gpuqueue.store.scripts import Scripts

#: How many profiles a class keeps: each image that a job names may add one.
MOST = 100


class Profiles:
    """The profiles of applications, by the image that they were imported in.

    Args:
        client: of the Redis that has the state.
        classes: the names of the classes whose dispatchers shall know them.
    """

    def __init__(self, client: redis.Redis, classes: Collection[str]) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._classes = tuple(classes)

    def keep(self, application: str, image: str, described: Mapping[str, Any]) -> None:
        """Keep a profile. ``image``: the one that the job asked for; empty: that of the class, or
        no pod. Raises RedisError.
        """
        name = f"{application}@{image}" if image else application
        calls = [(each, {"name": name, "profile": dict(described)}) for each in self._classes]
        for answer in self._scripts.each("describe", calls):
            if isinstance(answer, Exception):
                raise answer

    def of(self, application: str | None) -> dict[str, Mapping[str, Any]]:
        """Return image → the newest profile of an application there; None: of any, since its image
        names it. Forgets the oldest of too many. Raises RedisError.
        """
        newest: dict[str, tuple[float, Mapping[str, Any]]] = {}
        keys = [class_key(each, "profiles") for each in self._classes]
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        for key, found in zip(keys, pipe.execute(), strict=True):
            ages: list[tuple[float, str]] = []
            for name, text in found.items():
                entry = readable(text) or {}
                at, profile = entry.get("at"), entry.get("profile")
                at = at if isinstance(at, int | float) else 0.0
                ages.append((at, name))
                whose, _, image = name.partition("@")
                known = at <= newest.get(image, (0.0, {}))[0]
                if application in (None, whose) and isinstance(profile, dict) and not known:
                    newest[image] = at, profile
            if over := sorted(ages)[: max(0, len(ages) - MOST)]:
                self._client.hdel(key, *[name for _, name in over])
        return {image: profile for image, (_, profile) in newest.items()}
