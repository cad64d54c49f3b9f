"""The syntax of Kubernetes: quantities (``250m``, ``1.5``, ``16Gi``), names, label keys and values.

Pure. Quantities are parsed for comparison and never rewritten.
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
#: Fixes for error messages.
CPU_FIX = "use e.g. '500m' or '2'"
MEMORY_FIX = "use at least 1 MiB, e.g. '512Mi' or '16Gi'"
NAMESPACE_FIX = "use up to 63 lower-case letters, digits and '-'"
TIMEOUT_FIX = "use seconds of at least 1, or 'never'"
NEVER = "never"
_LEAST_MEMORY = 2**20
_LEAST_CPU = Decimal("0.001")


def amount(text: object) -> Decimal | None:
    """Return a quantity in its base unit (cores, bytes); None if the text is not a quantity."""
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    return Decimal(match[1]) * _UNITS[match[2] or ""] if match else None


def is_cpu(text: object) -> bool:
    """Whether this is a valid number of cores, in steps of 0.001."""
    found = amount(text)
    return found is not None and found >= _LEAST_CPU and found % _LEAST_CPU == 0


def is_memory(text: object) -> bool:
    """Whether this is at least 1 MiB of memory. ``512m``, a common slip, is half a byte."""
    found = amount(text)
    return found is not None and found >= _LEAST_MEMORY


def is_timeout(value: object) -> bool:
    """Whether this is a number of seconds to wait, or ``never``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value == NEVER or (number and 1 <= float(str(value)) < float("inf"))


def is_label_value(text: object) -> bool:
    """Whether this is a valid label value. Kubernetes also accepts an empty one; this does not."""
    return isinstance(text, str) and _LABEL_VALUE.fullmatch(text) is not None


def is_label_key(text: object) -> bool:
    """Whether this is a valid key of a label or annotation: ``name`` or ``dns.prefix/name``."""
    if not isinstance(text, str):
        return False
    prefix, slash, name = text.rpartition("/")
    return is_label_value(name) and (not slash or is_subdomain(prefix))


def is_subdomain(text: object) -> bool:
    """Whether this is a valid name of a Secret, a Job and most other objects."""
    return isinstance(text, str) and len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def is_dns_label(text: object) -> bool:
    """Whether this is a valid name of a namespace, a volume or a container."""
    return isinstance(text, str) and _DNS_LABEL.fullmatch(text) is not None
