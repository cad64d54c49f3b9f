"""An attempt that a runner has, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuqueue.launchers.local.identity import Instance


@dataclass(slots=True)
class Running:
    """One attempt that runs. ``ours``: this runner started it, and can read how it ends. ``pidfd``
    is negative on a system that has none.
    """

    instance: Instance
    pidfd: int
    ours: bool
    variables: Mapping[str, str]
    cgroup: Path | None
    reaped: bool = False
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended: ``code`` as :mod:`subprocess` has it, None if it is unknown.
    ``variables`` describe the attempt.
    """

    nonce: str
    instance: str
    code: int | None
    variables: Mapping[str, str]

    def described(self) -> dict[str, Any]:
        """Return what a file and a dispatcher keep of it, beside its nonce."""
        return {"instance": self.instance, "code": self.code, "variables": self.variables}
