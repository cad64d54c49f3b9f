"""``gpuqueue demo``: runs real training jobs on this machine, shows them live, checks promises."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

import gpuqueue
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.demo.promises import Evidence, Verdict, check
from gpuqueue.cli.demo.story import Story
from gpuqueue.cli.demo.view import View
from gpuqueue.cli.view.timeline import page
from gpuqueue.cli.view.timeline_entries import Entry
from gpuqueue.dev.signals import stoppable
from gpuqueue.dev.stack import Stack
from gpuqueue.errors import GpuQueueError
from gpuqueue.store.client import connect
from gpuqueue.store.reader import Reader

APP = "examples.digits.app"
CLASS = "t4"


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gpuqueue-demo"),
    show_default=True,
)
@click.option(
    "--slots", type=click.IntRange(2, 8), default=4, show_default=True, help="Shared slots."
)
def demo(output: Path, slots: int) -> int:
    """Train networks on handwritten digits as GPU jobs (on the CPU without a GPU), and check the
    promises of the queue.

    Writes timeline.html, results.json and the dispatcher's log to --output.

    Exit status: 0 if every promise held, else 1.
    """
    root, output, console = find_checkout(), output.absolute(), Console()
    output.mkdir(parents=True, exist_ok=True)
    log = output / "dispatcher.log"
    log.unlink(missing_ok=True)
    console.print(
        Text(
            f"starting Redis and a dispatcher with {slots} shared slots and 1 exclusive (log:"
            f" {_shown(log)})"
        ),
        soft_wrap=True,
    )
    extra = {
        # Settings of a real cluster do not apply to the demo; empty means unset.
        **dict.fromkeys(("GPUQUEUE_CLASSES_FILE", "GPU_RESOURCE_NAME", "MIG_TOTAL_SLOTS"), ""),
        "GPU_EXECUTION_MODE": "local",
        "T4_SHARED_SLOTS": str(slots),
        "T4_EXCLUSIVE_SLOTS": "1",
        # Low, so that a short demo shows the turn of the exclusive jobs.
        "GPUQUEUE_EXCLUSIVE_PATIENCE": "2",
        # One thread per job: jobs side by side share the cores.
        "OMP_NUM_THREADS": "1",
    }
    # Executors import the application from their working directory.
    with (
        contextlib.chdir(root),
        stoppable() as check_stop,
        Stack(APP, extra_env=extra, log_level="warning", log_file=log) as stack,
    ):
        check_stop()
        submit = _application(root, stack.env)
        reader = Reader(connect(stack.redis_url))
        story = Story(submit, reader, GpuClass(**reader.classes()[CLASS]), slots)
        try:
            with View(console, story.begin) as view:
                story.play(stack, view)
            evidence = story.evidence()
        finally:
            story.close()
    checks = check(evidence)
    _write(output, evidence, checks, story)
    return _tell(console, output, evidence, checks)


def find_checkout() -> Path:
    """Return the directory with ``examples``: beside the package, or above the working directory.

    Raises :class:`GpuQueueError` if there is none, as after a plain ``pip install``.
    """
    here = Path.cwd()
    for folder in (Path(gpuqueue.__file__).parent.parent, here, *here.parents):
        if (folder / "examples" / "digits" / "app.py").is_file():
            return folder.resolve()
    raise GpuQueueError(
        "the demo's application (examples/digits) is not installed; run `make demo` in a checkout"
        " of gpuqueue"
    )


def _application(root: Path, env: Mapping[str, str]) -> Any:
    """Import the module that submits the jobs, configured for this broker."""
    os.environ.update({name: env[name] for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")})
    sys.path.insert(0, str(root))
    try:
        return import_module("examples.digits.submit")
    except ModuleNotFoundError as exc:
        raise GpuQueueError(
            f"the demo needs {exc.name}, which is not installed; pip install 'gpuqueue[demo]'"
        ) from exc


def _outcome(label: str, seen: Evidence) -> str:
    answer = seen.answers.get(label)
    if isinstance(answer, Mapping):
        return f"accuracy {answer['accuracy']:.4f} on {answer['device']}"
    return f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else ""


def _write(output: Path, seen: Evidence, checks: list[Verdict], story: Story) -> None:
    now = story.begin + story.seconds
    entries = [
        Entry(label, record, " ".join(_outcome(label, seen).split()), now)
        for label, record in seen.records.items()
    ]
    where = f"{seen.slots} shared slots of one GPU class"
    subtitle = (
        f"{len(entries)} jobs on {where} in {seen.seconds:.0f} s; times from the queue's records"
    )
    (output / "timeline.html").write_text(
        page("gpuqueue demo", subtitle, entries), encoding="utf-8"
    )
    jobs = {
        label: {**record, "outcome": _outcome(label, seen)}
        for label, record in seen.records.items()
    }
    verdicts = [
        {"promise": each.promise, "held": each.held, "shown": each.shown} for each in checks
    ]
    best = seen.answers.get(seen.best)
    results = {
        "seconds": round(seen.seconds, 1),
        "best": best if isinstance(best, Mapping) else None,
        "checks": verdicts,
        "jobs": jobs,
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _tell(console: Console, output: Path, seen: Evidence, checks: list[Verdict]) -> int:
    best = seen.answers.get(seen.best)
    if isinstance(best, Mapping):
        told = (
            f"{best['hidden']} neurons at rate {best['rate']}: accuracy {best['accuracy']:.4f} on"
            f" {best['device']}"
        )
        console.print(Text(f"best network: {told}", style="bold"), soft_wrap=True)
    for each in checks:
        mark, style = ("✓", "green") if each.held else ("✗", "bold red")
        console.print(
            Text.assemble((f"{mark} ", style), each.promise, (f"  ({each.shown})", "dim")),
            soft_wrap=True,
        )
    for name in ("timeline.html", "results.json"):
        console.print(Text(f"wrote {_shown(output / name)}"), soft_wrap=True)
    return 0 if all(each.held for each in checks) else 1


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
