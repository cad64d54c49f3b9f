"""What a fault is."""

from __future__ import annotations

import random
from typing import ClassVar

from tests.chaos.plan import Planned
from tests.chaos.stage import Stage
from tests.support.launching import KUBERNETES, LOCAL


class Fault:
    """``begin`` and ``end`` are called once each; a fault of a moment has no ``end``."""

    name: ClassVar[str]
    launchers: ClassVar[tuple[str, ...]] = (LOCAL, KUBERNETES)
    #: What it acts on: two faults at once act on different things.
    on: ClassVar[str] = "Redis"
    #: The docs promise less: the state loses what was written last.
    loses_state: ClassVar[bool] = False
    #: The docs allow another attempt at any job: its place is lost, not the job's process alone.
    moves_jobs: ClassVar[bool] = False

    @property
    def loses_answers(self) -> bool:
        """Whether a sender may not learn that Redis has its message: kombu sends it once more."""
        return self.on in ("Redis", "network")

    def __init__(self, stage: Stage, planned: Planned) -> None:
        self.stage, self.planned = stage, planned
        self.random = random.Random(planned.draw)

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Nothing, for a fault of a moment."""

    def repeats(self, envelopes: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Messages that are sent once more when the fault begins."""
        return []
