"""A job: one delivery of a Celery task message on a GPU queue. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpuqueue.model.names import delivery_name
from gpuqueue.model.record import Record


@dataclass(frozen=True, slots=True)
class Job:
    """One delivery, as accepted. Times are Unix seconds; limits are seconds from the start of the
    run.
    """

    id: str
    task: str
    gpu_class: str
    isolation: str
    retries: int = 0
    nesting: int = 0
    tag: str = ""
    """What tells its message from another one that was sent with the same id and counts."""
    name: str = ""
    """The name that Flower and `status` show: the task or its shadow."""
    priority: int = 0
    eta: float | None = None
    expires: float | None = None
    time_limit: float | None = None
    max_time_limit: float | None = None
    """The largest limit of its class: one that its task declares is cut to it."""
    tenant: str | None = None
    image: str | None = None
    """The image that the job names: of its executor, or of a container job."""
    container: dict[str, Any] | None = None
    """The container of a container job (see container.py)."""
    needs_app: bool = False
    """It has errbacks or is part of a chord: to finish it in place of its executor takes the
    application's code.
    """
    signed: bool = False
    """Its body is signed. Messages that it causes must be signed too, which only the application
    can do.
    """
    ignore_result: bool = False
    gpus: int = 0
    """How many GPUs it needs, if several."""
    reuse: int = 0
    """How many jobs of its task its process may run, one after the other."""
    warm: float = 0
    """For how many seconds its pod may wait for another job, once it has ended."""
    memory: int | None = None
    """GPU memory that it asks for, in bytes."""
    larger: str | None = None
    """Where it runs once more if its GPU runs out of memory: see escalation.py."""
    escalated: str | None = None
    """Where that happened before."""
    group: str | None = None
    """Its chord or group, kept from expiring until the job ends."""

    @property
    def delivery(self) -> str:
        """The name of the delivery."""
        return delivery_name(self.id, self.retries, self.nesting)

    @property
    def again(self) -> str | None:
        """The name of the delivery if its message was sent again; None: nothing tells."""
        return delivery_name(self.id, self.retries, self.nesting, self.tag) if self.tag else None

    def record(self) -> Record:
        """Return its record for the store, without empty fields."""
        kept: Any = {
            key: value
            for key in self.__slots__
            if (value := getattr(self, key)) not in (None, False, "")
        }
        kept["delivery"] = self.delivery
        record: Record = kept
        return record
