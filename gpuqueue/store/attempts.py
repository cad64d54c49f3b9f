"""What an executor does to the state: claim its attempt, then claim and confirm its end. Needs only
redis.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from gpuqueue.errors import StaleAttempt
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.record import Record
from gpuqueue.store import scripts, wakeups
from gpuqueue.store.answers import BATCH
from gpuqueue.store.keys import bell_key, class_key

logger = logging.getLogger("gpuqueue.start")

#: Seconds an executor may take to write what it has claimed. 900: above its patience with a result
#: backend that is down (10 min).
REPORT_TIMEOUT = 900.0
#: Seconds that a process gets to end by itself, unless the dispatcher sets them.
GRACE = 10.0
#: Seconds beyond the grace until a dispatcher stops a process that has reported. The executor ends
#: itself after the grace.
EXIT_MARGIN = 2.0
#: Messages that Redis publishes, each with its channel.
Messages = Sequence[tuple[str, str]]
#: Seconds after which a pod looks whose user may not wait until it is told.
UNTOLD = 0.5
#: The answer of next.lua to a process that goes on, if neither its job nor another one can start.
NO_JOB = "no job can start"
#: The scripts of an executor.
VERBS = ("claim", "describe", "loaded", "not_loaded", "sampled", "report", "reported")
#: Those of the runner of a pod, and of a process that goes on with other jobs.
GOING_ON = ("next", "idle", "here", "adopt")


@dataclass(frozen=True, slots=True)
class WarmInstance:
    """An instance that can run another attempt, and what it was started with.

    ``instance`` as it was claimed; ``host`` is its host, or pod; ``site`` the host or the owner
    of pods whose dispatchers started it; ``loads_within`` as in :meth:`ExecutorAttempt.claim`. A
    pod is on a ``node``, has a deadline that a job with a limit above ``longest`` would meet, and
    ``stays`` for so many seconds without a job; see :meth:`ExecutorAttempt.called`.
    """

    instance: str
    host: str
    site: str
    application: str
    settings: str | None = None
    loads_within: float | None = None
    node: str | None = None
    longest: float | None = None
    stays: float | None = None


class UnknownJob(StaleAttempt):
    """Redis knows nothing of the job: it has lost its data, or forgotten that the job has ended."""


class ExecutorAttempt:
    """The verbs of an executor on its attempt. ``token`` proves that the attempt is its own.

    Redis may come back with a state from before its claim or report. Each later call repeats both.
    """

    def __init__(self, client: redis.Redis, attempt: Attempt, token: str) -> None:
        scripts.read_files(*VERBS, *GOING_ON)
        self._client = client
        self._scripts = scripts.Scripts(client)
        self.token = token
        self.attempt = attempt
        self._claimed: dict[str, Any] | None = None
        self._outcome: str | None = None
        self._elsewhere: bool | None = None

    def claim(
        self, instance: str, worker: str, loads_within: float | None = None
    ) -> tuple[Record, dict[str, Any]]:
        """Claim the attempt for this process; return its record and message.

        ``loads_within`` seconds after the last claim the attempt is stopped, unless :meth:`loaded`
        was called.
        Raises :class:`StaleAttempt` if another process has it, or if it is no longer wanted.
        """
        answer = self._call("claim", instance=instance, worker=worker, loads_within=loads_within)
        if answer[0] != "ok":
            raise self._stale(answer[1])
        record: Record = json.loads(answer[1])
        self._has_claimed(record, instance, worker, loads_within)
        return record, json.loads(answer[2])

    def take_next(
        self,
        instance: WarmInstance,
        *,
        ended: End | None = None,
        reuses: bool = False,
        pauses: Iterable[float] = (),
    ) -> tuple[ExecutorAttempt, Record, dict[str, Any]] | None:
        """Ask for the next job of an instance whose attempt has ended, in place of its end. Returns
        the claimed attempt, its record and its message; None: it gets none. May be repeated.

        ``ended`` is how its executor ended, if the instance has seen it. ``reuses``: the same
        process goes on, so that a slot is given up only for another one. It asks again after each
        of the ``pauses``, in seconds, while no job at all can start.
        """
        left = iter(pauses)
        while True:
            answer = self._call(
                "next",
                **asdict(instance),
                ended=ended and ended.context(),
                reuses=reuses or None,
                nonce=secrets.token_hex(16),
                most=BATCH,
            )
            pause = next(left, None) if answer[:2] == ["none", NO_JOB] else None
            if pause is None:
                break
            time.sleep(pause)
        if answer[0] != "ok":
            logger.debug("%s: no next job: %s", self.attempt.holder, answer[1])
            if answer[2]:
                wakeups.wake(self._client, self.attempt.gpu_class)
            return None
        record: Record = json.loads(answer[1])
        taken = ExecutorAttempt(self._client, Attempt.of(record), record["token"])
        name = instance.instance
        taken._has_claimed(record, name, record["worker"], instance.loads_within)
        return taken, record, json.loads(answer[2])

    def stands(self, known: Record | None, instance: str) -> Record | None:
        """See whether Redis knows the attempt, and return its record. It is adopted, as ``known``
        before, if Redis has lost it or its grant; None: it is neither.
        """
        answer = self._call("here")
        if answer:
            record: Record = json.loads(answer)
            return record
        if known:
            adopted = {**known, "instance": instance}
            if self._scripts.call("adopt", self.attempt.gpu_class, record=adopted):
                logger.warning("%s: Redis has lost that it runs; adopted", self.attempt.holder)
                return known
        return None

    def called(self, instance: str, first: str, *, leaves: bool = False) -> Record | bool:
        """Ask for the job of a pod that stays without one. Returns its record, whose attempt it
        must claim; True: it may stay; False: it must end. ``first`` is the holder of its first
        attempt. ``leaves``: it stays no longer.
        """
        answer = self._scripts.call(
            "idle",
            self.attempt.gpu_class,
            instance=instance,
            first=first,
            last=self.attempt.holder,
            leaves=leaves or None,
        )
        if answer[0] == "job":
            record: Record = json.loads(answer[1])
            return record
        return bool(answer[0] == "waits")

    def sleep(self, instance: str, seconds: float) -> None:
        """Sleep until the pod is told something, or for so many seconds; less if its user of Redis
        may not block.
        """
        try:
            self._client.bzpopmin([bell_key(self.attempt.gpu_class, instance)], timeout=seconds)
        except redis.exceptions.NoPermissionError:
            time.sleep(min(seconds, UNTOLD))

    def _has_claimed(
        self, record: Record, instance: str, worker: str, loads_within: float | None
    ) -> None:
        self._claimed = {
            "instance": instance,
            "worker": worker,
            "started": record["started"],
            "loads_within": loads_within,
        }

    def loaded(
        self,
        seconds: float | None = None,
        events: Messages = (),
        if_lost: str | None = None,
        earlier: str | None = None,
    ) -> bool:
        """Report that the application is loaded, with the hard limit that the task itself declares,
        in seconds from the start, what it wants if this process is lost, and which result was
        stored before (see :func:`gpuqueue.glue.results.earlier.mark`); and send events. May be
        repeated with more. Returns False if the attempt is not current.
        """
        if self._claimed:
            self._claimed |= {"loads_within": None, "loaded": True, "time_limit": seconds}
            self._claimed |= {"if_lost": if_lost, "earlier": earlier}
        known: dict[str, Any] = {"seconds": seconds, "if_lost": if_lost, "earlier": earlier}
        known |= {"claimed": self._claim()}
        return bool(self._call("loaded", **known, events=events or None))

    def not_loaded(self, error: str) -> bool:
        """Report why the application cannot be loaded, before this process ends without a result.
        Returns False if the attempt is not current.
        """
        return bool(self._call("not_loaded", error=error))

    def sampled(self, seen: Mapping[str, Any]) -> bool:
        """Keep a sample of the GPU (see sampler.py for the fields). Returns False if the attempt is
        not current.
        """
        return bool(self._call("sampled", sample=seen or None, claimed=self._claim()))

    def others_wait(self) -> bool:
        """Return whether another job of the class waits for a slot, as far as is known: an error of
        Redis counts as yes.
        """
        keys = (class_key(self.attempt.gpu_class, f"waiting_{each}") for each in ISOLATIONS)
        try:
            return any(self._client.zcard(key) for key in keys)
        except redis.RedisError:
            return True

    def report(
        self,
        outcome: str,
        seen: Mapping[str, Any] | None = None,
        error: str | None = None,
        *,
        elsewhere: bool = False,
    ) -> None:
        """Claim the finish, and keep the last sample of the GPU; ``error``: why the job is
        delivered again; ``elsewhere``: its retry went to a queue that never leads to this class.

        Raises :class:`StaleAttempt` if this attempt may no longer write anything, and
        :class:`UnknownJob` if it may again once a leader has adopted it.
        """
        answer = self._call(
            "report",
            outcome=outcome,
            within=REPORT_TIMEOUT,
            claimed=self._claim(),
            sample=seen or None,
            error=error,
            elsewhere=elsewhere or None,
        )
        if answer != "ok":
            raise self._stale(answer)
        self._outcome, self._elsewhere = outcome, elsewhere or None

    def reported(
        self, keep: float, grace: float = GRACE, *, failed: bool = False, events: Messages = ()
    ) -> bool:
        """Confirm that everything is written. The tombstone stays for ``keep`` seconds, and this
        process ends itself within ``grace`` seconds. ``failed``: Celery could not store the success
        that was claimed, and has stored a failure. Sends ``events``.
        """
        return bool(
            self._call(
                "reported",
                keep=keep,
                within=grace + EXIT_MARGIN,
                outcome=self._outcome,
                elsewhere=self._elsewhere,
                failed=failed or None,
                claimed=self._claim(),
                events=events or None,
            )
        )

    def _claim(self) -> dict[str, Any] | None:
        """Return how this process claimed the attempt, without what is not known."""
        known = self._claimed
        return known and {name: value for name, value in known.items() if value is not None}

    def _stale(self, why: str) -> StaleAttempt:
        kind = UnknownJob if why == "unknown job" else StaleAttempt
        return kind(f"{self.attempt.delivery} attempt {self.attempt.number}: {why}")

    def _call(self, verb: str, **context: object) -> Any:
        return self._scripts.call(
            verb,
            self.attempt.gpu_class,
            delivery=self.attempt.delivery,
            attempt=self.attempt.number,
            token=self.token,
            **context,
        )
