"""What ``gpuqueue why`` says of GPU memory: beside what its task has used, and of larger places."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from gpuqueue.cli.commands.why import show
from gpuqueue.cli.view.state import job
from gpuqueue.model.record import Record

GIB = 2**30
RECORD: Record = {
    "id": "a",
    "delivery": "a",
    "task": "shop.train",
    "gpu_class": "t4",
    "isolation": "exclusive",
    "state": "ended",
    "memory": 10 * GIB,
}


def shown(record: Record) -> str:
    out = io.StringIO()
    found: dict[str, Any] = {**job(record), "error": None, "reason": None, "cancel_asked": False}
    show(Console(file=out, width=200), found | {"explanation": "", "dispatchers": ["d"]}, 0.0)
    return out.getvalue()


def test_a_job_that_asks_for_far_more_shows_what_its_task_has_used() -> None:
    text = shown({**RECORD, "memory_used": 3 * GIB, "memory_runs": 50})
    assert (
        "memory: its task asks for 10.0GiB of GPU memory and used at most 3.0GiB in 50 runs"
        in text.splitlines()
    )
    assert "memory:" not in shown(RECORD)


def test_the_places_of_a_job_out_of_memory_are_shown() -> None:
    text = shown({**RECORD, "escalated": "t4 shared"})
    assert "ran out of GPU memory in: t4 shared" in text.splitlines()
    text = shown({**RECORD, "larger": "a100 exclusive"})
    assert "if its GPU memory is too small, next in: a100 exclusive" in text.splitlines()
