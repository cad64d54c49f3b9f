"""The output: facts about the machine, one JSON file, one table."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Figure, Sample
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect

PACKAGES = ("gpuqueue", "celery", "kombu", "redis", "billiard", "msgspec", "psutil")


def machine() -> dict[str, Any]:
    """Return the facts that affect figures; none of them identifies the machine."""
    with EmbeddedRedis() as server:
        client = connect(server.url)
        info: Any = client.info("server")
        client.close()
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        # Valkey's redis_version is that of the Redis it is compatible with.
        "redis_server": f"valkey {info['valkey_version']}"
        if "valkey_version" in info
        else info["redis_version"],
        "packages": {name: version(name) for name in PACKAGES},
        "load_at_start": [round(each, 2) for each in os.getloadavg()],
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def write(path: Path, found: dict[str, Any]) -> None:
    """Write the results atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


def table(name: str, figures: list[Figure]) -> Table:
    """Return one benchmark as a table."""
    made = Table(title=name, title_justify="left", title_style="bold", expand=True)
    for heading in ("figure", "ours", "peer", "ours ÷ peer", "floor", "aim"):
        made.add_column(
            heading,
            justify="left",
            overflow="fold",
            ratio=3 if heading in ("figure", "peer", "ours") else 2,
        )
    for figure in figures:
        peers = "\n".join(_shown(peer, figure.unit) for peer in figure.peers)
        ratios = "\n".join("–" if each is None else f"{each:.3g}" for each in figure.ratios)
        verdict = (
            "" if figure.met is None else "  [green]met[/]" if figure.met else "  [red]missed[/]"
        )
        floor = _shown(figure.floor, figure.unit) if figure.floor else ""
        made.add_row(
            figure.name,
            _shown(figure.ours, figure.unit),
            peers,
            ratios,
            floor,
            figure.aim + verdict,
        )
    return made


def _shown(sample: Sample, unit: str) -> str:
    spread = (
        f" ({number(min(sample.values))}–{number(max(sample.values))})"
        if len(sample.values) > 1
        else ""
    )
    return f"{number(sample.middle)}{spread} {unit}  [dim]{sample.label}[/]"


def number(value: float) -> str:
    """Return a number with three significant digits and no exponent."""
    if value and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def show(
    console: Console,
    name: str,
    figures: list[Figure],
    seconds: float,
    tables: Callable[[list[Figure]], list[Table]] | None = None,
) -> None:
    """Print one benchmark when it is complete; ``tables`` makes its tables, if it has others."""
    title = f"{name} ({seconds:.0f} s)"
    if tables is None:
        console.print(table(title, figures))
        return
    console.print(title, style="bold")
    for each in tables(figures):
        console.print(each)
