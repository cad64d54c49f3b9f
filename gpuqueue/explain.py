"""Why a job waits, who holds the slots, and when it starts: for applications, and for the command
``gpuqueue why``.

Never here: a decision, or a change of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import GpuQueueError, UnknownJob
from gpuqueue.forecast.simulate import HOLDS, starts
from gpuqueue.forecast.snapshot import Held, Snapshot
from gpuqueue.forecast.what_if import changed
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import REFUSED
from gpuqueue.model.reasons import WaitReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, JobState
from gpuqueue.store.clock import redis_time
from gpuqueue.store.readable import gpu_class
from gpuqueue.store.reader import Reader, Why
from gpuqueue.store.serving import ALIVE, unserved
from gpuqueue.store.snapshots import Snapshots

#: Seconds that :func:`why` waits for Redis.
TIMEOUT = 5.0
#: How many holders an explanation names.
MOST_HOLDERS = 100
#: The reasons that end as other jobs start and end. When the others end, no forecast knows.
_FORECAST = {
    WaitReason.NO_FREE_SLOT,
    WaitReason.EXCLUSIVE_RUNNING,
    WaitReason.SHARED_RUNNING,
    WaitReason.DRAINING_FOR_EXCLUSIVE,
    WaitReason.TURN_OF_SHARED,
    WaitReason.BEHIND_OTHERS,
    WaitReason.TENANT_LIMIT,
    WaitReason.NOT_BEFORE,
}


@dataclass(frozen=True, slots=True)
class StartRange:
    """When a job starts, as a range that holds a part of all starts. Seconds from now."""

    earliest: float | None
    """None: it is not known."""
    latest: float | None
    """None: later than ``earliest``, by how much is not known."""
    holds: float = HOLDS
    """The part of the starts that fall within."""
    unknown: str | None = None
    """Why nothing is known."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A job that holds a slot of the class."""

    id: str
    """Its delivery: the Celery task id, or ``id~1`` for its first retry."""
    isolation: str
    domain: str | None
    """The GPU or node where it is; None: the class is one domain."""
    tenant: str
    task: str
    since: float
    """When it got its slot, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job waits."""

    id: str
    gpu_class: str
    isolation: str
    state: str
    """``waiting``, ``delayed``, ``running``, ``ended``, …: see the states of a job."""
    reason: str | None
    """A reason for the wait, or the end: NO_FREE_SLOT, SUCCEEDED, …; None: it runs."""
    place: int | None
    """Its place in the line of its class and isolation, by priority and arrival; 1 is the first.
    None: it is not in line. In a class with tenants, others may go first.
    """
    holders: tuple[Holder, ...]
    """The jobs that hold the slots of its class, up to 100, while it waits."""
    start: StartRange | None
    """None: it does not wait."""


def why(job_id: str, *, redis_url: str | None = None) -> Explanation:
    """Explain why a job waits, and when it starts.

    ``gpuqueue.why(result.id).start.latest``

    Args:
        job_id: the Celery task id, or the name of a delivery.
        redis_url: the Redis of the dispatchers. None: from the environment, as for the command
            ``gpuqueue``, which needs ``pip install 'gpuqueue[all]'``.

    Raises:
        UnknownJob: no class knows the job.
        SettingsError: a setting in the environment is wrong.
        redis.RedisError: Redis cannot be read.
    """
    from gpuqueue.store.client import connect  # applications that do not ask need none of it

    client = connect(_url() if redis_url is None else redis_url, timeout=TIMEOUT, retries=1)
    try:
        return explain(client, job_id)
    finally:
        client.close()


def explain(client: redis.Redis, job_id: str) -> Explanation:
    """Explain a job; see :func:`why`."""
    reader = Reader(client)
    classes = reader.classes()
    record = reader.find(job_id, [*classes, REFUSED])
    if record is None:
        raise UnknownJob(
            f"id={job_id!r} is not known; send it to the queue of a GPU class that a dispatcher"
            " serves, and wait until it is taken"
        )
    spec = classes.get(record["gpu_class"])
    known = gpu_class(spec) if spec else None
    told = None
    if known and record["state"] != JobState.ENDED:
        told = reader.why(known, record["delivery"], 0)
    record = told.record if told else record
    reason = reason_of(client, record, told)
    snapshot, start = None, None
    if known and record["state"] in (JobState.WAITING, JobState.DELAYED):
        snapshots = Snapshots(client, known)
        snapshot = snapshots.read(record["delivery"], redis_time(client))
        start = start_of(snapshots, snapshot, reason)
    return Explanation(
        record["id"],
        record["gpu_class"],
        record["isolation"],
        record["state"],
        reason,
        (told.place or None) if told else None,
        _holders(record["gpu_class"], snapshot),
        start,
    )


def reason_of(client: redis.Redis, record: Record, told: Why | None) -> str | None:
    """Return why a job waits, or has ended; None: it runs. ``told``: by the scripts."""
    if record["state"] in BEFORE_SLOT and record["gpu_class"] in unserved(client, ALIVE):
        return WaitReason.NO_DISPATCHER
    if record["state"] in (JobState.FINISHING, JobState.ENDED):
        return record.get("reason")
    return told.reason or None if told else None


def forecast(
    client: redis.Redis,
    known: GpuClass,
    record: Record,
    reason: str | None,
    changes: Mapping[str, int],
) -> tuple[StartRange, StartRange | None]:
    """Return when a waiting job starts, and when it would with some changes, if there are any."""
    snapshots = Snapshots(client, known)
    snapshot = snapshots.read(record["delivery"], redis_time(client))
    start = start_of(snapshots, snapshot, reason)
    if not changes:
        return start, None
    return start, start_of(snapshots, changed(snapshot, changes), reason)


def start_of(snapshots: Snapshots, snapshot: Snapshot, reason: str | None) -> StartRange:
    """Return when the job starts that a snapshot is about."""
    job = snapshot.asked
    if job is None:
        return StartRange(None, None, unknown="it waits no more")
    if reason not in _FORECAST:
        return StartRange(None, None, unknown=f"when {reason} ends is not known")
    if not snapshot.rules.slots(job.isolation):
        return StartRange(None, None, unknown=f"the class has no {job.isolation} slots")
    found = starts(snapshot, job.delivery, snapshots.run_times(snapshot))
    if found.unknown is not None:
        words = f"no run times of {found.unknown or 'a task'}, and no time limit, are known"
        return StartRange(None, None, unknown=words)
    earliest = found.earliest()
    if job.expires is not None and (earliest or 0.0) > job.expires - snapshot.now:
        return StartRange(None, None, unknown="it will most likely expire before that")
    return StartRange(earliest, found.latest())


def _holders(name: str, snapshot: Snapshot | None) -> tuple[Holder, ...]:
    held = sorted(snapshot.held, key=lambda each: each.since) if snapshot else []
    several = snapshot is not None and snapshot.domains is not None
    return tuple(_holder(name, each, several) for each in held[:MOST_HOLDERS])


def _holder(name: str, held: Held, several: bool) -> Holder:
    attempt = Attempt.parse(name, held.holder)
    return Holder(
        attempt.delivery if attempt else held.holder,
        held.isolation,
        held.domain if several else None,
        held.tenant,
        held.task,
        held.since,
    )


def _url() -> Any:
    try:
        from gpuqueue.settings.dispatcher import load
    except ModuleNotFoundError as exc:
        raise GpuQueueError(
            f"redis_url=None needs {exc.name}, which is not installed; pass redis_url, or pip"
            " install 'gpuqueue[all]'"
        ) from exc
    return load().redis_url
