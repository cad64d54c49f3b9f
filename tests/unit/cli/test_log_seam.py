"""Streams of one log are joined without a line lost or shown twice, wherever they break."""

from __future__ import annotations

import pytest

from gpuqueue.cli.logs.seam import LINES, Seam, lines_of


def joined(*streams: list[str], tail: int = 1000) -> tuple[str, bool]:
    """What is shown of streams that follow one another, and whether the last of them was joined to
    the others.
    """
    seam = Seam(tail)
    shown = "".join("".join(seam.join(stream)) for stream in streams)
    return shown, not seam.lost


@pytest.mark.parametrize(
    ("streams", "shown"),
    [
        ([["a\nb\n"], ["a\nb\n"]], "a\nb\n"),
        ([["a\nb\n"], ["a\nb\nc\n"]], "a\nb\nc\n"),
        ([["a\nb\n"], ["b\nc\n"]], "a\nb\nc\n"),
        ([["a\nb\n"], ["a", "\n", "b\nc", "\nd"]], "a\nb\nc\nd"),
        ([["a\nbe"], ["a\nbefore\nc\n"]], "a\nbefore\nc\n"),
        ([["a\nbe"], ["a\nbefore"]], "a\nbefore"),
        ([["a\nbe"], ["a\nbe"]], "a\nbe"),
        ([["a\nb"], ["a\nb\n"]], "a\nb\n"),
        ([["a\nb\n"], ["a\nb\nc"], ["a\nb\nc\nd\n"]], "a\nb\nc\nd\n"),
        ([["x\n" * 9], ["x\n" * 9]], "x\n" * 9),
        ([["x\n" * 9], ["x\n" * 9 + "y\n"]], "x\n" * 9 + "y\n"),
        ([["a\nb\na\nb\nc\n"], ["a\nb\nc\nd\n"]], "a\nb\na\nb\nc\nd\n"),
        ([["a\na\n"], ["a\nb\n"]], "a\na\nb\n"),
        ([["a\nb\n"], ["a\n"], ["a\nb\nc\n"]], "a\nb\nc\n"),
        ([["a\nb\n"], []], "a\nb\n"),
        ([["1%\r2%\r3%"], ["1%\r2%\r3%\r4%\n"]], "1%\r2%\r3%\r4%\n"),
    ],
)
def test_what_was_shown_is_not_shown_again(streams: list[list[str]], shown: str) -> None:
    assert joined(*streams) == (shown, True)


def test_every_break_of_a_log_is_mended() -> None:
    log = "one\ntwo\ntwo\nthree\none\ntwo\nend"
    for first in range(1, len(log) + 1):
        for second in range(first, len(log) + 1):
            assert joined([log[:first]], [log[:second]], [*log]) == (log, True), (first, second)


@pytest.mark.parametrize(("first", "shown"), [("a\nb\n", "a\nb\ny\nz\n"), ("a\nb", "a\nb\ny\nz\n")])
def test_a_stream_that_starts_after_a_gap_is_shown_whole_and_flagged(
    first: str, shown: str
) -> None:
    assert joined([first], ["y\nz\n"]) == (shown, False)


def test_a_line_is_shown_as_soon_as_it_comes() -> None:
    seam = Seam(10)
    assert list(seam.join(["a\n", "b", "\n"])) == ["a\n", "b", "\n"]
    parts = seam.join(iter(["a\nb\n", "c", "\n"]))
    assert [next(parts), next(parts)] == ["c", "\n"]


def test_a_stream_is_joined_no_further_back_than_is_remembered() -> None:
    few = Seam(10)
    assert few.tail == 10  # all of a log that has no ten lines was shown
    list(few.join(["line\n" * 12]))
    assert few.tail == 12
    many = Seam(100_000)
    list(many.join([f"{number}\n" for number in range(3 * LINES)]))
    assert many.tail == LINES
    assert (
        "".join(many.join([f"{number}\n" for number in range(2 * LINES, 3 * LINES + 1)]))
        == f"{3 * LINES}\n"
    )


def test_a_bar_of_progress_is_one_line() -> None:
    assert lines_of("1%\r2%\x0b\u2028\nnext\n\nlast") == [
        "1%\r2%\x0b\u2028\n",
        "next\n",
        "\n",
        "last",
    ]
