"""How much each class does now, and has done: for the heartbeats of its worker. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import redis

from gpuqueue.model.names import ISOLATIONS
from gpuqueue.store.counts import parse
from gpuqueue.store.keys import class_key


@dataclass(frozen=True, slots=True)
class Activity:
    """Attempts of one class by isolation: those that hold a slot, and all that have held one."""

    holding: dict[str, int]
    begun: dict[str, int]

    @property
    def active(self) -> int:
        """Attempts that hold a slot."""
        return sum(self.holding.values())

    @property
    def processed(self) -> int:
        """Attempts that hold a slot, or have held one."""
        return sum(self.begun.values())


def activities(client: redis.Redis, classes: Iterable[str]) -> dict[str, Activity]:
    """Return class → its activity, in one round trip."""
    names = list(classes)
    pipe = client.pipeline(transaction=False)
    for name in names:
        for isolation in ISOLATIONS:
            pipe.zcard(class_key(name, f"holders_{isolation}"))
        pipe.hgetall(class_key(name, "counts"))
    # A key of another type counts nothing.
    answers = iter(pipe.execute(raise_on_error=False))
    found: dict[str, Activity] = {}
    for name in names:
        counted = {isolation: next(answers) for isolation in ISOLATIONS}
        holding = {each: n if isinstance(n, int) else 0 for each, n in counted.items()}
        fields = next(answers)
        held = parse(fields if isinstance(fields, dict) else {}).held
        ended = {each: held[each].buckets[-1][1] if each in held else 0 for each in ISOLATIONS}
        begun = {each: holding[each] + int(ended[each]) for each in ISOLATIONS}
        found[name] = Activity(holding, begun)
    return found
