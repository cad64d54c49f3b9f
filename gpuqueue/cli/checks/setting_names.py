"""The doctor's check of the names of settings: what no process reads looks as if it were set."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.model.executor_env import OF_ATTEMPT
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.settings.redis import names

#: How much of a name must be that of a setting: 0 to 1. 0.8: one slip in a word, or a plural.
ALIKE = 0.8


def misspelt(environ: Mapping[str, str]) -> Iterator[Check]:
    """Warn of each variable whose name is almost that of a setting."""
    known = names(Settings) | names(ClusterSettings)
    for name in sorted(environ.keys() - known - OF_ATTEMPT):
        prefix, _, rest = name.partition("_")
        rests = [each.removeprefix(f"{prefix}_") for each in known if each.startswith(f"{prefix}_")]
        for meant in difflib.get_close_matches(rest, rests, n=1, cutoff=ALIKE):
            yield Check(
                "settings",
                Level.WARN,
                f"{name} is not the name of a setting: nothing reads it",
                f"rename it to {prefix}_{meant}, or unset it",
            )
