"""The output of attempts, as their dispatcher shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuqueue.launchers.local import output as module
from gpuqueue.launchers.local.output import Output
from tests.support.waiting import PATIENCE, until


class Screen:
    def __init__(self) -> None:
        self.text = ""

    def __call__(self, data: bytes) -> None:
        self.text += data.decode()


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def output(screen: Screen) -> Iterator[Output]:
    made = Output(screen)
    yield made
    made.close()


def test_lines_are_shown_with_their_attempt(output: Output, screen: Screen, tmp_path: Path) -> None:
    path = tmp_path / "a"
    output.follow("a", "job#1", path)  # before its file is there
    path.write_text("one\ntw")
    until(lambda: screen.text == "job#1 | one\n", PATIENCE, "the first line", lambda: screen.text)
    with path.open("a") as file:
        file.write("o\nno end")
    output.ended("a")
    until(lambda: "no end" in screen.text, PATIENCE, "the rest", lambda: screen.text)
    assert screen.text == "job#1 | one\njob#1 | two\njob#1 | no end\n"


def test_rotated_file_is_read_from_its_begin(
    output: Output, screen: Screen, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_text("before the rotation\n")
    output.follow("a", "job#1", path)
    until(lambda: screen.text, PATIENCE, "the first line")
    path.write_text("after\n")
    until(lambda: "after" in screen.text, PATIENCE, "the next line", lambda: screen.text)


def test_more_than_can_be_shown_is_left_out(
    output: Output, screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    (tmp_path / "a").write_text("x" * 100 + "\n" + "123456789\n")
    output.follow("a", "job#1", tmp_path / "a")
    output.ended("a")
    until(lambda: "123456789" in screen.text, PATIENCE, "the end", lambda: screen.text)
    assert "job#1 | (101 bytes left out)" in screen.text


def test_reader_that_is_gone_or_stuck_delays_nothing(tmp_path: Path) -> None:
    go_on = threading.Event()
    calls: list[bytes] = []

    def write(data: bytes) -> None:
        calls.append(data)
        if len(calls) == 1:
            raise BrokenPipeError
        go_on.wait(PATIENCE)

    output = Output(write)
    for name in ("a", "b"):
        (tmp_path / name).write_text("text\n")
        output.follow(name, name, tmp_path / name)
    until(lambda: len(calls) == 2, PATIENCE, "both are shown")
    output.ended("b")
    output.follow("c", "c", tmp_path / "c")
    go_on.set()
    output.close()


def test_the_output_of_the_next_attempt_of_a_process_has_its_name(
    screen: Screen, tmp_path: Path
) -> None:
    output = Output(screen, name_of=lambda nonce: {"a": "next#1"}[nonce])
    path = tmp_path / "a"
    output.follow("a", "job#1", path)
    path.write_text("one\n")
    until(lambda: screen.text == "job#1 | one\n", PATIENCE, "the first line", lambda: screen.text)
    with path.open("a") as file:
        file.write("two\nthr")
    path.rename(tmp_path / "a.1")
    path.write_text("four\n")
    output.ended("a")
    expected = "job#1 | one\njob#1 | two\njob#1 | thr\nnext#1 | four\n"
    until(lambda: screen.text == expected, PATIENCE, "all lines", lambda: screen.text)
    output.close()
