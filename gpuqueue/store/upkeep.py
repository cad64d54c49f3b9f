"""The verbs of the watcher's cycle: open, adopt, tick, and the finish of jobs without a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.record import Record
from gpuqueue.store.finishes import failure
from gpuqueue.store.owners import ServedElsewhere
from gpuqueue.store.scripts import Scripts

#: How much of each of its five kinds one tick moves at most, so that the script stays short: about
#: 5 ms if all are due.
TICK_BATCH = 64


class Upkeep:
    """The verbs that keep the state of a class in order.

    Args:
        client: of the Redis that has the state.
        keep: seconds that a tombstone is kept.
    """

    def __init__(self, client: redis.Redis, *, keep: float) -> None:
        self._scripts = Scripts(client)
        self.keep = keep

    def tick(self, gpu_class: str) -> tuple[int, float | None]:
        """Move what is due. Returns how much was moved, and when the next is due (None: nothing
        waits for a time).
        """
        moved, due = self._scripts.call("tick", gpu_class, most=TICK_BATCH)
        return moved, float(due) if due else None

    def finish_claim(
        self,
        gpu_class: str,
        delivery: str,
        finisher: str,
        lease: float,
        *,
        begins: bool = False,
        hold: Mapping[str, Any] | None = None,
    ) -> tuple[str, Record | None, dict[str, Any] | None]:
        """Claim the finish of a job for ``lease`` seconds; ``begins`` counts a try. Returns
        (``ok``, record, message) or (why not, None, None).

        ``hold``: what may keep its finisher from a pod; see finish_claim.lua.
        """
        answer = self._scripts.call(
            "finish_claim",
            gpu_class,
            delivery=delivery,
            finisher=finisher,
            lease=lease,
            keep=self.keep,
            begins=begins or None,
            hold=hold,
        )
        if answer[0] != "ok":
            return answer[0], None, None
        return "ok", json.loads(answer[1]), json.loads(answer[2]) if answer[2] else None

    def finish_failed(
        self, gpu_class: str, delivery: str, finisher: str, error: str, *, passing: bool = False
    ) -> tuple[int, int] | None:
        """Record that a try has failed, and let another follow. Returns how many count, and since
        how many seconds they fail by errors that pass; None if the finisher has lost the job.
        """
        answer = self._scripts.call(
            "finish_failed",
            gpu_class,
            delivery=delivery,
            finisher=finisher,
            **failure(error, passing),
        )
        return (answer[1], answer[2]) if answer[0] else None

    def finish_held(
        self, gpu_class: str, delivery: str, finisher: str, place: str, error: str
    ) -> int | None:
        """Record that the cluster gives a finisher no pod: the job waits, and the try does not
        count. Returns the seconds until it is due again; None if the finisher has lost the job.
        """
        answer = self._scripts.call(
            "finish_held",
            gpu_class,
            delivery=delivery,
            finisher=finisher,
            place=place,
            error=error,
        )
        return int(answer[1]) if answer[0] else None

    def finishes_go_on(self, gpu_class: str, places: Iterable[str]) -> None:
        """Use these places again: a finisher that tried them has got its pod."""
        for place in places:
            self._scripts.call("clear_place", gpu_class, place=place)

    def finished(
        self, gpu_class: str, delivery: str, finisher: str, reason: str, given_up: str = ""
    ) -> bool:
        """Confirm a finish. ``reason`` is the end reason that was written; ``given_up`` why the
        application or a callback had no part in it.
        """
        return bool(
            self._scripts.call(
                "finished",
                gpu_class,
                delivery=delivery,
                finisher=finisher,
                reason=reason,
                keep=self.keep,
                given_up=given_up or None,
            )
        )

    def open(self, gpu_class: str) -> bool:
        """Let jobs of a class start, since every live attempt is a holder. Returns whether the
        class was closed.
        """
        return bool(self._scripts.call("open", gpu_class))

    def set_nodes(
        self,
        gpu_class: GpuClass,
        nodes: Mapping[str, Mapping[str, int]] | None,
        more: int = 0,
        owner: str | None = None,
    ) -> bool:
        """Make these nodes of a cluster the domains of a class: name → isolation → slots. None: the
        class is one domain. ``more``: how many nodes an autoscaler may add; ``owner``: the cluster.
        Returns whether jobs may start by that which could not before.

        Raises :class:`ServedElsewhere`: the domains stay the nodes of another cluster.
        """
        context: dict[str, Any] = {"spec": gpu_class.spec(), "nodes": nodes, "more": more}
        context |= {"new_node": gpu_class.slots_of_domain, "fixed": bool(gpu_class.nodes)}
        changed, other = self._scripts.call("domains", gpu_class.name, owner=owner, **context)
        if other:
            raise ServedElsewhere(gpu_class.name, other, owner or "")
        return bool(changed)

    def set_aside(self, gpu_class: str, key: str, name: str) -> bool:
        """Take a name that is none out of a sorted set of a class; ``doctor`` shows it."""
        return bool(self._scripts.call("set_aside", gpu_class, key=key, name=name))

    def adopt(
        self, gpu_class: str, record: Record, slots: int | None = None, instead_of: str = ""
    ) -> bool:
        """Make a live attempt a holder again after Redis has lost its job, or its grant.

        Args:
            gpu_class: its class.
            record: as the attempt describes itself, with its instance.
            slots: how many its isolation has. A known job is not adopted beyond them.
            instead_of: the token of an earlier attempt that has ended, though it holds a slot.
        """
        return bool(
            self._scripts.call(
                "adopt", gpu_class, record=record, slots=slots, instead_of=instead_of or None
            )
        )
