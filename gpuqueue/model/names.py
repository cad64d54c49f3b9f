"""Names that travel: classes, queues, deliveries. Each has one maker and one parser here. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from gpuqueue.errors import InvalidJob

SHARED = "shared"
EXCLUSIVE = "exclusive"
ISOLATIONS = (SHARED, EXCLUSIVE)
QUEUE_PREFIX = "gpu."
#: The class of refused messages, until their refusal is delivered: no queue leads to it.
REFUSED = "refused"
#: The class of the unlocks of chords, which have no GPU: no queue leads to it.
CHORDS = "chords"
#: Classes of gpuqueue itself.
INTERNAL = (REFUSED, CHORDS)
#: The task with which Celery waits for the header of a chord, where the result backend cannot.
UNLOCK = "celery.chord_unlock"
#: Queues without a class: the dispatcher chooses it by the request of the job.
CHOOSING = ("auto", "mig")
CLASS_NAME = re.compile(r"^[a-z0-9]([a-z0-9.+-]{0,48}[a-z0-9])?\Z")
MIG_PROFILE = re.compile(r"^mig-[1-7]g\.\d+gb(\.(me|gfx|me\.all)|-me)?\Z")
_DELIVERY = re.compile(r"~\d+(\.\d+)?(\+[0-9a-f]{16})?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class QueueName:
    """The parts of a queue name: a class (or ``auto``/``mig``), and optionally an isolation."""

    gpu_class: str
    isolation: str | None

    def __str__(self) -> str:
        return QUEUE_PREFIX + self.gpu_class + (f".{self.isolation}" if self.isolation else "")


def parse_queue(queue: str) -> QueueName:
    """Parse a queue name. Raises :class:`InvalidJob` unless it names a GPU queue."""
    rest = queue.removeprefix(QUEUE_PREFIX)
    fix = (
        "GPU queues are named gpu.<class>.shared, gpu.<class>.exclusive, gpu.<class>, gpu.mig or"
        " gpu.auto"
    )
    if rest == queue or not rest:
        raise InvalidJob.field("queue", queue, "is not the name of a GPU queue", fix)
    head, _, last = rest.rpartition(".")
    if head and last in ISOLATIONS:
        gpu_class, isolation = head, last
    elif head and not MIG_PROFILE.match(rest) and CLASS_NAME.match(last) and last.isalpha():
        raise InvalidJob.field("queue", queue, f"has the unknown isolation {last!r}", fix)
    else:
        gpu_class, isolation = rest, None
    if not CLASS_NAME.match(gpu_class):
        raise InvalidJob.field("queue", queue, "has a malformed class", fix)
    return QueueName(gpu_class, isolation)


def is_gpu_queue(queue: str) -> bool:
    """Return whether a queue is a GPU queue by its name."""
    try:
        parse_queue(queue)
    except InvalidJob:
        return False
    return True


def may_lead_to(queue: str, gpu_class: str) -> bool:
    """Return whether a message of a queue may become a job of a class."""
    try:
        return parse_queue(queue).gpu_class in (gpu_class, *CHOOSING)
    except InvalidJob:
        return False


def check_class_name(value: object) -> str:
    """Return a class name unchanged, or raise :class:`InvalidJob`."""
    if not isinstance(value, str) or not CLASS_NAME.match(value):
        raise InvalidJob.field(
            "gpu_class", value, "cannot name a class", "use e.g. 't4', 'mig-1g.5gb', 'auto'"
        )
    if value.startswith(QUEUE_PREFIX):
        raise InvalidJob.field(
            "gpu_class", value, "is the name of a queue", "use e.g. 't4', with isolation='shared'"
        )
    return value


def worker_name(gpu_class: str) -> str:
    """Name the Celery worker that a class is to monitors: one, however many dispatchers serve it,
    and wherever its jobs run. The host differs too: some monitors keep that part alone.
    """
    return f"gpu-{gpu_class}@gpuqueue-{gpu_class}"


def delivery_name(job_id: str, retries: int = 0, nesting: int = 0, tag: str = "") -> str:
    """Name one delivery of a job: its id; ``id~2`` for its second retry; ``id~0.1`` after
    ``task.replace``; ``x~1~0`` for the id ``x~1``, which itself ends like a retry.

    A retry is a new message with the same task id, and the previous try may still run when it
    arrives: each delivery is queued, attempted and finished by itself.

    ``tag``: of a message that was sent again after that delivery had ended. Its own delivery is
    ``id~0+`` or ``id~2+``, with a hash of the tag.
    """
    if not retries and not nesting and not tag and not _DELIVERY.search(job_id):
        return job_id
    plain = f"{job_id}~{retries}" + (f".{nesting}" if nesting else "")
    return f"{plain}+{hashlib.sha256(tag.encode()).hexdigest()[:16]}" if tag else plain
