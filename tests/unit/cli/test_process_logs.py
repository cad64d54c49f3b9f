"""The output of a process, read from its file on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.cli.logs import processes
from gpuqueue.launchers.local import output_file
from gpuqueue.launchers.local.identity import Instance, Process
from gpuqueue.launchers.local.runtime import prepare
from gpuqueue.model.record import Record
from tests.support.waiting import PATIENCE


@pytest.fixture
def output(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("GPUQUEUE_RUNTIME_DIR", str(folder))
    return prepare(folder, "key").output("0123")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as made:
        yield made
        made.kill()


def record_of(pid: int) -> Record:
    process = Process.of(pid)
    assert process is not None
    made: Any = {"instance": str(Instance("host", "0123", process)), "state": "running"}
    found: Record = made
    return found


def test_last_lines_are_read(output: Path, child: subprocess.Popen[bytes]) -> None:
    record = record_of(child.pid)
    assert processes.is_elsewhere(record) and processes.read(record, 2) == ""
    output.write_text("one\ntwo\nthree\nhalf")
    assert processes.read(record, 2) == "three\nhalf"
    assert not processes.is_elsewhere(record)


def test_output_is_followed_to_the_end_of_its_process(
    output: Path, child: subprocess.Popen[bytes]
) -> None:
    output.write_text("one\ntwo\n")
    parts = processes.follow(record_of(child.pid), 1)
    assert next(parts) == "two\n"
    with output.open("a") as file:
        file.write("three\n")
    assert next(parts) == "three\n"
    output.write_text("rotated\n")
    assert next(parts) == "rotated\n"
    child.kill()
    child.wait()
    with output.open("a") as file:
        file.write("last\n")
    assert list(parts) == ["last\n"]


def test_instance_of_another_kind_has_no_file_here(output: Path) -> None:
    output.touch()
    made: Any = {"instance": "host:0123:17", "state": "running"}
    assert processes.is_elsewhere(made) and list(processes.follow(made, 5)) == []


def lines(*numbers: int) -> str:
    return "".join(f"line {number}\n" for number in numbers)


@pytest.mark.parametrize("holes", [True, False])
def test_each_line_is_followed_once_across_rotations(
    output: Path,
    child: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    holes: bool,
) -> None:
    if not holes:  # as where the file system has none
        monkeypatch.setattr(output_file, "_punch", lambda descriptor, length: False)
    monkeypatch.setattr(processes, "LOOK", 0.001)
    many, most, seen, kept = 20_000, 1 << 14, "", 0
    output.write_text(lines(0))
    stop, may_write = threading.Event(), threading.Semaphore(0)

    def rotate() -> None:
        nonlocal kept
        output_file.bound(output, most)
        kept = max(kept, output.stat().st_blocks * 512)

    def write() -> None:
        with output.open("ab", buffering=0) as file:
            for number in range(1, many):
                if number % 100 == 0:  # slower than its reader, so that nothing is left out
                    may_write.acquire(timeout=PATIENCE)
                if not holes and number % 500 == 0:
                    rotate()
                file.write(lines(number).encode())
        child.kill()
        child.wait()

    def rotate_always() -> None:
        while not stop.is_set():
            rotate()

    threads = [threading.Thread(target=write)]
    threads += [threading.Thread(target=rotate_always)] if holes else []
    may_write.release()
    parts = processes.follow(record_of(child.pid), 10)
    seen = next(parts)
    for each in threads:
        each.start()
    shown = 0
    for part in parts:
        seen += part
        while shown < seen.count("\n") // 100:
            may_write.release()
            shown += 1
    stop.set()
    for each in threads:
        each.join()
    assert seen == lines(*range(many))
    assert kept < 5 * most
    rest = b"".join(output_file.whole(output)).decode()
    if holes:
        first, _, rest = rest.partition("\n")
        gone = int(first.removeprefix("(").removesuffix(" bytes left out)"))
        assert seen[gone:] == rest
    else:
        assert seen.endswith(rest)
    assert len(rest) >= most and processes.read(record_of(os.getpid()), 3) == seen[-33:]
