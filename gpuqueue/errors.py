"""Every error that gpuqueue raises, or stores as the result of a job.

A result backend rebuilds errors as ``type(*args)``, so each error takes its message alone.
"""

from __future__ import annotations

from typing import Self

#: Characters of a wrong value in the message of its error.
MOST_SHOWN = 500


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """Return a wrong value as the message of its error shows it."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"({type(value).__name__})"
    return text if len(text) <= most else f"{text[:most]}…"


class GpuQueueError(Exception):
    """The base class of all errors of gpuqueue."""


class InvalidJob(GpuQueueError, ValueError):
    """The job has an invalid field: the message states field, value, problem and fix."""

    @classmethod
    def field(cls, field: str, value: object, problem: str, fix: str) -> Self:
        """Build the message of every refusal: ``field=value problem; fix``."""
        return cls(f"{field}={shown(value)} {problem}; {fix}")


class InvalidSignal(GpuQueueError, ValueError):
    """A revoke names a signal that does not exist."""


class UnknownJob(GpuQueueError, LookupError):
    """No class knows the job: it was never sent to a GPU queue of this Redis, no dispatcher has
    taken it yet, or its record has expired.
    """


class MalformedMessage(InvalidJob):
    """The message is not a Celery task message, or its body is not one that the application
    accepts and can decode.
    """

    @classmethod
    def body(cls, body: object, problem: str, fix: str) -> Self:
        """Build the message for an invalid body, with its first 80 characters."""
        plain = body.decode(errors="replace") if isinstance(body, bytes) else body
        text = plain if isinstance(plain, str) else shown(plain)
        return cls.field("body", f"{text[:80]}...", problem, fix)


class UntrustedMessage(MalformedMessage):
    """The message has no signature that the application, or the dispatcher, trusts."""


class TenantLimit(InvalidJob):
    """The tenant of the job has ``max_queued`` jobs in the class: as many as it may have."""


class ApplicationNotFound(GpuQueueError, ImportError):
    """The executor cannot import the application that GPUQUEUE_APP names."""


class TaskNotFound(GpuQueueError, LookupError):
    """The application has no task with the name in the message."""


class ExecutorDied(GpuQueueError):
    """The executor ended without a result: killed, out of memory, or crashed below Python."""


class HostOutOfMemory(ExecutorDied):
    """The container exceeded its limit of host memory and was killed."""


class Evicted(ExecutorDied):
    """The pod was evicted from its node on the last allowed attempt."""


class Preempted(ExecutorDied):
    """The pod was preempted by one of higher priority on the last allowed attempt."""


class NodeLost(ExecutorDied):
    """The node of the pod was lost on the last allowed attempt."""


class PodDeleted(ExecutorDied):
    """The pod of the running job was deleted by someone other than gpuqueue."""


class ContainerFailed(GpuQueueError):
    """The container of a container job ended with an exit code other than 0."""


class FinishFailed(GpuQueueError):
    """The container of the job succeeded, but its callbacks could not be sent."""


class LaunchFailed(GpuQueueError):
    """The executor did not start, or not claim its job, on the last allowed attempt."""


class ImageUnusable(LaunchFailed):
    """The image that the job names does not exist, its name is invalid, or jobs with the image were
    held for too long (GPU_HELD_TIMEOUT).
    """


class Unschedulable(LaunchFailed):
    """No node took the pod, and its class was held for too long (GPU_HELD_TIMEOUT)."""


class QuotaExceeded(LaunchFailed):
    """The quota of the namespace admitted no Job or pod, and the class was held for too long
    (GPU_HELD_TIMEOUT).
    """


class StartTimeout(LaunchFailed):
    """The executor started but did not claim its job in time (GPUQUEUE_START_TIMEOUT), or did not
    load the application in time (GPUQUEUE_LOAD_TIMEOUT).
    """


class SettingsError(GpuQueueError):
    """A setting is missing or invalid: the message states setting, value, problem and fix."""


class LayoutMismatch(GpuQueueError):
    """Redis holds state of another layout: the message states setting, layout and fix."""


class ServerUnreachable(GpuQueueError):
    """Redis cannot be reached: the message states address and fix."""


class ServerNotReady(ServerUnreachable):
    """Redis answers, but cannot serve for now: it loads, is read-only, or must not write."""


class ClusterNotReady(GpuQueueError):
    """The API server does not answer what a dispatcher must know before it starts."""


class ServerRefuses(ServerUnreachable):
    """Redis rejects the user, the password or a command of that user."""


class ServerNotTrusted(ServerUnreachable):
    """Redis has no valid TLS certificate for its address."""


class StateUnavailable(GpuQueueError):
    """The queue state cannot be written now; the message waits in Redis and is taken again."""


class StateDamaged(GpuQueueError):
    """A key of the queue's state has another type than the queue gives it; messages for its class
    wait in Redis until it is repaired.
    """


class RecordDamaged(GpuQueueError):
    """The record of the job in Redis cannot be read; ``gpuqueue doctor`` shows what it was."""


class StaleAttempt(GpuQueueError):
    """The attempt is no longer the current one of its job and must not write."""


class NoRedisServer(GpuQueueError):
    """This machine has no redis-server, valkey-server or packaged server."""


class EmbeddedRedisFailed(GpuQueueError):
    """The embedded Redis did not start; the message contains the end of its log."""
