"""Read texts of the state that may be damaged: what cannot be read is None, as if it were gone."""

from __future__ import annotations

import json
from typing import Any

from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.record import KINDS, Record

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "table": list,
}


def readable(text: Any) -> dict[str, Any] | None:
    """Return a JSON object."""
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def readable_record(text: Any) -> Record | None:
    """Return a record. The scripts set a damaged one aside, by the same rule."""
    found: Any = readable(text)
    if found is None:
        return None
    for field in [field for field, value in found.items() if value is None]:
        del found[field]
    for field, value in found.items():
        kind = KINDS.get(field)
        if kind and (not isinstance(value, _TYPES[kind]) or isinstance(value, bool)):
            return None
    sound = "id" in found and "delivery" in found and "state" in found
    record: Record | None = found if sound and found.get("isolation") in ISOLATIONS else None
    return record
