"""The files of ``docs/reference``: name → function that makes the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.generate import (
    chart,
    classes,
    commands,
    diagram,
    errors,
    metrics,
    reasons,
    reliability,
    replay,
    scale,
    settings,
    states,
)

FOLDER = Path(__file__).parent.parent / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings.make,
    "class-settings.md": settings.make_classes,
    "kubernetes-settings.md": settings.make_kubernetes,
    "chart-values.md": chart.make,
    "chart-dispatchers.md": chart.make_dispatchers,
    "chart-operations.md": chart.make_operations,
    "classes-file.md": classes.make,
    "states.md": states.make,
    "states.svg": diagram.make,
    "reasons.md": reasons.make,
    "errors.md": errors.make,
    "metrics.md": metrics.make,
    "cli.md": commands.make,
    "cli-mend.md": commands.make_mending,
    "replay.md": replay.make,
    "reliability.md": reliability.make,
    "reliability.svg": reliability.draw,
    "scale.md": scale.make,
}
