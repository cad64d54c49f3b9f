"""What the processes of a pod print: copied, with a log for each job."""

from __future__ import annotations

import os
from tempfile import TemporaryFile

import pytest

from gpuqueue.executor.turns import turn_text
from gpuqueue.runner.pod_output import PodOutput

#: A mark may begin with any digit.
MARKS = ("0812" * 8, "f00d" * 8)


def printed_in(pieces: list[bytes], kept: int, mark: str) -> tuple[list[bytes], list[str], bytes]:
    """The logs of the jobs, the attempts that followed, and what the pod printed."""
    with TemporaryFile() as pod:
        before = os.dup(1)
        os.dup2(pod.fileno(), 1)
        try:
            output = PodOutput(kept, mark)
            descriptor = os.dup(output._write)
            output.follow()
            for piece in pieces:
                os.write(descriptor, piece)
            os.close(descriptor)
            last = output.close()
        finally:
            os.dup2(before, 1)
            os.close(before)
        pod.seek(0)
        shown = pod.read()
    assert last is not None
    turns = list(output.turns())
    return [*(text for text, _ in turns), last], [to["A"] for _, to in turns], shown


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("size", [1, 7, 40, 10_000])
def test_each_job_has_its_own_log_however_its_lines_arrive(mark: str, size: int) -> None:
    text = b"one\n" * 9 + turn_text(mark, {"A": "2"}) + b"two\0\n" + turn_text(mark, {"A": "3"})
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    logs, attempts, shown = printed_in(pieces, 900, mark)
    assert logs == [b"one\n" * 9, b"two\0\n", b""]
    assert attempts == ["2", "3"]
    assert shown == b"one\n" * 9 + b"two\0\n", "without the turns"


def test_only_the_end_of_a_log_is_kept_and_all_of_it_is_shown() -> None:
    logs, _, shown = printed_in([b"x" * 500, b"yz"], 4, MARKS[0])
    assert (logs, len(shown)) == ([b"xxyz"], 502)


def test_what_looks_like_a_turn_is_printed() -> None:
    text = b"\0" + MARKS[1].encode() + b" {" + b"x" * 70_000
    logs, attempts, shown = printed_in(
        [text[at : at + 900] for at in range(0, len(text), 900)], 9, MARKS[1]
    )
    assert (attempts, shown) == ([], text)


@pytest.mark.parametrize("text", [b"{}x}", b"{1}", b'{"A": 5}'])
def test_a_turn_that_cannot_be_read_is_printed(text: bytes) -> None:
    turn = b"\0" + MARKS[0].encode() + b" " + text + b"\0"
    logs, attempts, shown = printed_in([b"one\n", turn, b"more\n"], 900, MARKS[0])
    assert (attempts, shown) == ([], b"one\n" + turn + b"more\n")
    assert logs == [shown]
