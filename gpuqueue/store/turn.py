"""A turn of the watcher: what is due in each class, and what it must handle there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.store.answers import Granted
from gpuqueue.store.keys import BUSY, class_key
from gpuqueue.store.line import Line
from gpuqueue.store.scripts import Scripts
from gpuqueue.store.upkeep import TICK_BATCH

#: How many of each kind of work one turn names.
SHOWN = 256


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn found in one class; see turn.lua. Each item of work has the time since when, in
    Unix seconds.
    """

    moved: int
    due: float
    """When the class needs its next turn; inf: nothing waits for a time."""
    has_work: bool
    """Whether it needs one in any case."""
    opened: bool
    """Whether its jobs may start."""
    granted: Granted
    stopping: list[tuple[Attempt, float]]
    finishing: list[tuple[str, float]]
    accepted: list[tuple[str, float]]
    problems: list[tuple[str, redis.ResponseError]]
    """The steps that failed in it."""

    @classmethod
    def parse(cls, gpu_class: str, answer: Sequence[Any]) -> Self:
        """Parse the answer of the script."""
        moved, due, has_work, opened, granted, *work, problems = answer
        stopping, finishing, accepted = (
            [(name, float(score)) for name, score in _pairs(each)] for each in work
        )
        return cls(
            moved,
            float(due or "inf"),
            bool(has_work),
            bool(opened),
            Granted(granted),
            [
                (attempt, since)
                for holder, since in stopping
                if (attempt := Attempt.parse(gpu_class, holder))
            ],
            finishing,
            accepted,
            [(step, redis.ResponseError(text)) for step, text in _pairs(problems)],
        )


class Turns:
    """Takes the turns."""

    def __init__(self, client: redis.Redis, line: Line) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._line = line

    def take(self, classes: Sequence[GpuClass]) -> list[Turn | Exception]:
        """Take a turn in several classes, in one round trip. A class that fails has its error in
        place of its turn.
        """
        calls = [
            (each.name, {**self._line.admission(each), "moves": TICK_BATCH, "shown": SHOWN})
            for each in classes
        ]
        answers = self._scripts.each("turn", calls)
        return [
            answer if isinstance(answer, Exception) else _parsed(each.name, answer)
            for each, answer in zip(classes, answers, strict=True)
        ]

    def with_work(self, names: Iterable[str]) -> list[str]:
        """Return the classes that have work in each turn. One command, unless one has."""
        asked = {name: [class_key(name, key) for key in BUSY] for name in names}
        if not asked or not self._client.exists(*(key for keys in asked.values() for key in keys)):
            return []
        pipe = self._client.pipeline(transaction=False)
        for keys in asked.values():
            pipe.exists(*keys)
        return [name for name, found in zip(asked, pipe.execute(), strict=True) if found]


def _parsed(gpu_class: str, answer: Sequence[Any]) -> Turn | Exception:
    try:
        return Turn.parse(gpu_class, answer)
    except Exception as exc:
        return exc


def _pairs(flat: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
