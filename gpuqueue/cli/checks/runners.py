"""The doctor's check of the runners of this machine: how they start executors."""

from __future__ import annotations

from collections.abc import Iterator

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.local import runtime
from gpuqueue.launchers.local.greeting import greeting
from gpuqueue.settings.dispatcher import Settings

NAME = "executors"


def executors(settings: Settings, app: str | None) -> Iterator[Check]:
    """Check how the executors of an application start on this machine: ask its runners."""
    if settings.execution_mode != "local" or not app:
        return
    if settings.start == "spawn":
        yield Check(NAME, Level.OK, "GPUQUEUE_START=spawn: each one imports the application")
        return
    try:
        found = runtime.all_of(settings.runtime_dir or runtime.base())
    except SettingsError as exc:
        yield Check.failed(NAME, exc)
        return
    said = [each for each in map(greeting, found) if each and each.get("app") == app]
    if not said:
        yield Check(
            NAME,
            Level.OK,
            f"not known before a runner of {app!r} runs here; the first dispatcher starts it",
        )
        return
    unsafe = sorted({str(each["unsafe"]) for each in said if each["unsafe"]})
    # No runner of an older version says it.
    problems = sorted({str(each["problem"]) for each in said if each.get("problem")})
    for each in problems:
        problem, _, fix = each.rpartition("; ")
        yield Check(NAME, Level.WARN, problem, f"{fix}; the next job imports it again")
    if not (unsafe or problems):
        pids = ", ".join(str(each["pid"]) for each in said)
        yield Check(NAME, Level.OK, f"forked from the imported application (runner: pid {pids})")
    for each in unsafe:
        yield Check(
            NAME,
            Level.WARN,
            f"started, not forked, and each one imports the application: {each}",
            "open GPUs and start threads in worker_process_init or in the task, or set"
            " GPUQUEUE_START=spawn",
        )
