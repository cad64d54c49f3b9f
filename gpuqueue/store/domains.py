"""The domains of a class, as the state has them. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.unbound import is_unbound
from gpuqueue.store.keys import class_key
from gpuqueue.store.readable import readable


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain: a GPU of the machine, or a node. The keys are isolations."""

    name: str
    slots: dict[str, int]
    held: dict[str, int]
    drained: bool = False
    """Whether it becomes idle for an exclusive job: no shared job starts there."""
    reserved: bool = False
    """Whether it is kept for an exclusive job of several GPUs: no other one starts there."""
    bound: bool = True
    """Whether it exists; else an autoscaler adds a node for its pods, and it costs nothing yet."""


class Domains:
    """Reads the domains of classes."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def slots(self, gpu_class: GpuClass) -> dict[str, int]:
        """Return the slots of a class by isolation, of all its domains together, those included
        that have no node yet.
        """
        if gpu_class.domain != NODE:
            return {each: gpu_class.slots(each) for each in ISOLATIONS}
        found: Any = self._client.hvals(class_key(gpu_class.name, "domains"))
        known = [each for text in found if (each := readable(text)) and not each.get("waits")]
        return {name: sum(int(each.get(name, 0)) for each in known) for name in ISOLATIONS}

    def of(self, gpu_class: str) -> list[Domain]:
        """Return the domains of a class; none: the class is one domain."""
        key = class_key(gpu_class, "domains")
        pipe = self._client.pipeline(transaction=True)
        pipe.hgetall(key)
        pipe.hmget(class_key(gpu_class, "gate"), "drained", "reserved")
        slots, (drained, reserved) = pipe.execute()
        names = sorted(slots, key=lambda name: (len(name), name))
        pipe = self._client.pipeline(transaction=True)
        for name in names:
            for isolation in ISOLATIONS:
                pipe.zcard(f"{key}:{isolation}:{name}")
        held = iter(pipe.execute())
        return [
            Domain(
                name,
                {each: int(known.get(each, 0)) for each in ISOLATIONS},
                {each: next(held) for each in ISOLATIONS},
                name == drained,
                name == reserved,
                not is_unbound(name),
            )
            for name in names
            if (known := readable(slots[name])) is not None
        ]
