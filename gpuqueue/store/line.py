"""The verbs of dispatchers: room, take_in, accept, enqueue, admit, launch, release. Cancels are in
``cancels``, and the verbs of the watcher's cycle in ``upkeep``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis

from gpuqueue.classes.choose import Room
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import NOWHERE, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.answers import BATCH, Granted, Released, TakenIn
from gpuqueue.store.cancels import Cancels
from gpuqueue.store.passing import passes

logger = logging.getLogger(__name__)

#: Seconds after which the terms of a site without a dispatcher are forgotten.
FORGET_TERMS = 3600.0
#: The fields of a record that tell how soon its job would start in a class.
_OF_ROOM = ("isolation", "gpus", "tenant", "image", "retries", "nesting")
#: The end of an attempt that was not observed.
UNSEEN = End(EndReason.INFRA, "")


class Line(Cancels):
    """The verbs on the line of a class.

    Args:
        client: of the Redis that has the state.
        by: this dispatcher, written into each attempt that it admits.
        owner: the cluster that runs the attempts; empty for the local launcher.
        keep: seconds that a tombstone is kept.
        max_attempts: how many attempts a job gets.
        max_disruptions: how many evictions, preemptions and lost nodes do not count as attempts.
        devices: class → number of GPUs that the local launcher assigns; 0 for other classes.
        site: what the places of the attempts are named after.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        by: str = "",
        owner: str = "",
        keep: float = 86_400.0,
        max_attempts: int = 3,
        max_disruptions: int = 50,
        devices: Mapping[str, int] | None = None,
        site: Site = NOWHERE,
    ) -> None:
        super().__init__(client, keep=keep)
        self.by = by
        self.owner = owner
        self.max_attempts = max_attempts
        self.max_disruptions = max_disruptions
        self.devices = dict(devices or {})
        self.site = site

    def spec(self, gpu_class: GpuClass) -> dict[str, Any]:
        """Return the class as the scripts need it."""
        owner = {"owner": self.owner} if self.owner else {}
        spec = gpu_class.spec(self.devices.get(gpu_class.name, 0))
        return spec | owner | self.site.spec(gpu_class.name)

    def accept(self, gpu_class: str, record: Record, message: str, again: str | None = None) -> str:
        """Store a delivery that enters no line: a refused one. Returns what became of it: see
        accept.lua. ``again``: its name if its message was sent again; the record gets the name that
        counts.
        """
        answer = self._scripts.call("accept", gpu_class, message, record=record, again=again)
        record["delivery"] = answer[3]
        return str(answer[0])

    def take_in(
        self, gpu_class: GpuClass, record: Record, message: str, again: str | None = None
    ) -> TakenIn:
        """Store a delivery, put it in line, and give a slot to every job that can start. For
        ``again`` see :meth:`accept`.
        """
        context = {"record": record, "again": again, **self.admission(gpu_class)}
        answer = self._scripts.call("accept", gpu_class.name, message, **context)
        outcome, sooner, granted, record["delivery"], *told = answer
        memory = (int(told[0]), int(told[1])) if told else None
        return TakenIn(outcome, bool(sooner), Granted(granted), memory)

    def enqueue(self, gpu_class: GpuClass, delivery: str) -> Granted:
        """Put a delivery in line that was only stored. Returns the attempts to launch now."""
        return Granted(
            self._scripts.call(
                "enqueue", gpu_class.name, delivery=delivery, **self.admission(gpu_class)
            )
        )

    def admit(self, gpu_class: GpuClass) -> Granted:
        """Give a slot to every job that can start. Returns the attempts to launch now."""
        return Granted(self._scripts.call("admit", gpu_class.name, **self.admission(gpu_class)))

    def room(self, gpu_class: GpuClass, record: Record) -> Room:
        """Return how soon a job with this record would start in a class, if it came now."""
        job: dict[str, Any] = {key: each for key, each in record.items() if key in _OF_ROOM}
        job["container"] = "container" in record  # it can be large
        answer = self._scripts.call("room", gpu_class.name, spec=self.spec(gpu_class), job=job)
        return Room(bool(answer[0]), bool(answer[1]), *answer[2:])

    def launched(self, attempt: Attempt, instance: str, claim_within: float) -> bool:
        """Record that the attempt's process or Job exists. Its executor must claim it within
        ``claim_within`` seconds.
        """
        return bool(self._on(attempt, "launched", instance=instance, claim_within=claim_within))

    def relaunch(
        self, attempt: Attempt, older_than: float, most: int | None = None
    ) -> Record | None:
        """Take over a launch that is unconfirmed for ``older_than`` seconds. Returns its record, or
        None if there is no such launch. After ``most`` calls, each after twice as long, the attempt
        is given up.
        """
        answer = self._on(attempt, "relaunch", older_than=older_than, most=most)
        return json.loads(answer) if answer else None

    def release(
        self,
        gpu_class: GpuClass,
        attempt: Attempt,
        end: End = UNSEEN,
        instance: str = "",
        final: bool = False,
    ) -> Released:
        """Free the slot of an attempt that has ended. Returns the attempts to launch in its place.

        ``end`` decides only if the executor did not report; its evidence is stored in any case. An
        attempt that was never claimed is repeated while attempts are left, unless its request
        cannot be met (``NEVER_AGAIN``), or ``final``. ``instance`` is empty if no process was
        observed: that frees no attempt that has an instance.
        """
        ended = end.context() | ({"tried": "never"} if final else {})
        answer = self._on(
            attempt,
            "release",
            instance=instance or None,
            ended=ended,
            **self._limits,
            **self.admission(gpu_class),
        )
        last = Attempt.parse(attempt.gpu_class, answer[2]) or attempt
        return Released(bool(answer[0]), answer[1], last, answer[3], Granted(answer[4:] or (0,)))

    def announce(self, classes: Iterable[GpuClass], holds: float) -> None:
        """Write by which terms this dispatcher admits jobs, for instances that ask for their next
        one (see next.lua). They hold for so many seconds; 0: no more.
        """
        calls = [(each.name, {**self._terms(each), "holds": holds}) for each in classes]
        for answer in self._scripts.each("announce", calls):
            if isinstance(answer, Exception):
                raise answer

    def set_bounds(self, classes: Iterable[GpuClass], group: str, holds: float) -> None:
        """Have all dispatchers admit jobs by the slots and the patience that these classes have
        here, for so many seconds. Of the leader of a ``group``: see bounds.lua.
        """
        by = hashlib.sha1(group.encode(), usedforsecurity=False).hexdigest()
        set_ = {"by": by, "holds": holds}
        calls = [(each.name, {"own": self.spec(each), **set_}) for each in classes]
        for answer in self._scripts.each("set_bounds", calls):
            if isinstance(answer, Exception):
                raise answer

    @property
    def _limits(self) -> dict[str, int]:
        return {"max_attempts": self.max_attempts, "max_disruptions": self.max_disruptions}

    def _terms(self, gpu_class: GpuClass) -> dict[str, Any]:
        terms = {"spec": self.spec(gpu_class), "by": self.by, **self._limits}
        terms["settings"] = self.site.settings_of(gpu_class.name)
        site = self.owner or self.site.host
        return {"site": site, "terms": terms, "forget_after": FORGET_TERMS}

    def send_away(self, classes: Iterable[str], most: int) -> int:
        """Tell pods without a job to end, since other pods find no room: up to ``most`` of each
        class. Returns how many were told.
        """
        calls = [(name, {"site": self.owner, "most": most}) for name in classes]
        told = 0
        for answer in self._scripts.each("send_away", calls):
            if not isinstance(answer, Exception):
                told += answer
            elif passes(answer):
                raise answer
            else:
                logger.error("pods may wait on: %s", answer, extra={"action": "not_sent_away"})
        return told

    def observed(self, observations: Sequence[Observation]) -> list[bool]:
        """Record what attempts wait for, all in one round trip. Returns for each whether it is
        current. One that cannot be recorded keeps no other one.
        """
        calls = [
            (
                each.attempt.gpu_class,
                {
                    **_named(each.attempt),
                    "wait": each.wait,
                    "detail": each.detail or None,
                    "pod": each.pod or None,
                    "node": each.node or None,
                    "claim_within": each.claim_within,
                    "launch_in": each.launch_in,
                },
            )
            for each in observations
        ]
        answers = self._scripts.each("observed", calls)
        for each, answer in zip(observations, answers, strict=True):
            if isinstance(answer, Exception):
                if passes(answer):
                    raise answer
                logger.error(
                    "%s: not recorded what it waits for: %s",
                    each.attempt.holder,
                    answer,
                    extra={"action": "observation_lost"},
                )
        return [answer == 1 for answer in answers]

    def give_up(self, attempt: Attempt, end: End) -> bool:
        """Record why an attempt that does not start is given up, before it is stopped. Returns
        False if it runs or is not current.
        """
        return bool(
            self._on(
                attempt,
                "give_up",
                reason=end.reason,
                error=end.error,
                tried=end.tried,
                blames=end.blames or None,
                avoid=end.avoid or None,
            )
        )

    def _on(self, attempt: Attempt, verb: str, **context: object) -> Any:
        return self._scripts.call(verb, attempt.gpu_class, **_named(attempt), **context)

    def admission(self, gpu_class: GpuClass) -> dict[str, Any]:
        """Return the context of a decision; see admit.lua."""
        return {
            "spec": self.spec(gpu_class),
            "nonce": secrets.token_hex(16),
            "by": self.by,
            "most": BATCH,
        }


def _named(attempt: Attempt) -> dict[str, Any]:
    return {
        "delivery": attempt.delivery,
        "attempt": attempt.number,
        "token": attempt.token or None,
    }
