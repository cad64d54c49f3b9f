"""The output of a process, read from its file on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.cli.logs import processes
from gpuqueue.launchers.local.identity import Instance, Process
from gpuqueue.launchers.local.runtime import prepare
from gpuqueue.model.record import Record


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
