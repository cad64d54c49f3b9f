"""The syntax of Kubernetes: quantities (``250m``, ``1.5``, ``16Gi``), names, label keys and values.
Pure.

Quantities are read to be compared, never rewritten.
"""

from __future__ import annotations

import re
from decimal import Decimal

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
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


def is_label_value(text: object) -> bool:
    """Whether Kubernetes takes this for a label's value (an empty one, which it takes too, says
    nothing).
    """
    return isinstance(text, str) and _LABEL_VALUE.fullmatch(text) is not None


def is_label_key(text: object) -> bool:
    """Whether Kubernetes takes this for the key of a label or an annotation: ``name`` or
    ``dns.prefix/name``.
    """
    if not isinstance(text, str):
        return False
    prefix, slash, name = text.rpartition("/")
    return is_label_value(name) and (not slash or is_subdomain(prefix))


def is_subdomain(text: object) -> bool:
    """Whether this can name a Secret, a Job, or most other objects."""
    return isinstance(text, str) and len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def is_dns_label(text: object) -> bool:
    """Whether this can name a namespace, a volume, or a container."""
    return isinstance(text, str) and _DNS_LABEL.fullmatch(text) is not None
