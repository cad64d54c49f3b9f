"""The steps at which processes die: those of the crash tests, and those of a finisher."""

from __future__ import annotations

from tests.crash.test_steps import DISPATCH, EXECUTOR, FINISH, LAUNCHERS, WATCH

OF_DISPATCHERS = {**DISPATCH, **WATCH, **FINISH}
OF_EXECUTORS = {name: step for name, (step, _) in EXECUTOR.items()}
#: The process that finishes a job in the application's code.
OF_FINISHERS = {
    "27 before it claims the finish": "gpuqueue.store.finishes:ExecutorFinish.claim:before",
    "28 finish claimed": "gpuqueue.store.finishes:ExecutorFinish.claim:after",
    "29 all written": "gpuqueue.store.finishes:ExecutorFinish.finished:before",
    "30 finish confirmed": "gpuqueue.store.finishes:ExecutorFinish.finished:after",
}
STEPS = {**OF_DISPATCHERS, **OF_EXECUTORS, **OF_FINISHERS}
#: Steps before which no code of a task can have run.
UNSTARTED = ("17 before it claims", "18 claimed", "19 application loaded")
#: The step at which an executor leaves its job to a finisher.
UNFINISHED = "21 finish claimed, nothing written"


def resolved(kind: str) -> dict[str, str]:
    """Return the steps of a launcher."""
    return {name: step.replace("LAUNCHER", LAUNCHERS[kind]) for name, step in STEPS.items()}
