"""Runs the schedules of one launcher, several on each stage."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from tests.chaos.checker import Verdict
from tests.chaos.faults import kinds
from tests.chaos.plan import Schedule, plan
from tests.chaos.play import Played, Player
from tests.chaos.report import LOSING, row_of
from tests.chaos.stage import Stage

#: Schedules of one stage, before its processes are replaced by new ones.
ROUND = 25


@dataclass
class Outcome:
    """What a schedule came to, as it travels between processes."""

    row: dict[str, Any]
    kind: str
    seed: int
    seconds: float
    problems: list[str]
    why: str

    def line(self) -> str:
        found = "; ".join(self.problems) or "ok"
        return f"{self.kind} seed {self.seed} {self.seconds:5.1f} s {self.row['fault']}: {found}"


def run(
    kind: str, seeds: list[int], until: float, directory: Path, results: Queue[Any], only: str
) -> None:
    """Run the schedules of one launcher; put each into the queue, and None at the end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stage, used = None, 0
    try:
        for number, seed in enumerate(seeds):
            parent = multiprocessing.parent_process()
            if time.monotonic() > until or (parent is not None and not parent.is_alive()):
                break
            if stage is None:
                stage, used = Stage(directory / f"{kind}{number}", kind), 0
                stage.wait_until_ready()
            chosen = {name: on for name, on in kinds(kind).items() if only in name}
            played, why = one(stage, plan(seed, kind, chosen), number), ""
            used += 1
            problems = played.verdict.problems
            lossy = row_of(played)["fault"] in LOSING
            if problems:
                why = "\n".join([*played.trace, stage.logs()])
            results.put(Outcome(row_of(played), kind, seed, played.seconds, problems, why))
            if problems or lossy or used == ROUND:
                stage.close()
                shutil.rmtree(stage.directory, ignore_errors=True)
                stage = None
    finally:
        if stage is not None:
            stage.close()
        results.put(None)


def one(stage: Stage, schedule: Schedule, number: int) -> Played:
    """Play one schedule; an error of the harness is a problem, too."""
    player = Player(stage, schedule, number)
    try:
        return player.play()
    except Exception:
        verdict = Verdict(died=[f"the harness: {traceback.format_exc()}"])
        return Played(schedule, verdict, 0.0, schedule.lines())
