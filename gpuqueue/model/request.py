"""What a job asks for in its ``gpu`` header. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuqueue.errors import InvalidJob
from gpuqueue.model.names import CHOOSING, CLASS_NAME, EXCLUSIVE, INTERNAL, ISOLATIONS, SHARED
from gpuqueue.model.tenant import NAME, NAME_FIX
from gpuqueue.model.text import fits, fitting

#: The message header that carries a job's request.
HEADER = "gpu"
#: The fields of the header.
REQUEST_FIELDS = (
    *("isolation", "memory", "slices", "gpus", "tenant", "image", "reuse", "warm"),
    *("classes", "escalate"),
)
#: The longest time limit in seconds, about 30 years: clocks of Redis and Kubernetes can add it.
MOST_SECONDS = 10**9
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
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", re.IGNORECASE | re.ASCII)
#: Bytes. The least: a number without its unit is far below. The most: far above any GPU, and exact
#: as a float.
_LEAST_MEMORY, _MOST_MEMORY = 2**20, 2**50
_LONGEST_IMAGE = 1024
#: The most GPUs of one job: more than any machine has.
_MOST_GPUS = 64
#: The most jobs of one process. A number far above serves nothing.
_MOST_JOBS = 10**6
#: Seconds: the longest that a pod may wait for a job.
_LONGEST_WAIT = 86_400
#: The most classes that a job may list.
MOST_CLASSES = 16


def parse_memory(value: object) -> int:
    """Parse an amount of memory: a number of bytes, or text such as ``9GiB``, ``16GB``, ``512Mi``.
    Returns bytes.
    """
    fix = "write bytes, or a number with KiB, MiB, GiB, KB, MB or GB"
    amount: float = 0
    if isinstance(value, int) and not isinstance(value, bool):
        amount = value
    elif isinstance(value, str) and (match := _MEMORY.fullmatch(value)):
        amount = float(match.group(1)) * _UNITS.get(match.group(2).lower(), 0)
    if not amount >= 1:
        raise InvalidJob.field("gpu.memory", value, "is not an amount of memory", fix)
    if amount < _LEAST_MEMORY:
        raise InvalidJob.field("gpu.memory", value, "is below 1 MiB", fix)
    if amount > _MOST_MEMORY:
        raise InvalidJob.field("gpu.memory", value, "is above 1 PiB", fix)
    return int(amount)


def parse_gpus(value: object, isolation: object) -> int | None:
    """Parse a number of GPUs; None: not requested. Several are for one job alone."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_GPUS:
        raise InvalidJob.field(
            "gpu.gpus", value, "is not a number of GPUs", f"use 1 to {_MOST_GPUS}"
        )
    if value > 1 and isolation == SHARED:
        raise InvalidJob.field(
            "gpu.gpus",
            value,
            "needs GPUs that no other job shares",
            f"set isolation={EXCLUSIVE!r}, or gpus=1",
        )
    return value


def parse_classes(value: object) -> tuple[str, ...]:
    """Parse a list of classes, the preferred one first. Whether they exist is not known here."""
    fix = f"list 1 to {MOST_CLASSES} classes, e.g. ['mig-1g.5gb', 't4']"
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidJob.field("gpu.classes", value, "is not a list of classes", fix)
    if not value:
        raise InvalidJob.field("gpu.classes", value, "is empty", fix)
    if len(value) > MOST_CLASSES:
        raise InvalidJob.field("gpu.classes", value, f"has {len(value)} classes", fix)
    for name in value:
        if not isinstance(name, str) or not CLASS_NAME.match(name):
            raise InvalidJob.field("gpu.classes", name, "cannot name a class", fix)
        if name in (*CHOOSING, *INTERNAL):
            raise InvalidJob.field("gpu.classes", name, "is not a class of GPUs", fix)
        if value.count(name) > 1:
            raise InvalidJob.field("gpu.classes", name, "is listed twice", "list each class once")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """The ``gpu`` header of a job. ``memory`` is in bytes; None: not requested. ``gpus`` is how
    many GPUs of one machine it needs; ``reuse`` how many jobs of its task its process may run, one
    after the other; ``warm`` for how many seconds its pod may wait for another job. ``classes`` are
    those that may run it, the preferred one first; ``escalate``: out of GPU memory, it runs once
    more in a larger place.
    """

    isolation: str | None = None
    memory: int | None = None
    slices: int | None = None
    gpus: int | None = None
    tenant: str | None = None
    image: str | None = None
    reuse: int | None = None
    warm: float | None = None
    classes: tuple[str, ...] | None = None
    escalate: bool = False

    @classmethod
    def parse(cls, header: object) -> GpuRequest:
        """Parse the header. Raises :class:`InvalidJob` that names the first wrong field."""
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
                    f"gpu.{fitting(str(key), 80)}",
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
        gpus = parse_gpus(header.get("gpus"), isolation)
        if tenant is not None and (not isinstance(tenant, str) or not NAME.fullmatch(tenant)):
            raise InvalidJob.field("gpu.tenant", tenant, "cannot name a tenant", NAME_FIX)
        if image is not None and (not fits(image, _LONGEST_IMAGE) or image.split() != [image]):
            raise InvalidJob.field(
                "gpu.image", image, "is not an image reference", "use e.g. registry/name:tag"
            )
        reuse = header.get("reuse")
        if reuse is not None and (
            not isinstance(reuse, int) or isinstance(reuse, bool) or not 0 <= reuse <= _MOST_JOBS
        ):
            raise InvalidJob.field(
                "gpu.reuse", reuse, "is not a number of jobs", f"use 0 to {_MOST_JOBS}"
            )
        warm = header.get("warm")
        if warm is not None and (
            not isinstance(warm, int | float)
            or isinstance(warm, bool)
            or not 0 <= warm <= _LONGEST_WAIT
        ):
            raise InvalidJob.field(
                "gpu.warm", warm, "is not a number of seconds", f"use 0 to {_LONGEST_WAIT}"
            )
        escalate = header.get("escalate")
        if escalate is not None and not isinstance(escalate, bool):
            raise InvalidJob.field(
                "gpu.escalate", escalate, "is not a truth value", "use true or false"
            )
        amount = parse_memory(memory) if memory is not None else None
        classes = header.get("classes")
        listed = parse_classes(classes) if classes is not None else None
        own = (listed, escalate is True)
        return cls(isolation, amount, slices, gpus, tenant, image, reuse, warm, *own)

    @property
    def kind(self) -> str | None:
        """The isolation that it needs; None: it leaves that open. Several GPUs are exclusive."""
        return self.isolation or (EXCLUSIVE if (self.gpus or 1) > 1 else None)

    def header(self) -> dict[str, Any]:
        """Return the header of this request, without its unset fields."""
        found = {key: getattr(self, key) for key in REQUEST_FIELDS}
        if self.classes is not None:
            found["classes"] = list(self.classes)
        return {key: each for key, each in found.items() if each is not None and each is not False}
