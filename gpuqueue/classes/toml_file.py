"""The classes file: TOML text with one table per class, parsed and checked. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.kubernetes_fields import kubernetes_fields
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.model.names import CHOOSING, CLASS_NAME
from gpuqueue.model.request import parse_memory

#: Fields with a whole number → the smallest one.
_NUMBERS = {
    "shared_slots": 0,
    "exclusive_slots": 0,
    "exclusive_patience": 1,
    "shared_patience": 1,
    "slices": 1,
    "warm_jobs": 1,
}
#: Fields with seconds → the least and the most.
_SECONDS = {"warm_seconds": (0, 86_400), "warm_age": (1, 604_800)}


def from_toml(text: str, source: str, **defaults: Any) -> dict[str, GpuClass]:
    """Parse ``[classes.<name>]`` tables; ``source`` is the path of the file.

    Raises :class:`SettingsError` with file, field, value, problem and fix.
    """
    try:
        tables = tomllib.loads(text).get("classes", {})
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"GPUQUEUE_CLASSES_FILE={source!r} is not TOML: {exc}") from None
    return {
        name: _from_table(name, table, f"{source}: classes.{name}", defaults)
        for name, table in tables.items()
    }


def _from_table(
    name: str, table: Mapping[str, Any], where: str, defaults: Mapping[str, Any]
) -> GpuClass:
    if not CLASS_NAME.match(name) or name in CHOOSING:
        raise SettingsError(
            f"{where}: {name!r} is not a valid class name; use lower-case letters, digits, '.', '-'"
            f" (not {', '.join(CHOOSING)})"
        )
    known = {each.name for each in fields(GpuClass)} - {"name"}
    for key in table:
        if key not in known:
            raise SettingsError(
                f"{where}.{key}={table[key]!r} is unknown; known: {', '.join(sorted(known))}"
            )
    values = {**defaults, **table}
    _check_numbers(values, where)
    _check_seconds(values, where)
    if "memory" in values:
        try:
            values["memory"] = parse_memory(values["memory"])
        except InvalidJob as exc:
            raise SettingsError(f"{where}: {exc}") from None
    if "devices" in values:
        values["devices"] = _devices(values["devices"], where)
    values |= kubernetes_fields(table, where)
    made = GpuClass(name, **values)
    if not made.shared_slots and not made.exclusive_slots:
        raise SettingsError(f"{where} has no slots; set shared_slots or exclusive_slots")
    return made


def _check_numbers(values: Mapping[str, Any], where: str) -> None:
    for key, least in _NUMBERS.items():
        value = values.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SettingsError(
                f"{where}.{key}={value!r} is not a whole number of at least {least}; use e.g. 1"
            )


def _check_seconds(values: Mapping[str, Any], where: str) -> None:
    for key, (least, most) in _SECONDS.items():
        value = values.get(key, least)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            raise SettingsError(
                f"{where}.{key}={value!r} is not a number of seconds; use {least} to {most}"
            )


def _devices(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(index) is int and index >= 0 for index in value):
        raise SettingsError(
            f"{where}.devices={value!r} is not a list of GPU indexes; use e.g. devices = [0, 1]"
        )
    return tuple(value)
