"""Quantities as Kubernetes writes them (``250m``, ``1.5``, ``16Gi``): read to be compared, never rewritten."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([mkMGTPE]|[KMGTPE]i)?", re.ASCII)
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
#: What an error says of the right shape.
CPU_FIX = "write cores as Kubernetes does, e.g. '500m' or '2'"
MEMORY_FIX = "write at least one MiB as Kubernetes does, e.g. '512Mi' or '16Gi'"
_LEAST_MEMORY = 2**20
_LEAST_CPU = Decimal("0.001")


def amount(text: object) -> Decimal | None:
    """Return how much a quantity is, in its base unit (cores, bytes); None for what is no quantity."""
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    return Decimal(match[1]) * _UNITS[match[2] or ""] if match else None


def is_cpu(text: object) -> bool:
    """Whether this is a number of cores, in thousandths at the finest."""
    found = amount(text)
    return found is not None and found >= _LEAST_CPU and found % _LEAST_CPU == 0


def is_memory(text: object) -> bool:
    """Whether this is an amount of memory: ``512m``, the usual slip, is half a byte and none."""
    found = amount(text)
    return found is not None and found >= _LEAST_MEMORY
