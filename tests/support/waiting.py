"""The one way in which tests wait: for a condition, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")
#: Seconds for anything that takes under a second on an idle machine. One with ten runnable
#: processes for each core has needed 20.
PATIENCE = 40.0
#: Seconds between two looks: little beside what is waited for, and little work on two cores.
PAUSE = 0.02


def until(
    condition: Callable[[], T | Literal[False] | None],
    seconds: float = PATIENCE,
    what: str = "the condition holds",
    logs: Callable[[], str] = str,
) -> T:
    """Wait until ``condition()`` is true and return its answer.

    Fails after ``seconds`` with ``what`` was expected and with ``logs()``.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{logs()}"
        time.sleep(PAUSE)
    return found
