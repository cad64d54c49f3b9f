"""Every error this project raises, or stores as the result of a job.

Errors that travel through a result backend are rebuilt there as ``type(*args)``: each takes its
message alone.
"""

from __future__ import annotations

from typing import Self


class GpuQueueError(Exception):
    """The root of every error of gpuqueue."""


class InvalidJob(GpuQueueError, ValueError):
    """The job asks for something that cannot be: the text names the field, the value and the fix."""

    @classmethod
    def field(cls, field: str, value: object, problem: str, fix: str) -> Self:
        """Build the message every refusal has: ``field=value problem; fix``."""
        return cls(f"{field}={value!r} {problem}; {fix}")


class MalformedMessage(InvalidJob):
    """The message is no Celery task message that can be kept: its body is not JSON of the
    documented shape.
    """

    @classmethod
    def body(cls, body: object, problem: str, fix: str) -> Self:
        """Build the message of one whose body is wrong; of that, it shows the beginning."""
        shown = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        return cls.field("body", f"{shown[:80]}...", problem, fix)


class UntrustedMessage(MalformedMessage):
    """The message is not signed by anybody whom the application, or the dispatcher's store of
    certificates, trusts.
    """


class ApplicationNotFound(GpuQueueError, ImportError):
    """The executor cannot import the application that GPUQUEUE_APP names."""


class TaskNotFound(GpuQueueError, LookupError):
    """The application has no task of the name that the message carries."""


class ArgumentsMismatch(InvalidJob, TypeError):
    """The arguments of the message do not fit the signature of the task."""


class ExecutorDied(GpuQueueError):
    """The executor ended without a word: killed, out of memory, or crashed below Python."""


class HostOutOfMemory(ExecutorDied):
    """The container used more memory of its host than its limit, and was killed."""


class Evicted(ExecutorDied):
    """The pod was evicted from its node, as often as attempts are allowed."""


class Preempted(ExecutorDied):
    """The pod had to make room for one of higher priority, as often as attempts are allowed."""


class NodeLost(ExecutorDied):
    """The pod's node was lost, as often as attempts are allowed."""


class PodDeleted(ExecutorDied):
    """Somebody deleted the pod of the running job."""


class ContainerFailed(GpuQueueError):
    """The container of a container job ended with another exit code than 0."""


class LaunchFailed(GpuQueueError):
    """The executor could not be started, or ended before it took its job, as often as attempts are
    allowed.
    """


class ImageUnusable(LaunchFailed):
    """The image cannot be pulled, or its name is none."""


class Unschedulable(LaunchFailed):
    """No node could take the pod in time."""


class QuotaExceeded(LaunchFailed):
    """The quota of the namespace did not admit the Job or its pod in time."""


class StartTimeout(LaunchFailed):
    """The executor was started but did not take its job in time (GPUQUEUE_START_TIMEOUT)."""


class SettingsError(GpuQueueError):
    """A setting is missing or wrong: the text names it, its value and the fix."""


class LayoutMismatch(GpuQueueError):
    """Redis holds the state of another layout: the text names the setting, the layout found and the
    fix.
    """


class ServerUnreachable(GpuQueueError):
    """Redis cannot be reached: the text names the address and the fix."""


class ServerRefuses(ServerUnreachable):
    """Redis does not take the user, the password, or what that user wants to do."""


class ServerNotTrusted(ServerUnreachable):
    """Redis cannot prove by its certificate that it is the server which the address names."""


class StateUnavailable(GpuQueueError):
    """The queue's state cannot be written now; the message stays with the broker and comes again."""


class StaleAttempt(GpuQueueError):
    """The attempt is no longer the current one of its job, and may write nothing."""


class NoRedisServer(GpuQueueError):
    """No redis-server, valkey-server or packaged server is on this machine."""


class EmbeddedRedisFailed(GpuQueueError):
    """The embedded Redis did not start; the text holds the end of its log."""
