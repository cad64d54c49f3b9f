"""The page of reasons, from their sentences and from the errors that they become."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import gpuqueue
from docs.generate.markdown import code, codes, page, sentence, table
from docs.generate.source import prose
from gpuqueue.cli.view.words import ENDS, WAITS
from gpuqueue.glue.results.completion import exception_of
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.reasons import NEVER_AGAIN, TRY_AGAIN, EndReason, WaitReason
from gpuqueue.model.record import Record

_PACKAGE = Path(gpuqueue.__file__).parent
#: Code that runs only with Kubernetes.
_KUBERNETES = ("launchers/kubernetes/*", "model/place.py")
#: Code that names reasons and gives none to a job.
_ABOUT_REASONS = (
    "model/reasons.py",
    "cli/*",
    "glue/results/completion.py",
    "launchers/base.py",
)
#: Ends without an error → the state in the result backend.
_STATES = {
    EndReason.SUCCEEDED: "`SUCCESS`",
    EndReason.RETRIED: "`RETRY`",
    EndReason.IGNORED: "none",
    EndReason.REQUEUED: "none",
    EndReason.ESCALATED: "`RETRY`",
    EndReason.CANCELLED: "`REVOKED`",
    EndReason.EXPIRED: "`REVOKED`",
}
_TAKEN: Record = {"id": "x", "attempt": 3, "started": 1.0, "time_limit": 1.0}
_NOT_TAKEN: Record = {"id": "x", "attempt": 3}
#: Reason → the records that a job may have when it ends so, where they differ from `_TAKEN`.
_RECORDS: dict[EndReason, list[Record]] = {
    EndReason.ERROR: [_TAKEN, {**_TAKEN, "task": CONTAINER_TASK}],
    EndReason.INFRA: [_NOT_TAKEN, {**_NOT_TAKEN, "timed_out": "start"}, _TAKEN],
    EndReason.BAD_SPEC: [_NOT_TAKEN],
    EndReason.REJECTED: [
        {"id": "x", "error_type": name}
        for name in ("InvalidJob", "MalformedMessage", "UntrustedMessage")
    ],
}
#: Ends that only a started task can have.
_OF_STARTED = {EndReason.GPU_OOM, EndReason.TIME_LIMIT}
#: Ends whose error may be the exception that the task raised.
_OF_THE_TASK = {EndReason.ERROR: "the task's exception", EndReason.GPU_OOM: "the task's exception"}


def make() -> str:
    """Make the page."""
    return page(
        "Reasons",
        "`gpuqueue why ID` shows the reason why a job waits or ended.\n"
        "`gpuqueue status` shows it for waiting jobs.\n"
        "Logs, metrics and errors use the same words.\n"
        'The column "where" names the modes that can give the reason: both, or `k8s_job` alone.\n'
        '"Not yet" marks a reason that no code gives today.',
        "## Why a job waits\n\n" + table(("reason", "meaning", "where"), _waits()),
        "## Why a job ended\n\n"
        + table(("reason", "meaning", "result", "new attempt", "where"), _ends()),
        "A new attempt starts after a pause of 1, 2, 4, … 60 seconds, up to"
        " `GPUQUEUE_MAX_ATTEMPTS`.\n"
        "After attempts that never took the job, the pause grows to 300 seconds.\n"
        "`EVICTED`, `PREEMPTED` and `NODE_LOST` do not count as attempts, up to"
        " `GPUQUEUE_MAX_DISRUPTIONS`.\n"
        '"If not started" means: only if the executor had not taken the job.\n'
        "An attempt that ended as `REQUEUED` does not count, and its pauses count by themselves.\n"
        "Nor does one that ended as `ESCALATED`, after which there is no pause.\n"
        "A retry of your task is no attempt but a new delivery: Celery counts it.\n"
        "In local mode, a job that the kernel kills for its memory ends as `ERROR`.\n"
        "[Errors](errors.md) describes the exceptions that `AsyncResult.get()` raises.",
    )


def _waits() -> Iterable[tuple[str, ...]]:
    for reason in WaitReason:
        yield code(reason), sentence(prose(WAITS[reason])), where(reason)


def _ends() -> Iterable[tuple[str, ...]]:
    for reason in EndReason:
        yield (
            code(reason),
            sentence(prose(ENDS[reason])),
            result(reason),
            _again(reason),
            where(reason),
        )


def errors_of(reason: EndReason) -> list[str]:
    """Return the names of the errors that a job with this end may have, beside the task's."""
    if reason in _STATES or reason == EndReason.GPU_OOM:
        return []
    found = [
        type(exception_of({**record, "reason": reason})).__name__
        for record in _RECORDS.get(reason, [_TAKEN])
    ]
    return list(dict.fromkeys(found))


def result(reason: EndReason) -> str:
    """Return what the result backend has for this end."""
    if reason in _STATES:
        return _STATES[reason]
    own = [_OF_THE_TASK[reason]] if reason in _OF_THE_TASK else []
    return f"`FAILURE`: {', '.join([*own, *filter(None, [codes(errors_of(reason))])])}"


def _again(reason: EndReason) -> str:
    if reason in {*TRY_AGAIN, EndReason.REQUEUED, EndReason.ESCALATED}:
        return "yes"
    return "no" if reason in {*NEVER_AGAIN, *_STATES, *_OF_STARTED} else "if not started"


def where(reason: StrEnum) -> str:
    """Return the modes whose code gives this reason."""
    given = re.compile(rf"'{reason}'|{type(reason).__name__}\.{reason.name}\b")
    if any(given.search(text) for text in _code(kubernetes=False)):
        return "both"
    return "`k8s_job`" if any(given.search(text) for text in _code(kubernetes=True)) else "not yet"


@cache
def _code(*, kubernetes: bool) -> tuple[str, ...]:
    """Read the code that gives reasons: of the Kubernetes launcher, or all other."""
    found = []
    for path in [*_PACKAGE.rglob("*.py"), *_PACKAGE.rglob("*.lua")]:
        name = path.relative_to(_PACKAGE).as_posix()
        if any(fnmatch(name, pattern) for pattern in _ABOUT_REASONS):
            continue
        if any(fnmatch(name, pattern) for pattern in _KUBERNETES) == kubernetes:
            found.append(path.read_text())
    return tuple(found)
