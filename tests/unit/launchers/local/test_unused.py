"""Unused runtime directories are removed, and none that may be used."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuqueue.launchers.local import unused
from gpuqueue.launchers.local.identity import Instance, Process
from gpuqueue.launchers.local.runtime import (
    KEPT,
    UNTOLD,
    Runtime,
    all_of,
    guard,
    prepare,
    write,
)
from gpuqueue.launchers.local.unused import remove_unused

OLD = KEPT + 60


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Short: the path of a socket may have 103 bytes.
    yield tmp_path_factory.mktemp("r")


@pytest.fixture
def own(folder: Path) -> Runtime:
    return prepare(folder, "own")


def age(runtime: Runtime, seconds: float = OLD) -> Runtime:
    """Make all of a directory this old."""
    when = time.time() - seconds
    for path in (*runtime.path.rglob("*"), runtime.path):
        os.utime(path, (when, when))
    return runtime


def old(folder: Path, fill: Callable[[Runtime], object] = lambda made: None) -> Runtime:
    made = prepare(folder, "old")
    made.lock.touch()
    made.log.write_text("what the runner said")
    made.output("n").write_text("what an attempt printed")
    fill(made)
    return age(made)


def instance(process: Process | None) -> dict[str, object]:
    assert process is not None
    return {"instance": str(Instance(socket.gethostname(), "n", process)), "variables": {}}


def names(folder: Path) -> list[str]:
    return [each.path.name for each in all_of(folder)]


def test_old_directory_that_nothing_uses_goes(folder: Path, own: Runtime) -> None:
    old(folder)
    assert remove_unused(folder, own) == ["old"]
    assert sorted(each.name for each in folder.iterdir()) == [".lock", "own"]
    assert remove_unused(folder, own) == []


def test_own_directory_stays(folder: Path, own: Runtime) -> None:
    age(own)
    assert remove_unused(folder, own) == []


def test_directory_that_a_dispatcher_has_just_prepared_stays(folder: Path, own: Runtime) -> None:
    old(folder)
    prepare(folder, "old")
    assert remove_unused(folder, own) == []


@pytest.mark.parametrize("path", ["", "lock", "log", "attempts", "ends", "output"])
def test_directory_with_something_new_stays(folder: Path, own: Runtime, path: str) -> None:
    os.utime(old(folder).path / path)
    assert remove_unused(folder, own) == []


def test_directory_of_a_runner_stays(folder: Path, own: Runtime) -> None:
    with old(folder).lock.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_unused(folder, own) == []
    assert remove_unused(folder, own) == ["old"]


@pytest.mark.parametrize(
    ("process", "gone"),
    [
        (lambda: Process.of(os.getpid()), []),
        (lambda: Process("another.machine", 1, "1"), []),
        (lambda: Process(Process.of(os.getpid()).machine, os.getpid(), "1"), ["old"]),  # type: ignore[union-attr]
    ],
    ids=["runs", "of another machine", "has ended"],
)
def test_attempt_that_may_run_keeps_its_directory(
    folder: Path, own: Runtime, process: Callable[[], Process | None], gone: list[str]
) -> None:
    made = old(folder, lambda made: write(made.attempt("n"), instance(process())))
    assert remove_unused(folder, own) == [], "its end is not told yet"
    age(made, UNTOLD + 60)
    assert remove_unused(folder, own) == gone


@pytest.mark.parametrize(("text", "gone"), [("", ["old"]), ('{"instance": "h', [])])
def test_attempt_that_cannot_be_read_may_run(
    folder: Path, own: Runtime, text: str, gone: list[str]
) -> None:
    made = old(folder, lambda made: made.attempt("n").write_text(text))
    age(made, UNTOLD + 60)
    assert remove_unused(folder, own) == gone


def test_untold_end_keeps_its_directory_for_long(folder: Path, own: Runtime) -> None:
    made = old(folder, lambda made: write(made.end("n"), instance(Process.of(os.getpid()))))
    age(made, UNTOLD - 60)
    assert remove_unused(folder, own) == []
    age(made, UNTOLD + 60)
    assert remove_unused(folder, own) == ["old"]


def test_what_is_no_runtime_directory_stays(folder: Path, own: Runtime) -> None:
    (folder / "theirs").mkdir()
    (folder / "file").touch()
    for each in ("theirs", "file"):
        os.utime(folder / each, (0, 0))
    assert remove_unused(folder, own) == []
    assert {"theirs", "file"} <= {each.name for each in folder.iterdir()}


def test_directory_that_cannot_be_read_stays(
    folder: Path, own: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(path)

    old(folder, lambda made: write(made.attempt("n"), instance(Process.of(os.getpid()))))
    monkeypatch.setattr(unused, "_may_run", refuse)
    assert remove_unused(folder, own) == []


def test_rest_of_an_interrupted_removal_goes(folder: Path, own: Runtime) -> None:
    old(folder).path.rename(folder / ".gone.old.1")
    assert names(folder) == ["own"]
    remove_unused(folder, own)
    assert not (folder / ".gone.old.1").exists()


def test_one_process_removes_at_a_time(folder: Path, own: Runtime) -> None:
    old(folder)
    with guard(folder, alone=True):
        assert remove_unused(folder, own) == []
    assert remove_unused(folder, own) == ["old"]


def test_a_directory_is_prepared_whole_beside_a_removal(folder: Path, own: Runtime) -> None:
    over = threading.Event()

    def remove() -> None:
        while not over.is_set():
            remove_unused(folder, own)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        for _ in range(200):
            age(prepare(folder, "old"))
            made = prepare(folder, "old")  # another dispatcher, at any moment of a removal
            write(made.end("n"), {"instance": "i"})
            assert made.end("n").exists()
            made.end("n").unlink()
    finally:
        over.set()
        for each in threads:
            each.join()
