"""``gpuqueue why ID``: why a job waits, or how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import click
from rich.console import Console

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.view import render
from gpuqueue.cli.view.own_state import own_states, shown
from gpuqueue.cli.view.start import start_range
from gpuqueue.cli.view.state import MOMENTS, State, gpu_class, job, open_state, place_view, since
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER, NO_DISPATCHER_NOW, STATES, sentence
from gpuqueue.explain import forecast, reason_of
from gpuqueue.forecast.what_if import parse
from gpuqueue.model.names import ISOLATIONS, REFUSED
from gpuqueue.model.place import HOLDS
from gpuqueue.model.reasons import SILENT, WaitReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, JobState
from gpuqueue.model.task_memory import asked_and_used
from gpuqueue.store import places as stored

NO_CHANGES: Mapping[str, int] = MappingProxyType({})
_SET_ASIDE = {
    WaitReason.DEVICE_SET_ASIDE,
    WaitReason.HOST_SET_ASIDE,
    WaitReason.APPLICATION_HELD,
    WaitReason.NODE_SET_ASIDE,
} | {hold.wait for hold in HOLDS.values()}
_FACTS = {
    "finish_error": "last try to finish it",
    "gpus": "GPUs",
    "all_devices": "indexes of its GPUs",
    "image": "image",
    "pod": "pod",
    "node": "node",
    "avoid": "avoids",
    "exit_code": "exit code",
    "spared": "attempts not counted",
    "disruptions": "disruptions",
    "away": "kept away from",
    "requeues": "delivered again",
    "losses": "lost processes",
    "probes": "tries",
}
_FACTS |= {"container_reason": "container", "gpu": "GPU", "gpu_memory_peak": "peak GPU memory"}
_FACTS |= {"warm_turn": "turn in its pod or process", "warm_of": "first attempt there"}
_FACTS |= {"larger": "if its GPU memory is too small, next in"}
_FACTS |= {"escalated": "ran out of GPU memory in"}
_FACTS |= {"gpu_memory_own": "of that by this job", "gpu_error": "GPU failure"}


@click.command()
@click.argument("job_id", metavar="ID")
@click.option(
    "--most",
    default=10,
    show_default=True,
    type=click.IntRange(0, 10_000),
    help="The most jobs ahead to name.",
)
@click.option(
    "--if",
    "what_if",
    multiple=True,
    metavar="FIELD=NUMBER",
    help="Also forecast the start with another `slots`, `shared_slots`, `exclusive_slots` (of each"
    " domain) or `priority`.",
)
@render.json_option
def why(job_id: str, most: int, what_if: tuple[str, ...], as_json: bool) -> int:
    """Explain why a job waits, with a range for its start, the jobs ahead and the running jobs; or
    how it ended. ID: the Celery task id.
    """
    changes = parse(what_if)
    state = open_state()
    record = find(state, job_id)
    if record is None:
        text = _unknown(state, job_id)
        if as_json:
            render.emit({"id": job_id, "state": "unknown", "error": text})
        click.echo(f"gpuqueue: {text}", err=True)
        return 1
    found = collect(state, record, most, changes)
    if as_json:
        render.emit(found)
    else:
        show(render.console(), found, state.now())
    return 0


def find(state: State, job_id: str) -> Record | None:
    """Find a job in all classes and among the refused jobs."""
    return state.reader.find(job_id, [*state.reader.classes(), REFUSED])


def collect(
    state: State, record: Record, most: int, changes: Mapping[str, int] = NO_CHANGES
) -> dict[str, Any]:
    """Return the state of a job and its reasons; times are Unix seconds, those of its start seconds
    from now.
    """
    name, spec = record["gpu_class"], state.reader.classes().get(record["gpu_class"])
    told = (
        state.reader.why(gpu_class(spec), record["delivery"], most)
        if spec and record["state"] != "ended"
        else None
    )
    if told:
        record = told.record
    found: dict[str, Any] = {
        **job(record),
        "error": record.get("error"),
        "reason": reason_of(state.client, record, told),
    }
    found["explanation"] = sentence(found["reason"] or "")
    if found["reason"] in _SET_ASIDE:
        known = stored.set_aside(stored.of(state.client, name))
        found["places"] = [place_view(each) for each in known]
        if not found["places"]:  # one attempt alone waits, in its slot
            del found["places"]
    if record["state"] == JobState.RUNNING:
        found |= own_states(state, [record["id"]]).get(record["id"], {})
    found["cancel_asked"] = "cancel" in record
    found["dispatchers"] = state.dispatchers()
    if told and spec and record["state"] in BEFORE_SLOT:
        ahead = state.reader.records(name, told.ahead)
        view = state.reader.view(name, spec, 1)
        found |= {
            "place": told.place or None,
            "ahead_total": max(0, told.place - 1),
            "ahead": [job(each) for each in ahead],
            "holders": [
                {**job(each), "since": since(each)}
                for kind in ISOLATIONS
                for each in view.holders[kind]
            ],
        }
        if record["state"] in (JobState.WAITING, JobState.DELAYED):
            found |= _forecast(state, gpu_class(spec), record, found["reason"], changes)
        found["silent"] = [each for each in found["holders"] if each.get("wait") in SILENT]
    return found


def _forecast(
    state: State,
    known: GpuClass,
    record: Record,
    reason: str | None,
    changes: Mapping[str, int],
) -> dict[str, Any]:
    start, other = forecast(state.client, known, record, reason, changes)
    found: dict[str, Any] = {"start": asdict(start)}
    if other:
        found["if"] = {**changes, "start": asdict(other)}
    return found


def _unknown(state: State, job_id: str) -> str:
    classes = state.reader.classes()
    if not classes:
        return f"no job {job_id!r} is known; {NO_DISPATCHER_EVER}"
    waiting = state.unaccepted(classes)
    if waiting:
        queues = ", ".join(f"{total} in {queue}" for queue, total in waiting.items())
        return f"no job {job_id!r} is known; messages that no dispatcher has taken yet: {queues}"
    return (
        f"no job {job_id!r} is known: its record has expired, or it was not sent to a queue of the"
        f" classes {', '.join(classes)}; a later task of a chain is sent when the one before ends"
    )


def show(out: Console, found: dict[str, Any], now: float) -> None:
    """Print the answer for people."""
    name = found.get("name") or found.get("task") or ""
    where = f"{found['gpu_class']} {found['isolation']}"
    out.print(f"[bold]{_name(found['id'])}[/]  {_name(name)}  {_name(where)}")
    out.print(
        f"state: {STATES.get(found['state'], found['state'])}"
        + (" (stop requested)" if found["cancel_asked"] else "")
    )
    if found["reason"]:
        out.print(
            f"reason: [bold]{found['reason']}[/]"
            + (f": {found['explanation']}" if found["explanation"] else "")
        )
    if found.get("task_state"):
        out.print(f"the task says: {render.safe(shown(found))}")
    if found.get("detail"):
        out.print(f"detail: {render.safe(found['detail'])}")
    for each in found.get("places", ()):
        words = f"{each['place']}: {render.next_try(each, now)}: {each['error']}"
        out.print(f"place: {render.safe(words)}")
    for each in found.get("silent", ()):
        words = f"{each['id']} holds a slot on node {each.get('node', 'unknown')}: {each['wait']}"
        out.print(f"silent: {render.safe(': '.join(filter(None, (words, each.get('detail')))))}")
    if nodes := sorted({each["node"] for each in found.get("silent", ()) if each.get("node")}):
        fix = " or ".join(f"`gpuqueue confirm-gone {node}`" for node in nodes)
        out.print(render.safe(f"  if that machine is off, {fix} frees its slots"))
    if found["error"]:
        out.print(f"error: {render.safe(found['error'])}")
    if found["state"] in BEFORE_SLOT and not found["dispatchers"]:
        out.print(f"[bold red]{NO_DISPATCHER_NOW}[/]")
    if found.get("place"):
        out.print(f"place: {found['place']} among the {found['isolation']} jobs of its class")
    if found.get("start"):
        out.print(render.safe(f"start: {start_range(found['start'], now)}"))
    if found.get("if"):
        changes = {key: value for key, value in found["if"].items() if key != "start"}
        words = ", ".join(f"{key}={value}" for key, value in changes.items())
        out.print(render.safe(f"start if {words}: {start_range(found['if']['start'], now)}"))
    if found.get("memory_used"):
        figures = (found["memory"], found["memory_used"], found["memory_runs"])
        out.print(f"memory: its task {asked_and_used(*figures)}")
    if found.get("attempt"):
        out.print(
            f"attempt: {found['attempt']}"
            + (f" on {render.safe(found['worker'])}" if found.get("worker") else "")
        )
    for key, name in _FACTS.items():
        if found.get(key) not in (None, ""):
            out.print(f"{name}: {render.safe(_fact(key, found[key]))}")
    for key in MOMENTS:
        if found.get(key):
            when = render.ago(found[key], now)
            out.print(f"{key}: {when if when.startswith('in ') else f'{when} ago'}")
    _list(out, "ahead in line (nearest last):", found.get("ahead"), now)
    _list(out, "running:", found.get("holders"), now)


def _name(text: str) -> str:
    return render.safe(render.plain(text))


def _fact(key: str, value: Any) -> str:
    if key.startswith("gpu_memory"):
        return render.memory(value)
    return ", ".join(value) if isinstance(value, list) else str(value)


def _list(out: Console, title: str, jobs: list[dict[str, Any]] | None, now: float) -> None:
    if not jobs:
        return
    out.print(title)
    for each in jobs:
        times = f"since {render.ago(each['since'], now)}" if each.get("since") else ""
        out.print(
            f"  {_name(each['id'])}  {_name(each.get('name') or '')}  {each['isolation']} "
            f" {times}".rstrip()
        )
