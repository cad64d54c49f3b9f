"""Resource quantities: ``500m``, ``2Gi``, ``8``."""

from __future__ import annotations

import re
from decimal import Decimal

_SHAPE = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkKMGTPE]i?))?$")
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def parse(text: object) -> Decimal:
    """Return the number that a quantity stands for.

    Raises:
        ValueError: the text is no quantity.
    """
    found = _SHAPE.match(str(text))
    if found is None:
        raise ValueError(
            "quantities must match the regular expression"
            " '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    number, exponent, suffix = found.groups()
    if exponent:
        return Decimal(number + exponent)
    if not suffix:
        return Decimal(number)
    if suffix not in _SUFFIXES:
        raise ValueError("unable to parse quantity's suffix")
    return Decimal(number) * _SUFFIXES[suffix]


def canonical(text: object) -> str:
    """Return a quantity as the server stores it: ``0.5`` becomes ``500m``, ``2Gi`` stays."""
    number = parse(text)
    if str(text).endswith("i"):
        return str(text)
    if number != number.to_integral_value():
        return f"{(number * 1000).to_integral_value(rounding='ROUND_CEILING')}m"
    if str(text)[-1].isalpha() and str(text)[-1] != "m":
        return str(text)
    return str(int(number))
