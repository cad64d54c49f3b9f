"""A difference must persist, by a clock that no server sets."""

from __future__ import annotations

import time

from gpuqueue.dispatcher.suspects import Suspects


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_difference_counts_after_it_has_persisted() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    answers = []
    for seconds in (0.0, 1.0, 0.9, 0.2):
        clock.now += seconds
        suspects.begin()
        answers.append(suspects.for_long("a", 2.0))
    assert answers == [False, False, False, True]


def test_a_difference_that_a_run_does_not_see_begins_again() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    suspects.begin()
    suspects.for_long("a", 2.0)
    suspects.begin()
    clock.now += 5
    suspects.begin()
    assert not suspects.for_long("a", 2.0)


def test_differences_are_told_apart() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    suspects.begin()
    suspects.for_long("a", 2.0)
    clock.now += 3
    suspects.begin()
    assert suspects.for_long("a", 2.0) and not suspects.for_long("b", 2.0)


def test_the_clock_is_monotonic() -> None:
    assert Suspects()._clock is time.monotonic
