"""A tenant's rule in a class, and its checks. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpuqueue.errors import shown

#: The name of a tenant, as the header `gpu` says it.
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
NAME_FIX = "use up to 63 letters, digits, '.', '_', '-', the first and the last a letter or digit"
#: In place of a name: jobs without a tenant; and all tenants that have no rule.
NONE, OTHERS = "-", "*"
#: What a tenant has used is divided by its weight: the result must be a number.
LEAST_WEIGHT, MOST_WEIGHT = 0.000_001, 1_000_000
MOST_JOBS = 1_000_000_000
#: Seconds: a half-life is 0, or in these bounds.
LEAST_HALF_LIFE, MOST_HALF_LIFE = 1, 31_536_000
#: Field → the fix that its error names.
FIELDS = {
    "weight": f"use a number from {LEAST_WEIGHT:f} to {MOST_WEIGHT}",
    "max_running": f"use a whole number from 0 to {MOST_JOBS}",
    "max_queued": f"use a whole number from 0 to {MOST_JOBS}",
    "guaranteed": f"use a whole number from 0 to {MOST_JOBS}",
}


class WrongRule(ValueError):
    """A rule, or the name of its tenant, is not possible: field, value, problem and fix."""


def _wrong(where: str, value: object, problem: str, fix: str) -> WrongRule:
    return WrongRule(f"{where}={shown(value, 80)} {problem}; {fix}")


@dataclass(frozen=True, slots=True)
class TenantRule:
    """What a tenant may have in a class. None: no limit."""

    weight: float = 1
    """Its part of the GPU time, in proportion to the weights of the others."""
    max_running: int | None = None
    """Jobs that run at once. 0: none starts."""
    max_queued: int | None = None
    """Jobs that wait, delayed ones included. 0: none is accepted."""
    guaranteed: int = 0
    """Slots that come to its jobs first as others end. While it needs fewer, others use them."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> TenantRule:
        """Check the fields of a rule. ``where`` is what their names follow in an error.

        Raises :class:`WrongRule`.
        """
        for key, value in values.items():
            field = f"{where}.{key}"
            if key not in FIELDS:
                raise _wrong(field, value, "is unknown", f"known fields: {', '.join(FIELDS)}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key == "weight":
                if not number or not LEAST_WEIGHT <= value <= MOST_WEIGHT:
                    raise _wrong(field, value, "is not a weight", FIELDS[key])
            elif not number or not isinstance(value, int) or not 0 <= value <= MOST_JOBS:
                raise _wrong(field, value, "is not a number of jobs", FIELDS[key])
        rule = cls(**values)
        if rule.max_running is not None and rule.guaranteed > rule.max_running:
            raise _wrong(
                f"{where}.guaranteed",
                rule.guaranteed,
                f"exceeds max_running={rule.max_running}",
                "lower it, or raise max_running",
            )
        return rule

    def fields(self) -> dict[str, Any]:
        """Return the fields that are set, as the scripts keep them."""
        kept = {key: getattr(self, key) for key in FIELDS}
        return {key: value for key, value in kept.items() if value is not None}


class ClassRules(NamedTuple):
    """What a file says of the tenants of a class. ``half_life`` in seconds; None: the default."""

    rules: Mapping[str, TenantRule]
    """By tenant; ``*``: all tenants without a rule."""
    half_life: float | None = None


def check_name(name: str, where: str = "tenant") -> str:
    """Return the name that the scripts know a tenant by: that of jobs without a tenant is empty.

    Raises :class:`WrongRule`.
    """
    if name == NONE:
        return ""
    if name != OTHERS and not NAME.fullmatch(name):
        raise _wrong(
            where,
            name,
            "cannot name a tenant",
            f"{NAME_FIX}; or {NONE!r} for jobs without a tenant, {OTHERS!r} for all without a rule",
        )
    return name


def shown_name(name: str) -> str:
    """Return the name that people see."""
    return name or NONE


def check_half_life(value: object, where: str) -> float:
    """Check a half-life in seconds. Raises :class:`WrongRule`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (value == 0 or LEAST_HALF_LIFE <= value <= MOST_HALF_LIFE):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise _wrong(
        where,
        value,
        "is not a half-life in seconds",
        f"use {LEAST_HALF_LIFE} to {MOST_HALF_LIFE}, or 0 to count running jobs only",
    )


def check_guarantees(rules: Mapping[str, TenantRule], slots: int | None, where: str) -> None:
    """Check that the guaranteed slots of a class exist, all together, and those of each tenant
    without a rule. ``slots``: of all its domains; None: not known. Raises :class:`WrongRule`.
    """
    if slots is None:
        return
    others = rules.get(OTHERS, TenantRule()).guaranteed
    total = sum(rule.guaranteed for name, rule in rules.items() if name != OTHERS)
    for place, number, sums in ((where, total, "in sum "), (f"{where}.{OTHERS}", others, "")):
        if number > slots:
            raise _wrong(
                f"{place}.guaranteed",
                number,
                f"is more {sums}than the {slots} slots of the class",
                "lower some, or configure more slots" if sums else "lower it",
            )
