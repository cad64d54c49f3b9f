"""What a message asks for, after it is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.job import Job
from gpuqueue.model.names import QueueName
from gpuqueue.model.request import GpuRequest


@dataclass(frozen=True, slots=True)
class Identity:
    """The part of a message that is readable even if the rest is malformed. It suffices to refuse
    the message where its sender sees it.
    """

    id: str
    task: str
    name: str
    retries: int
    nesting: int
    ignore_result: bool
    tag: str = ""

    def refused(self, gpu_class: str, isolation: str, *, trusted: bool) -> Job:
        """Return the job of a refused message. Its errbacks run only if it is ``trusted``."""
        return Job(
            id=self.id,
            task=self.task or "unknown",
            name=self.name,
            gpu_class=gpu_class,
            isolation=isolation,
            retries=self.retries,
            nesting=self.nesting,
            tag=self.tag,
            needs_app=trusted,
            ignore_result=self.ignore_result,
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """A parsed message: which job it asks for, on which queue. Times are Unix seconds."""

    identity: Identity
    queue: QueueName
    request: GpuRequest
    stamps: Mapping[str, list[str]]
    image: str | None
    container: dict[str, Any] | None
    priority: int
    eta: float | None
    expires: float | None
    time_limit: float | None
    group: str | None
    needs_app: bool
    signed: bool

    def planned_limit(self, gpu_class: GpuClass, declared: float | None) -> float | None:
        """Return the limit by which the end of the job is planned, in seconds, if that is not the
        time limit of its record: its task overrides the default of the class. 0: it is not known.

        ``declared``: the limit that the task has in the code of its application; 0: none; None:
        not known.
        """
        if self.time_limit or self.container is not None or declared == 0:
            return None
        if declared is None:
            return 0.0
        return min(declared, gpu_class.max_time_limit or declared)

    def job(self, gpu_class: GpuClass, isolation: str) -> Job:
        """Return the job, once its class and isolation are chosen. What the request leaves open,
        the class decides: its time limit, and how long its pod waits.
        """
        identity, asked = self.identity, self.request.warm
        return Job(
            id=identity.id,
            task=identity.task,
            name=identity.name,
            gpu_class=gpu_class.name,
            isolation=isolation,
            retries=identity.retries,
            nesting=identity.nesting,
            tag=identity.tag,
            priority=self.priority,
            eta=self.eta,
            expires=self.expires,
            time_limit=self.time_limit or gpu_class.time_limit,
            max_time_limit=gpu_class.max_time_limit,
            tenant=self.request.tenant,
            image=self.image,
            gpus=0 if self.request.gpus == 1 else self.request.gpus or 0,
            reuse=self.request.reuse or 0,
            warm=0
            if self.container is not None
            else float(gpu_class.warm_seconds if asked is None else asked),
            container=self.container,
            memory=self.request.memory,
            group=self.group,
            needs_app=self.needs_app,
            signed=self.signed,
            ignore_result=identity.ignore_result,
        )
