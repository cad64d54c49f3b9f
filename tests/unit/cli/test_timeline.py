"""The timeline: lanes, drawing and table from records."""

from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from gpuqueue.cli.view.timeline import page
from gpuqueue.cli.view.timeline_entries import Entry, pack

NOW = 1_800_000_000.0
SVG = "{http://www.w3.org/2000/svg}"


def entry(
    label: str,
    admitted: float | None,
    released: float | None = None,
    *,
    isolation: str = "shared",
    **fields: Any,
) -> Entry:
    """A job accepted at second 0; times are seconds after that."""
    record: dict[str, Any] = {
        "delivery": label,
        "task": "shop.train",
        "isolation": isolation,
        "created": NOW,
        "reason": "SUCCEEDED",
    }
    times = {"admitted": admitted, "released": released}
    record |= {key: NOW + value for key, value in times.items() if value is not None}
    return Entry(label, record | fields, seen=NOW + 100)  # type: ignore[arg-type]


def drawn(entries: list[Entry]) -> ET.Element:
    """The page, parsed as XML."""
    return ET.fromstring(page("Title", "Subtitle", entries))


def bars(root: ET.Element) -> dict[str, ET.Element]:
    """The bars by what their tooltip begins with."""
    found = [
        each
        for each in root.iter("g")
        if "job" in each.get("class", "").split() and each.find("title") is not None
    ]
    return {(each.findtext("title") or "").partition(" (")[0]: each for each in found}


def labels(lanes: list[list[Entry]]) -> list[list[str]]:
    return [[each.label for each in lane] for lane in lanes]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([entry("a", None)], [], id="who never held a slot has no lane"),
        pytest.param(
            [entry("a", 0, 2), entry("b", 2, 4)],
            [["a", "b"]],
            id="a slot is free the moment it is released",
        ),
        pytest.param(
            [entry("a", 0, 3), entry("b", 2, 4)],
            [["a"], ["b"]],
            id="an overlap takes a second lane",
        ),
        pytest.param(
            [entry("a", 0, 9), entry("b", 1, 2), entry("c", 3, 4)],
            [["a"], ["b", "c"]],
            id="the first free lane is taken again",
        ),
        pytest.param(
            [entry("b", 5, 6), entry("a", 0, 1)],
            [["a", "b"]],
            id="the order of records does not matter",
        ),
        pytest.param(
            [entry("a", 0), entry("b", 50, 60)],
            [["a"], ["b"]],
            id="who still holds a slot holds it until it was seen",
        ),
    ],
)
def test_lanes(entries: list[Entry], expected: list[list[str]]) -> None:
    assert labels(pack(entries)) == expected


def test_as_many_lanes_as_overlap_at_most() -> None:
    lanes = pack([entry(str(index), index % 7, index % 7 + 3) for index in range(70)])

    assert len(lanes) == 30
    for lane in lanes:
        spans = [each.held for each in lane]
        assert all(one and other and one[1] <= other[0] for one, other in itertools.pairwise(spans))


def test_the_page_is_well_formed_and_names_are_escaped() -> None:
    evil = '<script>alert("&")</script>'
    root = drawn([entry(evil, 0, 5, task=evil, reason="ERROR", error=evil)])

    assert not list(root.iter("script"))
    assert root.findtext("./body/main/div/table/tbody/tr/th") == evil
    assert evil in (next(iter(root.iter("g"))).findtext("title") or "") or evil in bars(root)


def test_nothing_comes_from_elsewhere() -> None:
    root = drawn([entry("a", 0, 5)])

    assert not [
        each
        for each in root.iter()
        if each.tag in ("script", "link", "img", "iframe") or "src" in each.attrib
    ]
    assert "http" not in page("Title", "Subtitle", [entry("a", 0, 5)])


def test_shared_and_exclusive_differ_by_pattern_and_word() -> None:
    found = bars(drawn([entry("a", 0, 9), entry("b", 10, 20, isolation="exclusive")]))

    assert found["a"].get("class") == "job shared"
    assert found["b"].get("class") == "job exclusive"
    assert "exclusive" in " ".join(each.text or "" for each in found["b"].iter("text"))
    assert "exclusive" not in " ".join(each.text or "" for each in found["a"].iter("text"))


def test_an_exclusive_job_spans_all_slots_unless_it_was_not_alone() -> None:
    def height(entries: list[Entry]) -> float:
        return float(bars(drawn(entries))["x"].find("rect").get("height"))  # type: ignore[union-attr, arg-type]

    others = [entry("a", 0, 9), entry("b", 0, 9)]
    alone = height([*others, entry("x", 10, 20, isolation="exclusive")])
    beside = height([*others, entry("x", 8, 20, isolation="exclusive")])

    assert alone > 2 * beside * 0.9
    assert beside < 40


def test_what_did_not_succeed_is_marked() -> None:
    root = drawn(
        [entry("a", 0, 9, reason="ERROR"), entry("b", None, ended=NOW + 3, reason="CANCELLED")]
    )

    assert bars(root)["a"].get("class") == "job shared bad"
    assert "✕ left the line: CANCELLED" in "".join(root.itertext())
    assert "b" not in bars(root)


def test_the_table_has_every_job_with_what_it_waited_and_ran() -> None:
    rows = list(
        drawn([entry("a", 1.5, 9), entry("b", None, ended=NOW + 3, reason="EXPIRED")]).iter("tr")
    )[1:]

    assert [[cell.text or "" for cell in row] for row in rows] == [
        ["a", "train", "shared", "1.5 s", "7.5 s", "SUCCEEDED", ""],
        ["b", "train", "shared", "3.0 s", "–", "EXPIRED", ""],
    ]


def test_bars_lie_where_their_times_are() -> None:
    found = bars(drawn([entry("a", 0, 50), entry("b", 50, 100)]))
    first, second = (found[name].find("rect") for name in "ab")
    assert first is not None and second is not None
    left, middle = float(first.get("x", 0)), float(second.get("x", 0))

    assert left + float(first.get("width", 0)) == pytest.approx(middle)
    assert middle + float(second.get("width", 0)) == pytest.approx(2 * middle - left)
