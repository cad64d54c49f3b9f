"""What the files of classes and of tenants have in common: tables with known keys. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from gpuqueue.errors import SettingsError, shown


def tables(text: str, source: str, setting: str) -> dict[str, Any]:
    """Parse TOML text; ``source`` is the path of the file that ``setting`` names."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # also a number of thousands of digits
        raise SettingsError(f"{setting}={source!r} is not TOML: {exc}") from None


def table(value: object, where: str, form: str) -> Mapping[str, Any]:
    """Return a value that must be a table; ``form``: how one is written."""
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}={shown(value, 80)} is not a table; use {form}")
    return value


def check_keys(found: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise :class:`SettingsError` for a key that is not known."""
    for key in sorted(found.keys() - set(known)):
        raise SettingsError(
            f"{where}.{key}={shown(found[key], 80)} is unknown; known: {', '.join(sorted(known))}"
        )
