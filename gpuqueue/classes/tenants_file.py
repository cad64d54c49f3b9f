"""The file of tenants: TOML text with one table per class, parsed and checked. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError, shown
from gpuqueue.model.tenant import (
    ClassRules,
    TenantRule,
    WrongRule,
    check_guarantees,
    check_half_life,
    check_name,
)

#: The keys of the table of a class.
_KEYS = ("half_life", "tenants")


def tenants_from_toml(
    text: str, source: str, classes: Mapping[str, GpuClass]
) -> dict[str, ClassRules]:
    """Parse ``[CLASS]`` and ``[CLASS.tenants.NAME]`` tables; ``source`` is the path of the file.

    Raises :class:`SettingsError` with file, field, value, problem and fix.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"GPUQUEUE_TENANTS_FILE={source!r} is not TOML: {exc}") from None
    found = {}
    for name, table in tables.items():
        where = f"{source}: {name}"
        if name not in classes:
            raise SettingsError(
                f"{where} is not a GPU class of this dispatcher; known: {', '.join(classes)}"
            )
        try:
            found[name] = _of_class(table, where, classes[name])
        except WrongRule as exc:
            raise SettingsError(str(exc)) from None
    return found


def _of_class(table: object, where: str, gpu_class: GpuClass) -> ClassRules:
    own = _table(table, where)
    for key in own:
        if key not in _KEYS:
            raise WrongRule(
                f"{where}.{key}={shown(own[key], 80)} is unknown; known: {', '.join(_KEYS)}"
            )
    half_life = own.get("half_life")
    if half_life is not None:
        half_life = check_half_life(half_life, f"{where}.half_life")
    rules = {}
    for name, values in _table(own.get("tenants", {}), f"{where}.tenants").items():
        place = f"{where}.tenants.{name}"
        tenant = check_name(name, f"{where}.tenants")
        rules[tenant] = TenantRule.parse(_table(values, place), place)
    slots = max(gpu_class.shared_slots, gpu_class.exclusive_slots)
    check_guarantees(rules, slots, f"{where}.tenants")
    return ClassRules(rules, half_life)


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongRule(f"{where}={shown(value, 80)} is not a table; use [CLASS.tenants.NAME]")
    return value
