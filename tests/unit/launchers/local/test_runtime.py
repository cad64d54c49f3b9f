"""The runtime directory: who may use it, and what its name depends on."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.local import output_file, runtime
from gpuqueue.launchers.local.runtime import all_of, base, key_of, prepare, read, write


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Short: the path of a socket may have 103 bytes.
    yield tmp_path_factory.mktemp("r")


def test_only_this_user_can_use_the_directory(folder: Path) -> None:
    folder.chmod(0o777)
    made = prepare(folder, "key")
    assert {each.stat().st_mode & 0o777 for each in (folder, made.path)} == {0o700}
    assert list(all_of(folder)) == [made]


def test_directory_of_another_user_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(SettingsError, match=rf"belongs to user {user}.*set GPUQUEUE_RUNTIME_DIR"):
        prepare(folder, "key")


def test_link_in_place_of_the_directory_is_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "key").symlink_to(folder / "elsewhere")
    with pytest.raises(SettingsError, match="GPUQUEUE_RUNTIME_DIR"):
        prepare(folder, "key")


def test_file_in_place_of_the_directory_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot be used.*set GPUQUEUE_RUNTIME_DIR"):
        prepare(folder / "file", "key")


def test_path_too_long_for_a_socket_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="too long for the path of a socket"):
        prepare(folder / ("x" * 100), "key")


def test_base_is_the_setting_or_the_users_own_directory() -> None:
    given = {"GPUQUEUE_RUNTIME_DIR": "/a", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert base(given) == Path("/a")
    del given["GPUQUEUE_RUNTIME_DIR"]
    assert base(given) == Path("/run/user/7/gpuqueue")
    assert base({}).name == f"gpuqueue-{os.getuid()}"


@pytest.mark.parametrize(
    "other",
    [
        ("2", ["python"], {"A": "1", "TERM": "xterm"}, "/here"),
        ("1", ["python3"], {"A": "1"}, "/here"),
        ("1", ["python"], {"A": "2"}, "/here"),
        ("1", ["python"], {"A": "1", "B": "2"}, "/here"),
        ("1", ["python"], {"A": "1"}, "/there"),
    ],
    ids=["version", "interpreter", "a value", "a variable", "directory"],
)
def test_runner_serves_those_that_import_in_the_same_way(
    other: tuple[str, list[str], dict[str, str], str],
) -> None:
    known = key_of("1", ["python"], {"A": "1", "TERM": "vt100"}, "/here")
    assert known == key_of("1", ["python"], {"A": "1", "TERM": "xterm", "PWD": "/x"}, "/here")
    assert known != key_of(*other)


def test_half_written_file_is_not_read(folder: Path) -> None:
    made = prepare(folder, "key")
    write(made.attempt("a"), {"instance": "x"})
    made.attempt("b").write_text('{"instance": "y", "vari')
    made.attempt("c").touch()
    assert list(made.attempts()) == [("a", {"instance": "x"})]
    assert read(made.attempt("none")) is None


def test_lock_tells_whether_a_runner_is_there(folder: Path) -> None:
    made = prepare(folder, "key")
    seen = [made.has_runner]
    with made.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.stage(lock.fileno(), runtime.SERVING)
        seen.append(made.has_runner)
        assert made.runner == (os.getpid(), runtime.SERVING)
    assert [*seen, made.has_runner] == [False, True, False]


def test_old_files_are_forgotten_but_those_of_running_attempts(folder: Path) -> None:
    made = prepare(folder, "key")
    write(made.attempt("runs"), {"instance": "x"})
    for name in ("runs", "old"):
        write(made.end(name), {"instance": "x"})
        made.output(name).write_text("text")
        for path, kept in ((made.end(name), runtime.UNTOLD), (made.output(name), runtime.KEPT)):
            long_ago = time.time() - kept - 60
            os.utime(path, (long_ago, long_ago))
    write(made.end("new"), {"instance": "x"})
    long_ago = time.time() - runtime.UNTOLD + 60
    os.utime(made.end("new"), (long_ago, long_ago))
    made.output("new").write_text("text")
    made.forget_old()
    assert sorted(each.name for each in (made.path / "output").iterdir()) == ["new", "runs"]
    assert sorted(nonce for nonce, _ in made.ends()) == ["new", "runs"]


def test_output_of_a_running_attempt_is_bounded(folder: Path) -> None:
    made = prepare(folder, "key")
    write(made.attempt("a"), {"instance": "x"})
    with made.output("a").open("a") as job:
        for text in ("first " * 4000, "second " * 1000, "third"):
            job.write(text)
            job.flush()
            made.rotate(8192)
    kept = b"".join(output_file.whole(made.output("a"))).decode()
    assert kept.endswith("second " * 1000 + "third") and "bytes left out)\nfirst" not in kept
    assert 8192 <= len(kept) < 3 * 8192 and output_file.begin(made.output("a")) % 4096 == 0


def test_a_process_that_goes_on_keeps_its_file_and_its_lock(folder: Path) -> None:
    made = prepare(folder, "key")
    path = made.attempt("n")
    long = {"GPUQUEUE_DELIVERY": "a" * 200, "GPUQUEUE_TIME_LIMIT": "9.5", "HOME": "/h"}
    path.write_text('{"instance": "i", "runner": null, "variables": ' + json.dumps(long) + "}")
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made.go_on("n", {"GPUQUEUE_DELIVERY": "b"})
        with path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert read(path) == {
        "instance": "i",
        "runner": None,
        "variables": {"GPUQUEUE_DELIVERY": "b", "HOME": "/h"},
    }


def test_an_end_is_kept_in_the_file_of_its_attempt(folder: Path) -> None:
    """Where the disk is full, no other file can be written."""
    made = prepare(folder, "key")
    write(made.attempt("a"), {"instance": "i", "variables": {"long": "x" * 99}, "runner": {}})
    file = made.attempt("a").stat().st_ino
    made.keep_end("a", {"instance": "i", "code": 0, "variables": {}})
    assert (made.end("a").stat().st_ino, list(made.attempts())) == (file, [])
    assert read(made.end("a")) == {"instance": "i", "code": 0, "variables": {}}


def test_an_output_that_begins_again_keeps_the_part_before(folder: Path) -> None:
    made = prepare(folder, "key")
    made.output("n").write_text("first")
    with made.next_output("n") as opened:
        made.renew_output("n")
        os.write(opened, b"second")
    assert made.output("n").read_text() == "second"
    assert (made.path / "output" / "n.1").read_text() == "first"
    assert made.output("n").stat().st_mode & 0o777 == 0o600


def test_an_output_that_does_not_begin_again_stays(folder: Path) -> None:
    made = prepare(folder, "key")
    made.output("n").write_text("first")
    with made.next_output("n"):
        pass
    assert [each.name for each in (made.path / "output").iterdir()] == ["n"]
    assert made.output("n").read_text() == "first"
