"""Read texts of the state that may be damaged: what cannot be read is None, as if it were gone."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.record import KINDS, MOST_ATTEMPTS, NEEDED, Record

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "table": list,
}

#: The types of settings that are None by default, and no text.
_UNSET: dict[str, type] = {
    "devices": list,
    **{each.name: int for each in fields(GpuClass) if each.type == "int | None"},
    **{each.name: float for each in fields(GpuClass) if each.type == "float | None"},
}


def readable(text: Any) -> dict[str, Any] | None:
    """Return a JSON object."""
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def readable_list(text: Any, size: int) -> list[Any] | None:
    """Return a JSON list of at least so many elements."""
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and len(found) >= size else None


def readable_class(name: str, text: Any) -> dict[str, Any]:
    """Return the settings of a class. In place of one that cannot be read comes its default."""
    found = GpuClass(name).public()
    for field, value in (readable(text) or {}).items():
        default = found.get(field, value)
        kind: Any = type(default) if default is not None else _UNSET.get(field, str)
        if isinstance(value, int | float if kind is float else kind) or (
            value is None and default is None
        ):
            found[field] = value
    return found | {"name": name}


def gpu_class(spec: dict[str, Any]) -> GpuClass:
    """Rebuild a class from a dispatcher's announcement, without fields of a newer version."""
    known = {field.name for field in fields(GpuClass)}
    values = {key: value for key, value in spec.items() if key in known}
    if values.get("devices") is not None:
        values["devices"] = tuple(values["devices"])
    return GpuClass(**values)


def whole(text: str) -> int:
    """Return a count; 0 for one that cannot be read."""
    return int(text) if text.isdecimal() else 0


def readable_record(text: Any, gpu_class: str) -> Record | None:
    """Return a record of a class. The scripts set a damaged one aside, by the same rule."""
    found: Any = readable(text)
    if found is None or not _is_json(found):
        return None
    for field in [field for field, value in found.items() if value is None]:
        del found[field]
    for field, value in found.items():
        kind = KINDS.get(field)
        if kind and (not isinstance(value, _TYPES[kind]) or isinstance(value, bool)):
            return None
        if kind == "table" and not all(isinstance(each, str) for each in value):
            return None
    attempt, needed = found.get("attempt", 0), NEEDED.get(found.get("state", ""))
    sound = (
        needed is not None
        and all(field in found for field in ("id", "delivery", *needed))
        and found.get("isolation") in ISOLATIONS
        and 0 <= attempt < MOST_ATTEMPTS
        and attempt == int(attempt)
    )
    record: Any = {"gpu_class": gpu_class, **found}
    return record if sound else None


def _is_json(value: dict[str, Any] | list[Any]) -> bool:
    """Whether no number in it is infinite, or none: the scripts could not write it again."""
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, float):
            if not math.isfinite(each):
                return False
        elif isinstance(each, dict | list) and not _is_json(each):
            return False
    return True
