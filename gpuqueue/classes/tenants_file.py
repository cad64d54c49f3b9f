"""The file of tenants: TOML text with one table per class, parsed and checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.toml_tables import check_keys, table, tables
from gpuqueue.errors import SettingsError
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
_FORM = "[CLASS.tenants.NAME]"


def tenants_from_toml(
    text: str, source: str, classes: Mapping[str, GpuClass]
) -> dict[str, ClassRules]:
    """Parse ``[CLASS]`` and ``[CLASS.tenants.NAME]`` tables; ``source`` is the path of the file.

    Raises :class:`SettingsError` with file, field, value, problem and fix.
    """
    found = {}
    for name, own in tables(text, source, "GPUQUEUE_TENANTS_FILE").items():
        where = f"{source}: {name}"
        if name not in classes:
            raise SettingsError(
                f"{where} is not a GPU class of this dispatcher; known: {', '.join(classes)}"
            )
        try:
            found[name] = _of_class(table(own, where, _FORM), where, classes[name])
        except WrongRule as exc:
            raise SettingsError(str(exc)) from None
    return found


def _of_class(own: Mapping[str, Any], where: str, gpu_class: GpuClass) -> ClassRules:
    check_keys(own, _KEYS, where)
    half_life = own.get("half_life")
    if half_life is not None:
        half_life = check_half_life(half_life, f"{where}.half_life")
    rules = {}
    for name, values in table(own.get("tenants", {}), f"{where}.tenants", _FORM).items():
        place = f"{where}.tenants.{name}"
        tenant = check_name(name, f"{where}.tenants")
        rules[tenant] = TenantRule.parse(table(values, place, _FORM), place)
    check_guarantees(rules, gpu_class.most_slots, f"{where}.tenants")
    return ClassRules(rules, half_life)
