"""The record of a delivery: one table of the fields that the store keeps. Pure: no I/O, no clock.

All lists of record fields come from it: those of the scripts (store/scripts.py), of executors'
environments (executor_env.py), of the annotation of a Job, and of what commands show.
"""

# Without `from __future__ import annotations`: FIELDS reads the annotations at each import, also in
# executors, and texts would have to be evaluated first.
from enum import Enum, auto
from typing import Annotated, Any, NamedTuple, TypedDict, get_args, get_origin

from gpuqueue.model.states import JobState


class Use(Enum):
    """What a field is used for beside the store."""

    ENVIRONMENT = auto()
    """An executor gets it as a variable."""
    ANNOTATION = auto()
    """The annotation of a Job has it, so that a dispatcher can adopt the attempt."""
    REQUIRED = auto()
    """No attempt can be adopted without it."""
    ATTEMPT = auto()
    """It belongs to one attempt: the next one begins without it."""
    TOMBSTONE = auto()
    """The tombstone of an ended job keeps it."""
    SHOWN = auto()
    """Commands show it, in this order."""


ENVIRONMENT, ANNOTATION, REQUIRED = Use.ENVIRONMENT, Use.ANNOTATION, Use.REQUIRED
ATTEMPT, TOMBSTONE, SHOWN = Use.ATTEMPT, Use.TOMBSTONE, Use.SHOWN


class Record(TypedDict, total=False):
    """What the store keeps of a delivery, and the uses of each field (see :class:`Use`).

    Times are Unix seconds. An absent field is unknown, or not known yet. The scripts in
    ``gpuqueue/store/lua`` write the records.
    """

    # The job.
    id: Annotated[str, ENVIRONMENT, ANNOTATION, REQUIRED, TOMBSTONE, SHOWN]
    delivery: Annotated[str, ENVIRONMENT, ANNOTATION, REQUIRED, TOMBSTONE, SHOWN]
    name: Annotated[str, ANNOTATION, TOMBSTONE, SHOWN]
    task: Annotated[str, ENVIRONMENT, ANNOTATION, TOMBSTONE, SHOWN]
    gpu_class: Annotated[str, ENVIRONMENT, ANNOTATION, REQUIRED, TOMBSTONE, SHOWN]
    isolation: Annotated[str, ENVIRONMENT, ANNOTATION, REQUIRED, TOMBSTONE, SHOWN]
    tenant: Annotated[str, ENVIRONMENT, ANNOTATION, TOMBSTONE, SHOWN]
    retries: Annotated[int, ENVIRONMENT, ANNOTATION, TOMBSTONE]
    nesting: Annotated[int, ENVIRONMENT, ANNOTATION]
    tag: Annotated[str, TOMBSTONE]
    priority: Annotated[int, SHOWN]
    arrival: int
    time_limit: Annotated[float, ENVIRONMENT, ANNOTATION]
    max_time_limit: Annotated[float, ANNOTATION]
    # The limit by which its end is planned until its task begins, if that declares one in code; 0:
    # it may. Absent: that is time_limit.
    planned_limit: Annotated[float, ANNOTATION]
    container: dict[str, Any]
    gpus: Annotated[int, ENVIRONMENT, ANNOTATION, TOMBSTONE, SHOWN]  # absent: 1
    reuse: Annotated[int, ANNOTATION, TOMBSTONE, SHOWN]
    warm: Annotated[float, ENVIRONMENT, ANNOTATION, TOMBSTONE, SHOWN]
    # GPU memory that it asks for, in bytes; if that is far more than its task has used, or less:
    # the most used, and in how many jobs.
    memory: Annotated[int, TOMBSTONE, SHOWN]
    memory_used: Annotated[int, TOMBSTONE, SHOWN]
    memory_runs: Annotated[int, TOMBSTONE, SHOWN]
    # Where it goes if its GPU runs out of memory, and where that happened before: see
    # escalation.py.
    larger: Annotated[str, TOMBSTONE, SHOWN]
    escalated: Annotated[str, TOMBSTONE, SHOWN]
    needs_app: bool
    signed: bool
    ignore_result: bool
    group: str

    # Where it stands, and how it ended.
    state: Annotated[str, TOMBSTONE, SHOWN]
    reason: Annotated[str, TOMBSTONE]
    error: Annotated[str, TOMBSTONE]
    error_type: str
    outcome: str
    cancel: str
    finisher: str
    finish_tries: int  # only of versions that counted every claim
    finishes: int
    finish_error: Annotated[str, SHOWN]
    finish_waits: float
    finish_probes: list[str]  # the places that its finisher tries

    # Its latest attempt.
    attempt: Annotated[int, ENVIRONMENT, ANNOTATION, REQUIRED, TOMBSTONE, SHOWN]
    token: Annotated[str, ENVIRONMENT, ANNOTATION, REQUIRED, ATTEMPT]
    by: str
    owner: Annotated[str, TOMBSTONE]
    device: Annotated[int, ENVIRONMENT, ATTEMPT, TOMBSTONE, SHOWN]
    # Those of a job of several GPUs, with the first: indexes, with commas.
    all_devices: Annotated[str, ENVIRONMENT, ATTEMPT, TOMBSTONE, SHOWN]
    domain: Annotated[str, ANNOTATION, ATTEMPT, TOMBSTONE, SHOWN]
    # What its domain was called before it had a node: its pods carry that name.
    origin: Annotated[str, ANNOTATION, ATTEMPT]
    places: Annotated[list[str], ATTEMPT, TOMBSTONE]
    probes: Annotated[list[str], ATTEMPT, TOMBSTONE, SHOWN]
    spared: Annotated[int, TOMBSTONE, SHOWN]
    disruptions: Annotated[int, TOMBSTONE, SHOWN]
    recalled: Annotated[int, TOMBSTONE]
    refused: str  # the kind of the hold that its last attempt met, unless one got further since
    held: float  # since when it waits for a hold, once it has met one
    requeues: Annotated[int, TOMBSTONE, SHOWN]
    losses: Annotated[int, TOMBSTONE, SHOWN]
    if_lost: Annotated[str, ATTEMPT]
    earlier: Annotated[str, ATTEMPT]  # which result was there before its task began
    elsewhere: Annotated[int, ATTEMPT, TOMBSTONE]  # 1: its retry never arrives in this class
    loading: Annotated[int, ATTEMPT]
    load_error: Annotated[str, ATTEMPT]
    instance: Annotated[str, ATTEMPT, TOMBSTONE]
    worker: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]
    # An instance that runs several attempts, by the names of their holders: the first and the one
    # before; how many they are with this one; how many its process has run, and may run; and the
    # last, in the record of each that went before.
    warm_of: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]
    warm_after: Annotated[str, ATTEMPT, TOMBSTONE]
    warm_turn: Annotated[int, ATTEMPT, TOMBSTONE, SHOWN]
    warm_most: Annotated[int, ATTEMPT, TOMBSTONE]
    reused: Annotated[int, ATTEMPT, TOMBSTONE, SHOWN]
    warm_last: Annotated[str, ATTEMPT, TOMBSTONE]
    image: Annotated[str, ANNOTATION, TOMBSTONE, SHOWN]
    node: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]
    pod: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]
    wait: Annotated[str, ATTEMPT, SHOWN]
    detail: Annotated[str, ATTEMPT, SHOWN]
    avoid: Annotated[list[str], TOMBSTONE, SHOWN]
    # Nodes: those that its pod is kept away from, until when it waits for others, and the one that
    # it tries.
    away: Annotated[list[str], ATTEMPT, SHOWN]
    away_until: Annotated[float, ATTEMPT, ANNOTATION]
    near: Annotated[str, ATTEMPT]
    timed_out: Annotated[str, ATTEMPT]
    launches: Annotated[int, ATTEMPT]
    doomed: Annotated[str, ATTEMPT]
    doom_error: Annotated[str, ATTEMPT]
    doom_tried: Annotated[str, ATTEMPT]
    doom_blames: Annotated[str, ATTEMPT]
    doom_avoid: Annotated[str, ATTEMPT]
    exit_code: Annotated[int, ATTEMPT, TOMBSTONE, SHOWN]
    container_reason: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]
    gpu: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]
    gpu_memory_peak: Annotated[int, ATTEMPT, TOMBSTONE, SHOWN]
    gpu_memory_own: Annotated[int, ATTEMPT, TOMBSTONE, SHOWN]
    gpu_error: Annotated[str, ATTEMPT, TOMBSTONE, SHOWN]

    # When.
    created: Annotated[float, TOMBSTONE, SHOWN]
    eta: Annotated[float, SHOWN]
    expires: Annotated[float, SHOWN]
    admitted: Annotated[float, TOMBSTONE, SHOWN]
    launched: Annotated[float, ATTEMPT, SHOWN]
    scheduled: Annotated[float, ATTEMPT, TOMBSTONE, SHOWN]
    container_started: Annotated[float, ATTEMPT, TOMBSTONE, SHOWN]
    started: Annotated[float, ATTEMPT, TOMBSTONE, SHOWN]
    container_finished: Annotated[float, ATTEMPT, TOMBSTONE, SHOWN]
    released: Annotated[float, TOMBSTONE, SHOWN]
    ended: Annotated[float, TOMBSTONE, SHOWN]
    adopted: float


class Field(NamedTuple):
    """One row of the table."""

    kind: Any
    uses: frozenset[Use]


def _field(annotation: Any) -> Field:
    kind, *uses = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    return Field(kind, frozenset(uses))


FIELDS = {name: _field(annotation) for name, annotation in Record.__annotations__.items()}
#: Field → its type in Lua, for the fields that scripts compute with. ``container`` is True in a
#: record that was adopted.
KINDS = {
    name: kind
    for name, field in FIELDS.items()
    if (kind := {str: "string", int: "number", float: "number", list[str]: "table"}.get(field.kind))
}
#: State → the fields that its records have, beside those of each record. A record in another state
#: is damaged.
NEEDED: dict[str, tuple[str, ...]] = {
    JobState.ACCEPTED.value: (),
    JobState.DELAYED.value: (),
    JobState.WAITING.value: (),
    JobState.LAUNCHING.value: ("attempt", "admitted"),
    JobState.RUNNING.value: ("attempt", "admitted", "started"),
    JobState.REPORTING.value: ("attempt", "admitted", "started", "outcome"),
    JobState.FINISHING.value: ("reason",),
    JobState.ENDED.value: (),
}
#: The numbers of attempts are below: the name of a holder has all their digits.
MOST_ATTEMPTS = 10**15


def fields_with(use: Use) -> tuple[str, ...]:
    """Return the names of the fields with a use, in the order of the table."""
    return tuple(name for name, field in FIELDS.items() if use in field.uses)


def devices_of(record: Record) -> list[int]:
    """Return the indexes of the GPUs that an attempt was given."""
    given = record.get("all_devices") or str(record.get("device", ""))
    return [int(index) for index in given.split(",") if index.isdecimal()]


def gpus_of(record: Record) -> list[str]:
    """Return the GPUs of an attempt on a machine, as its places name them."""
    named = (place.partition("/") for place in record.get("places", ()))
    return [gpu for where, _, gpu in named if where.startswith("device:")]


def planned_limit(record: Record) -> float | None:
    """Return the limit by which the end of a job is planned, in seconds; None: none is known."""
    return record.get("planned_limit", record.get("time_limit")) or None


def goes_on(record: Record) -> bool:
    """Whether the pod of a job may run others after it."""
    return bool(record.get("warm")) or record.get("reuse", 0) > 1
