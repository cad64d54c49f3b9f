"""Prices, rounding, and what a class had in a window."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.usage import DAY, HOUR, Capacity, had, millionths, price_text, rounded


@pytest.mark.parametrize(
    ("value", "text", "number"),
    [
        (0.35, "0.35", 350_000),
        ("1e2", "100", 100_000_000),
        (0, "0", 0),
        ("2.500001", "2.500001", 2_500_001),
    ],
)
def test_a_price_keeps_every_digit(value: object, text: str, number: int) -> None:
    assert (price_text(value), millionths(price_text(value))) == (text, number)


@pytest.mark.parametrize(
    "value", [-1, 1_000_001, "0.0000001", "free", "", None, True, [1], float("nan"), "inf"]
)
def test_what_is_no_price_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is no price per hour; use 0 to 1,000,000"):
        price_text(value)


@given(st.lists(st.fractions(min_value=0, max_value=1000), max_size=30))
def test_rounded_parts_add_up_to_the_whole(parts: list[Fraction]) -> None:
    whole = int(sum(parts))
    found = rounded(whole, parts)
    assert sum(found) == whole
    assert all(abs(number - part) < 1 for number, part in zip(found, parts, strict=True))


def test_what_a_class_had_is_split_by_day_and_price() -> None:
    slots = {SHARED: 8, EXCLUSIVE: 1}
    known = [
        Capacity(10 * DAY - HOUR, 1, slots, None),
        Capacity(10 * DAY + HOUR, 2, slots, 350_000),
        Capacity(10 * DAY + 2 * HOUR, 0, {}, None),
    ]
    found = [(each.day, each.length, each.price) for each in had("t4", known, 0, 12 * DAY)]
    assert found == [(9, HOUR, None), (10, HOUR, None), (10, 2 * HOUR, 350_000)]
    within = [each.length for each in had("t4", known, 10 * DAY - 5, 10 * DAY + 7)]
    assert within == [5, 7]
