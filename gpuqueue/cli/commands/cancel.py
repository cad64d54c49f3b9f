"""``gpuqueue cancel ID...``: cancel waiting or running jobs, durably."""

from __future__ import annotations

import time
from typing import Any

import click

from gpuqueue.cli.commands.why import find
from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, open_state
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.reasons import SILENT
from gpuqueue.store import wakeups
from gpuqueue.store.cancels import REVOKED_FOR
from gpuqueue.store.line import Line

#: Exit statuses.
ALREADY_ENDED, STILL_THERE = 1, 3

_WORDS = {
    "cancelled": "left the line; its result will be REVOKED",
    "stopping": "is stopping; its result will be REVOKED",
    "finishing": "is ending already",
    "ended": "had already ended",
    "unknown": (
        f"is not known here yet; if it arrives within {REVOKED_FOR / 3600:.0f} hours, it will be"
        " REVOKED"
    ),
}


@click.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Wait at most this many seconds until they have ended.",
)
@render.json_option
def cancel(job_ids: tuple[str, ...], wait_seconds: float, as_json: bool) -> int:
    """Cancel jobs by their Celery task ids, waiting or running.

    Exit status: 0; 1 if one had already ended; 3 if one has not ended within --wait.
    """
    state = open_state()
    if not state.reader.classes():
        raise GpuQueueError(f"cannot cancel: {NO_DISPATCHER_EVER}")
    outcomes = [cancel_one(state, job_id) for job_id in job_ids]
    if any(each["outcome"] in ("cancelled", "stopping") for each in outcomes):
        for name in state.reader.classes():
            wakeups.wake(state.client, name)
    alive = bool(state.dispatchers())
    if wait_seconds:
        _wait(state, outcomes, wait_seconds)
    if as_json:
        render.emit({"jobs": outcomes, "dispatcher_alive": alive})
    else:
        for each in outcomes:
            click.echo(say(each))
        if not alive and any(
            each["outcome"] in ("cancelled", "stopping", "finishing") for each in outcomes
        ):
            click.echo(
                "no dispatcher is alive; the request is kept, and the next one writes REVOKED"
            )
    if any(each["outcome"] == "ended" for each in outcomes):
        return ALREADY_ENDED
    return STILL_THERE if any(each.get("ended") is False for each in outcomes) else 0


def cancel_one(state: State, job_id: str) -> dict[str, Any]:
    """Cancel one job in whichever class it is. May be repeated."""
    line = Line(state.client, by="cli")
    outcome = line.cancel_everywhere(state.reader.classes(), job_id)
    record = find(state, job_id)
    if record and outcome == "unknown" and record.get("reason") != "RETRIED":
        outcome = (
            "ended" if record["state"] == "ended" else "finishing"
        )  # it was refused: no class has it
    return {"id": job_id, "outcome": outcome, "reason": record.get("reason") if record else None}


def _wait(state: State, outcomes: list[dict[str, Any]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    pending = [
        each for each in outcomes if each["outcome"] in ("cancelled", "stopping", "finishing")
    ]
    for each in pending:
        each["ended"] = False
    while True:
        for each in pending:
            record = find(state, each["id"])
            silent = record if record and record.get("wait") in SILENT else {}
            each["wait"], each["detail"] = silent.get("wait"), silent.get("detail")
            # Its process is gone, and its slot free, once the attempt has been released too.
            if record is None or (
                record["state"] == "ended" and ("admitted" not in record or "released" in record)
            ):
                each["ended"] = True
                each["reason"] = record.get("reason") if record else None
        pending = [each for each in pending if not each["ended"]]
        if not pending or time.monotonic() > deadline:
            return
        time.sleep(0.1)


def say(each: dict[str, Any]) -> str:
    """Return the outcome of a cancellation in one sentence."""
    words = _WORDS[each["outcome"]]
    if each["outcome"] == "ended" and each["reason"]:
        words += f": {each['reason']}"
    if each.get("ended") is True:
        words = f"has ended: {each['reason']}" if each["reason"] else "has ended"
    elif each.get("ended") is False:
        stands = ": ".join(filter(None, (each.get("wait"), each.get("detail"))))
        words += f" ({stands or 'not ended yet'})"
    return f"{each['id']} {words}"
