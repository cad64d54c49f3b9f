"""The cgroups of attempts: where they can be, and what ends with them.

The last tests need a real cgroup v2 in which this user may make others.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from gpuqueue.launchers.local import cgroup
from gpuqueue.launchers.local.identity import Instance
from gpuqueue.launchers.local.launcher import LocalLauncher
from tests.support.runners import end_runners, runners_of
from tests.support.waiting import PATIENCE, until

FILES = ("cgroup.procs", "cgroup.kill", "cgroup.events")


def make(path: Path, *, populated: bool = False, processes: str = "") -> Path:
    """A directory in place of a cgroup."""
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).touch()
    (path / "cgroup.events").write_text(f"populated {int(populated)}\nfrozen 0\n")
    (path / "cgroup.procs").write_text(processes)
    return path


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system tells of a process of an ordinary user in /user/service."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    made = tmp_path / "proc"
    made.mkdir()
    (made / "cgroup").write_text("4:memory:/other\n0::/user/service\n")
    (made / "mountinfo").write_text(
        f"30 23 0:26 / {tmp_path}/v1 rw - cgroup cgroup rw,memory\n"
        f"31 23 0:27 / {tmp_path}/v2 rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    return made


def test_own_delegated_cgroup_is_found(proc: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "v2" / "user" / "service")
    before = sorted(path.iterdir())
    assert cgroup.own(proc) == path
    assert sorted(path.iterdir()) == before, "to look changes nothing"


def test_cgroup_below_the_root_of_the_mount_is_found(proc: Path, tmp_path: Path) -> None:
    (proc / "mountinfo").write_text(f"31 23 0:27 /user {tmp_path}/v2 rw - cgroup2 cgroup2 rw\n")
    assert cgroup.own(proc) is None
    path = make(tmp_path / "v2" / "service")
    assert cgroup.own(proc) == path


@pytest.mark.parametrize(
    "named", ["", "4:memory:/user\n", "0::/user/other\n", "0::/\n", "0::/../elsewhere\n"]
)
def test_without_a_cgroup_that_is_ours_there_is_none(
    proc: Path, tmp_path: Path, named: str
) -> None:
    make(tmp_path / "v2" / "user" / "service")
    make(tmp_path / "elsewhere")
    (proc / "cgroup").write_text(named)
    assert cgroup.own(proc) is None


def test_kernel_without_a_kill_gives_none(proc: Path, tmp_path: Path) -> None:
    (make(tmp_path / "v2" / "user" / "service") / "cgroup.kill").unlink()
    assert cgroup.own(proc) is None


def test_cgroup_that_cannot_be_written_gives_none(
    proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "v2" / "user" / "service")
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path.name != "cgroup.procs")
    assert cgroup.own(proc) is None


def test_root_needs_the_mark_of_delegation_outside_a_container(
    proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "v2" / "user" / "service")
    marks: dict[str, bytes] = {}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getxattr", lambda _, name: marks.get(name, b""), raising=False)
    assert cgroup.own(proc) is None
    marks["user.delegate"] = b"1"
    assert cgroup.own(proc) == path
    marks.clear()
    (proc / "cgroup").write_text("0::/\n")
    make(tmp_path / "v2" / "container").rename(tmp_path / "whole")
    (proc / "mountinfo").write_text(f"31 23 0:27 / {tmp_path}/whole rw - cgroup2 cgroup2 rw\n")
    assert cgroup.own(proc) == tmp_path / "whole"


def test_only_the_cgroup_of_the_very_attempt_is_named() -> None:
    assert cgroup.named("/cg/gpuqueue-n", "n") == Path("/cg/gpuqueue-n")
    assert [cgroup.named(each, "n") for each in (None, "", "/cg", "/cg/gpuqueue-m")] == [None] * 4


def test_commands_go_to_the_files_of_the_cgroup(tmp_path: Path) -> None:
    path = make(tmp_path / "gpuqueue-n", processes="7\n8\n")
    (make(path / "below", processes="9\n") / "cgroup.procs").write_text("9\n")
    assert sorted(cgroup.processes(path)) == [7, 8, 9]
    cgroup.enter(path)
    cgroup.kill(path)
    assert [(path / name).read_text() for name in FILES[:2]] == ["0", "1"]


def test_what_cannot_be_made_or_is_gone_costs_nothing(tmp_path: Path) -> None:
    assert cgroup.make(None, "n") is None and cgroup.make(tmp_path / "gone", "n") is None
    cgroup.enter(None)
    cgroup.enter(tmp_path / "gone")
    cgroup.kill(tmp_path / "gone")
    cgroup.remove_empty(None)
    assert cgroup.is_empty(tmp_path / "gone") and cgroup.processes(tmp_path / "gone") == []


@pytest.mark.parametrize("populated", [True, False])
def test_a_cgroup_with_processes_is_not_empty(tmp_path: Path, populated: bool) -> None:
    assert cgroup.is_empty(make(tmp_path / "gpuqueue-n", populated=populated)) is not populated


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A real cgroup, delegated as systemd does it."""
    for _, mounted in cgroup._mounts(Path("/proc/self/mountinfo")):
        path = mounted / f"test-{secrets.token_hex(4)}"
        try:
            path.mkdir()
            os.setxattr(path, "user.delegate", b"1")
        except OSError:
            continue
        yield path
        cgroup.kill(path)
        until(partial(cgroup.is_empty, path), PATIENCE, "the cgroup is empty")
        return
    pytest.skip("no cgroup v2 is mounted here in which this user may make others")


#: A dispatcher that starts one attempt, and stays.
DISPATCHER = """
import signal, sys
from gpuqueue.launchers.local.launcher import LocalLauncher
record = {"delivery": "a", "id": "a", "gpu_class": "t4", "isolation": "shared", "attempt": 1,
          "token": "secret", "task": "shop.train"}
one = LocalLauncher(lambda running, end: True, {"GPUQUEUE_REDIS_URL": sys.argv[1]}, 60,
                    command=[sys.executable, "-S", "-c", sys.argv[2]])
print(one.start(record), flush=True)
signal.pause()
"""
#: A task that leaves a process without its session, its group, its parent and its environment.
TASK = """
import os, signal, sys
if not os.fork():
    os.setsid()
    if not os.fork():
        program = "import os, signal; open({path!r}, 'w').write(str(os.getpid())); signal.pause()"
        os.execve(sys.executable, [sys.executable, "-S", "-c", program], {{}})
    os._exit(0)
signal.pause()
"""
URL = "redis://cgroup/0"


@pytest.fixture
def started(delegated: Path, tmp_path: Path) -> Iterator[tuple[Instance, int]]:
    """An attempt in its cgroup, and the pid of what it has left."""
    left = tmp_path / "left"
    enter = f'echo 0 > {delegated}/cgroup.procs; exec "$@"'
    command = [sys.executable, "-c", DISPATCHER, URL, TASK.format(path=str(left))]
    with subprocess.Popen(
        ["sh", "-c", enter, "sh", *command], stdout=subprocess.PIPE, text=True
    ) as dispatcher:
        assert dispatcher.stdout
        instance = Instance.parse(dispatcher.stdout.readline().strip())
        until(lambda: left.exists() and left.read_text(), PATIENCE, "the process that is left")
        yield instance, int(left.read_text())
        dispatcher.kill()
    end_runners(URL)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_an_attempt_has_a_cgroup_that_ends_with_it(
    started: tuple[Instance, int], delegated: Path
) -> None:
    instance, left = started
    own = delegated / f"gpuqueue-{instance.nonce}"
    assert sorted(cgroup.processes(own)) == sorted([instance.process.pid, left])
    instance.process.signal("TERM")
    until(lambda: not own.exists(), PATIENCE, "the cgroup is removed")
    assert not runs(left)


def test_what_an_attempt_left_ends_although_its_runner_was_killed(
    started: tuple[Instance, int], delegated: Path, running: Callable[[], LocalLauncher]
) -> None:
    instance, left = started
    for runner in runners_of(URL):
        runner.kill()
        runner.wait(PATIENCE)
    instance.process.signal("KILL")
    until(lambda: not instance.process.runs, PATIENCE, "the attempt has ended")
    one = running()
    until(lambda: one.end_of(str(instance)) is not None, PATIENCE, "its end")
    assert not runs(left)
    assert not (delegated / f"gpuqueue-{instance.nonce}").exists()


@pytest.fixture
def running() -> Iterator[Callable[[], LocalLauncher]]:
    made: list[LocalLauncher] = []

    def make() -> LocalLauncher:
        made.append(LocalLauncher(lambda *_: True, {"GPUQUEUE_REDIS_URL": URL}, 60, command=["-"]))
        return made[-1]

    yield make
    for each in made:
        each.close()
