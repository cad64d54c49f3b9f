"""The layout of the state: who marks it, and that no process works on a state of another layout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

import gpuqueue
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.errors import LayoutMismatch
from gpuqueue.store import layout
from gpuqueue.store.keys import LAYOUT, UNMARKED, VERSION
from tests.support.command_line import run_command
from tests.support.crash_stack import CLOCKS
from tests.support.nodes import APPS
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
WHERE = ("redis://me:secret@h:1/0", "GPUQUEUE_REDIS_URL")
EX_CONFIG = 78
LOCAL_ONLY = pytest.mark.local_only("who runs the jobs makes no difference")


# -- the mark --------------------------------------------------------------------------------------


def test_an_empty_redis_has_no_layout_until_a_dispatcher_is_there(client: redis.Redis) -> None:
    assert layout.find(client) is None
    layout.check(client, *WHERE)
    assert client.dbsize() == 0
    for _ in range(2):
        layout.claim(client, *WHERE)
    assert client.get(LAYOUT) == layout.find(client) == str(VERSION)
    layout.check(client, *WHERE)


def test_what_dispatchers_left_before_there_was_a_mark_is_of_layout_1(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.hset(UNMARKED, "t4", "{}")
    assert layout.find(client) == "1"
    layout.claim(client, *WHERE)
    assert client.get(LAYOUT) == "1"
    client.delete(LAYOUT)
    monkeypatch.setattr(layout, "VERSION", 2)
    for look in (layout.check, layout.claim):
        with pytest.raises(LayoutMismatch, match="layout 1, older than layout 2"):
            look(client, *WHERE)
    assert client.get(LAYOUT) is None


@pytest.mark.parametrize("found", ["2", "10", "two"])
def test_the_error_of_a_newer_layout_names_setting_layout_and_fix(
    client: redis.Redis, found: str
) -> None:
    client.set(LAYOUT, found)
    for look in (layout.check, layout.claim):
        with pytest.raises(LayoutMismatch) as caught:
            look(client, *WHERE)
        assert (
            str(caught.value)
            == f"GPUQUEUE_REDIS_URL='redis://me:**@h:1/0' holds the state of layout {found}, newer"
            " than layout 1, the only one that this gpuqueue reads; run the version that wrote it,"
            " or use another Redis database"
        )
    assert client.get(LAYOUT) == found


def test_an_older_layout_is_refused_and_never_overwritten(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.claim(client, *WHERE)
    monkeypatch.setattr(layout, "VERSION", 2)
    with pytest.raises(
        LayoutMismatch,
        match=rf"layout 1, older than layout 2.*set the key {LAYOUT} to 2"
        r" \(docs/operate/upgrades.md\)",
    ):
        layout.claim(client, *WHERE)
    assert client.get(LAYOUT) == "1"


def test_of_two_layouts_that_come_to_an_empty_redis_at_once_one_is_refused(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = layout.find

    def look_then_another_comes(found: redis.Redis) -> str | None:
        answer = looked(found)
        client.set(LAYOUT, "2")
        return answer

    monkeypatch.setattr(layout, "find", look_then_another_comes)
    with pytest.raises(LayoutMismatch):
        layout.claim(client, *WHERE)


# -- who meets it ----------------------------------------------------------------------------------


def environment(url: str, **more: str) -> dict[str, str]:
    usual = {
        "PYTHONPATH": str(APPS),
        "CELERY_BROKER_URL": url,
        "GPUQUEUE_APP": "shop",
        "GPUQUEUE_DEVICES": "none",
    }
    return {**os.environ, **usual, **more}


def told(url: str, module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a module of ours that is expected to end at once."""
    return run_command(arguments, env=environment(url, **env), module=module)


def test_a_dispatcher_ends_at_once_at_a_newer_layout_and_changes_nothing(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    client.set(LAYOUT, "2")
    done = told(server.url, "celery", "-A", "gpuqueue", "worker")
    assert done.returncode == EX_CONFIG
    assert (
        f"gpuqueue: CELERY_BROKER_URL='{server.url}' holds the state of layout 2, newer than"
        " layout 1" in done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert list(client.scan_iter("gpuqueue*")) == [LAYOUT]


@pytest.mark.parametrize(
    "command",
    [("status",), ("why", "x"), ("cancel", "x"), ("classes",), ("logs", "x")],
    ids=" ".join,
)
def test_a_command_reports_another_layout_instead_of_an_empty_queue(
    server: EmbeddedRedis, client: redis.Redis, command: tuple[str, ...]
) -> None:
    client.set(LAYOUT, "2")
    done = run_command(command, env=environment(server.url))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"gpuqueue: CELERY_BROKER_URL=.* holds the state of layout 2, newer than layout 1, .*\n",
        done.stderr,
    )


def test_the_doctor_reports_the_layout(server: EmbeddedRedis, client: redis.Redis) -> None:
    env = environment(server.url, COLUMNS="300")
    assert "OK    layout: 1\n" in run_command(["doctor"], env=env).stdout
    client.set(LAYOUT, "2")
    done = run_command(["doctor"], env=env)
    assert done.returncode == 1
    assert re.search(
        r"FAIL  layout: .* layout 2, newer than layout 1.*\n +run the version that wrote it, or"
        r" use",
        done.stdout,
    )


def test_an_executor_of_another_layout_reports_it_and_claims_nothing(
    server: EmbeddedRedis,
) -> None:
    attempt = {
        "GPUQUEUE_GPU_CLASS": "t4",
        "GPUQUEUE_DELIVERY": "j",
        "GPUQUEUE_ATTEMPT": "1",
        "GPUQUEUE_TOKEN": "t",
    }
    done = told(server.url, "gpuqueue.executor", GPUQUEUE_LAYOUT="2", **attempt)
    assert done.returncode == EX_CONFIG
    assert (
        done.stderr
        == "gpuqueue: GPUQUEUE_LAYOUT='2' is the layout of the dispatcher, but the gpuqueue"
        " here reads layout 1 only; install the dispatcher's version with the application\n"
    )
    for same in ({"GPUQUEUE_LAYOUT": "1"}, {}):  # a dispatcher of before the mark says nothing
        assert (
            told(server.url, "gpuqueue.executor", **same, **attempt).returncode == 76
        )  # no such attempt is known


# -- the day the layout changes --------------------------------------------------------------------


@pytest.fixture
def next_layout(tmp_path: Path) -> Path:
    """Where a gpuqueue of the next layout lies: this one, but for its number."""
    made = tmp_path / "next"
    package = Path(gpuqueue.__file__).parent
    shutil.copytree(package, made / "gpuqueue", ignore=shutil.ignore_patterns("__pycache__"))
    file = made / "gpuqueue" / "store" / "keys.py"
    before = file.read_text()
    file.write_text(before.replace(f"VERSION = {VERSION}\n", f"VERSION = {VERSION + 1}\n"))
    assert file.read_text() != before
    return made


@pytest.mark.slow
@LOCAL_ONLY
def test_the_next_layout_waits_for_the_jobs_of_this_one_and_loses_none(
    stack_factory: Callable[..., Stack], next_layout: Path
) -> None:
    stack = stack_factory(CLOCKS)
    old = stack.dispatcher("old")
    running = stack.shop.hold.apply_async(("running",), queue="gpu.t4.exclusive")
    stack.told("running")
    waiting = stack.shop.tell_of.apply_async(("waiting", 1), queue="gpu.t4.shared")
    stack.in_state(waiting.id, "waiting")
    env = {"PYTHONPATH": f"{next_layout}{os.pathsep}{APPS}"}

    def starts() -> Any:
        node = stack.dispatcher("next", env=env, ready=False)
        until(
            lambda: node.container.exit_code is not None or " ready." in node.logs(),
            PATIENCE,
            "it starts or ends",
            node.logs,
        )
        return node

    # 1. The next one refuses, as often as it is started, and the one that is there goes on.
    refused = starts()
    assert refused.container.exit_code == EX_CONFIG
    assert "holds the state of layout 1, older than layout 2" in refused.logs()
    # 2. No new jobs are taken: their messages wait in the broker.
    for queue in ("gpu.t4", "gpu.t4.shared", "gpu.t4.exclusive", "gpu.auto", "gpu.mig"):
        assert stack.app.control.cancel_consumer(
            queue, destination=["old@test"], reply=True, timeout=10
        )
    later = stack.shop.tell_of.apply_async(("later", 2), queue="gpu.t4.shared")
    # 3. What is there ends.
    stack.go("running")
    assert [running.get(timeout=PATIENCE), waiting.get(timeout=PATIENCE)] == ["running", 1]
    stack.idle()
    assert stack.client.llen("gpu.t4.shared") == 1
    # 4. The mark is set: the old one leaves by itself, and the next one takes what has waited.
    stack.client.set(LAYOUT, "2")
    begun = time.monotonic()
    until(lambda: old.container.exit_code is not None, PATIENCE, "the old one leaves", old.logs)
    assert (old.container.exit_code, time.monotonic() - begun < 30) == (EX_CONFIG, True)
    assert "holds the state of layout 2, newer than layout 1" in old.logs()
    assert starts().container.exit_code is None
    assert later.get(timeout=PATIENCE) == 2
    assert len(stack.told_so_far("later")) == 1
    until(
        lambda: not stack.client.hlen("gpuqueue:2:{t4}:messages"),
        PATIENCE,
        "it has ended in the next layout",
    )
    assert stack.client.hlen("gpuqueue:2:{t4}:jobs") == 1


@LOCAL_ONLY
def test_a_running_dispatcher_leaves_on_a_layout_change_and_jobs_go_on(
    stack_factory: Callable[..., Stack],
) -> None:
    stack = stack_factory(CLOCKS)
    node = stack.dispatcher()
    job = stack.shop.hold.apply_async(("key",), queue="gpu.t4.shared")
    stack.told("key")
    stack.client.set(LAYOUT, "2")
    until(lambda: node.container.exit_code is not None, PATIENCE, "it leaves", node.logs)
    assert node.container.exit_code == EX_CONFIG
    stack.go("key")
    assert job.get(timeout=PATIENCE) == "key"
