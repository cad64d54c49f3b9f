"""The meaning of a process's exit status: an end reason and a text. Pure: no I/O, no clock.

An exit code alone does not tell a failure of the GPU from one of the program. The executor
classifies CUDA errors (gpuqueue/nvidia/failures.py).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpuqueue.model.place import HOLDS, TRIED_WHEN_HELD, PlaceKind
from gpuqueue.model.reasons import LOST, NEVER_AGAIN, TRY_AGAIN, EndReason

#: Exit codes of the executor (sysexits.h where one fits).
EXIT_OK = 0
EXIT_NO_FILES = 71
"""The task left its process no file descriptor to reach Redis with (EX_OSERR)."""
EXIT_NO_APPLICATION = 72
"""The application cannot be loaded (EX_OSFILE)."""
EXIT_NO_STATE = 75
"""Redis could not be reached, or failed a command (EX_TEMPFAIL)."""
EXIT_STALE = 76
"""The attempt did not belong to this process, or no longer."""
EXIT_DEVICE = 77
"""The GPU itself failed, not the job: see gpuqueue/nvidia/failures.py."""
EXIT_CONFIG = 78
"""A setting is wrong, or Redis refuses the user or cannot prove its identity (EX_CONFIG)."""
#: Codes with this meaning only if an executor of gpuqueue ran.
EXECUTORS_OWN = (
    *(EXIT_NO_FILES, EXIT_NO_APPLICATION, EXIT_NO_STATE),
    *(EXIT_STALE, EXIT_DEVICE, EXIT_CONFIG),
)
EXIT_TERMINATED = 128 + signal.SIGTERM
#: What an end blames that came before the job's own code.
START = "start"
#: What an end blames if a node has rejected a pod before it looked at the job.
REJECTION = "rejection"


@dataclass(frozen=True, slots=True)
class End:
    """The meaning of an observed end, for an executor that did not report.

    ``avoid`` names the node at fault; the next attempt avoids it. ``blames`` is the kind of the
    other place that may be at fault (see :class:`gpuqueue.model.place.PlaceKind`), or ``start``:
    the place where the executor was starting, if it got no further. ``evidence`` has fields for the
    record: exit_code, container_reason, node, pod, and scheduled, container_started and
    container_finished in Unix seconds.
    """

    reason: EndReason
    error: str
    avoid: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    blames: str = ""

    @property
    def tried(self) -> str:
        """When an attempt follows one with this end, in the scripts' words."""
        return TRIED_WHEN_HELD if self.blames in HOLDS else tried_again(self.reason)

    def context(self) -> dict[str, Any]:
        """Return it as the scripts need it: see release.lua."""
        return {
            "reason": self.reason,
            "error": self.error,
            "avoid": self.avoid,
            "blames": self.blames,
            "evidence": dict(self.evidence),
            "tried": self.tried,
            # With exit code 0 its work may be done, and Redis has lost its report.
            "lost": self.reason in LOST and self.evidence.get("exit_code") != EXIT_OK,
        }


def tried_again(reason: EndReason) -> str:
    """Return when an attempt follows one with this end, in the scripts' words."""
    return "always" if reason in TRY_AGAIN else "never" if reason in NEVER_AGAIN else "unstarted"


def explain(code: int | None) -> End:
    """Explain the exit status of an executor; see :func:`_explain`. A stop, or an end that was not
    observed, blames no place.
    """
    end = _explain(code)
    if code in (EXIT_DEVICE, EXIT_NO_APPLICATION):
        blames = PlaceKind.DEVICE if code == EXIT_DEVICE else PlaceKind.APPLICATION
        return replace(end, blames=blames)
    unknown = code in (None, EXIT_STALE, EXIT_TERMINATED, -signal.SIGTERM)
    return end if unknown else replace(end, blames=START)


def _explain(code: int | None) -> End:
    """Explain the exit status of an executor, in the form of ``subprocess`` (-N: killed by signal
    N). None: it was not observed.
    """
    if code is None:
        return End(
            EndReason.INFRA,
            "the executor is gone, and its exit status was not observed (machine or dispatcher"
            " restarted)",
        )
    if code == EXIT_NO_STATE:
        return End(
            EndReason.INFRA,
            "the executor could not reach Redis, or Redis failed a command of it (exit code 75);"
            " see its log",
        )
    if code == EXIT_NO_FILES:
        return End(
            EndReason.ERROR,
            "the executor could open no connection to report with, since the task has lowered"
            " RLIMIT_NOFILE or left too many files open (exit code 71)",
        )
    if code == EXIT_STALE:
        return End(
            EndReason.INFRA,
            "another process had claimed the attempt, it was no longer current, or Redis had lost"
            " its message (exit code 76)",
        )
    if code == EXIT_DEVICE:
        return End(EndReason.INFRA, "the GPU failed under the job (exit code 77)")
    if code == EXIT_NO_APPLICATION:
        return End(EndReason.INFRA, "the application cannot be loaded (exit code 72)")
    if code == EXIT_CONFIG:
        return End(
            EndReason.INFRA,
            "the executor's settings are wrong, or Redis refuses it (exit code 78); see the fix in"
            " its log",
        )
    if code < 0 or 128 < code <= 128 + signal.NSIG:
        number = -code if code < 0 else code - 128
        name = _signal_name(number)
        hints: dict[int, str] = {
            signal.SIGKILL: ": out of host memory, or killed by hand",
            signal.SIGSEGV: ": a crash in native code",
            signal.SIGABRT: ": aborted in native code (CUDA and C++ libraries abort on errors)",
            signal.SIGTERM: ": asked to stop",
        }
        hint = hints.get(number, "")
        return End(EndReason.ERROR, f"the executor was killed by signal {number} ({name}){hint}")
    if code == EXIT_OK:
        return End(
            EndReason.ERROR,
            "the executor ended with exit code 0 without a result: the task called os._exit or"
            " exec",
        )
    return End(EndReason.ERROR, f"the executor ended with exit code {code} without a result")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
