"""The files of ``docs/reference``: name → function that makes the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.generate import classes, commands, diagram, errors, metrics, reasons, settings, states

FOLDER = Path(__file__).parent.parent / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings.make,
    "kubernetes-settings.md": settings.make_kubernetes,
    "classes-file.md": classes.make,
    "states.md": states.make,
    "states.svg": diagram.make,
    "reasons.md": reasons.make,
    "errors.md": errors.make,
    "metrics.md": metrics.make,
    "cli.md": commands.make,
}
