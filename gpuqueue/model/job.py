"""A job: one delivery of a Celery task message on a GPU queue, and what it asks for. Pure: reads no
clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from gpuqueue.errors import InvalidJob
from gpuqueue.model.names import CLASS_NAME, ISOLATIONS, delivery_name

#: The message header that carries a job's request.
HEADER = "gpu"
#: What the header may say.
REQUEST_FIELDS = ("isolation", "memory", "slices", "tenant", "image")
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_MEMORY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*$", re.IGNORECASE)
_TENANT = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")


def parse_memory(value: object) -> int:
    """Read an amount of memory: bytes as a number, or text such as ``9GiB``, ``16GB``, ``512Mi``.
    Answers bytes.
    """
    fix = "write bytes, or a number with KiB, MiB, GiB, KB, MB or GB"
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _MEMORY.match(value) if isinstance(value, str) else None
    if not match or match.group(2).lower() not in _UNITS or not float(match.group(1)):
        raise InvalidJob.field("gpu.memory", value, "is not an amount of memory", fix)
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What a job says in its ``gpu`` header. ``memory`` in bytes; None: it does not say."""

    isolation: str | None = None
    memory: int | None = None
    slices: int | None = None
    tenant: str | None = None
    image: str | None = None

    @classmethod
    def parse(cls, header: object) -> GpuRequest:
        """Read the header. Raises :class:`InvalidJob` that names the first wrong field."""
        if header is None:
            return cls()
        if not isinstance(header, Mapping):
            raise InvalidJob.field(
                "gpu",
                header,
                "is not an object",
                'send e.g. {"isolation": "shared", "memory": "9GiB"}',
            )
        for key in header:
            if key not in REQUEST_FIELDS:
                raise InvalidJob.field(
                    f"gpu.{key}",
                    header[key],
                    "is unknown",
                    f"known fields: {', '.join(REQUEST_FIELDS)}",
                )
        isolation, memory, slices = (
            header.get("isolation"),
            header.get("memory"),
            header.get("slices"),
        )
        tenant, image = header.get("tenant"), header.get("image")
        if isolation is not None and isolation not in ISOLATIONS:
            raise InvalidJob.field(
                "gpu.isolation", isolation, "is unknown", f"use {' or '.join(ISOLATIONS)}"
            )
        if slices is not None and (
            not isinstance(slices, int) or isinstance(slices, bool) or not 1 <= slices <= 7
        ):
            raise InvalidJob.field(
                "gpu.slices", slices, "is not a number of MIG slices", "use 1 to 7"
            )
        if tenant is not None and (not isinstance(tenant, str) or not _TENANT.match(tenant)):
            raise InvalidJob.field(
                "gpu.tenant",
                tenant,
                "cannot name a tenant",
                "use up to 63 letters, digits, '.', '_', '-'",
            )
        if image is not None and (
            not isinstance(image, str) or not image or image.split() != [image]
        ):
            raise InvalidJob.field(
                "gpu.image", image, "is not an image reference", "use e.g. registry/name:tag"
            )
        return cls(
            isolation, parse_memory(memory) if memory is not None else None, slices, tenant, image
        )

    def header(self) -> dict[str, Any]:
        """Return the header that says this, without what it leaves open."""
        return {key: value for key in REQUEST_FIELDS if (value := getattr(self, key)) is not None}


def check_class_name(value: object) -> str:
    """Return a class's name as given, or raise :class:`InvalidJob`."""
    if not isinstance(value, str) or not CLASS_NAME.match(value):
        raise InvalidJob.field(
            "gpu_class", value, "cannot name a class", "use e.g. 't4', 'mig-1g.5gb', 'auto'"
        )
    return value


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


class Record(TypedDict, total=False):
    """What the store keeps of a delivery. Times are Unix seconds; absent: not known, or not yet.

    The scripts in ``gpuqueue/store/lua`` write it; ``lib/records.lua`` says what stays in a
    tombstone.
    """

    delivery: str
    id: str
    task: str
    name: str
    gpu_class: str
    isolation: str
    retries: int
    nesting: int
    priority: int
    tenant: str
    needs_app: bool
    signed: bool
    ignore_result: bool
    group: str
    image: str
    container: dict[str, Any]
    owner: str
    state: str
    reason: str
    error: str
    error_type: str
    attempt: int
    token: str
    by: str
    device: int
    instance: str
    worker: str
    cancel: str
    timed_out: str
    wait: str
    detail: str
    doomed: str
    doom_error: str
    doom_tried: str
    avoid: list[str]
    outcome: str
    finisher: str
    finish_tries: int
    time_limit: float
    created: float
    eta: float
    expires: float
    admitted: float
    launched: float
    started: float
    released: float
    ended: float
    adopted: float
    node: str
    pod: str
    exit_code: int
    container_reason: str
    scheduled: float
    container_started: float
    container_finished: float
    gpu: str
    gpu_memory_peak: int
    gpu_memory_own: int
    gpu_error: str
