"""A job: one delivery of a Celery task message on a GPU queue. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpuqueue.model.names import delivery_name
from gpuqueue.model.record import Record


@dataclass(frozen=True, slots=True)
class Job:
    """One delivery, as it is accepted. Times are Unix seconds; limits are seconds from the start of
    the run.
    """

    id: str
    task: str
    gpu_class: str
    isolation: str
    retries: int = 0
    nesting: int = 0
    name: str = ""
    """What Flower and `status` show: the task's name, or its shadow."""
    priority: int = 0
    created: float = 0.0
    eta: float | None = None
    expires: float | None = None
    time_limit: float | None = None
    tenant: str | None = None
    image: str | None = None
    """The image that it names itself, for its executor or, of a container job, to run."""
    container: dict[str, Any] | None = None
    """Of a container job: what is said of the container (see container.py)."""
    needs_app: bool = False
    """It has errbacks or is part of a chord: finishing it for its executor wants the application's
    code.
    """
    signed: bool = False
    """Its body is signed: what comes after it must be, too, and only the application can do that.
    """
    ignore_result: bool = False
    group: str | None = None
    """The chord or group it is part of: kept from expiring as long as it has not ended."""

    @property
    def delivery(self) -> str:
        """The name of this delivery."""
        return delivery_name(self.id, self.retries, self.nesting)

    def record(self) -> Record:
        """Return what the store keeps of it, without what is empty."""
        kept: Any = {
            key: value
            for key in self.__slots__
            if (value := getattr(self, key)) not in (None, False, "")
        }
        kept["delivery"] = self.delivery
        record: Record = kept
        return record
