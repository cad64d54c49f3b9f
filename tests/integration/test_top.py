"""`gpuqueue top` in a terminal while Redis goes and comes, and what its frames cost there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.dev_command import CLI, clean_env
from tests.support.terminal import RESTORED, Terminal
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
NEVER = "no dispatcher has ever announced itself"


def test_top_goes_on_while_redis_is_away_and_follows_it_again(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis").start()
    try:
        env = clean_env(CELERY_BROKER_URL=server.url)
        server.stop()  # its port stays known
        with Terminal([*CLI, "top", "--interval", "0.2"], env) as terminal:
            until(lambda: terminal.shows("cannot be used"))
            server.start()
            until(lambda: terminal.shows(NEVER) and not terminal.shows("cannot be"))
            server.stop()
            until(lambda: terminal.shows("below is the state of") and terminal.shows(NEVER))
            server.start()
            until(lambda: not terminal.shows("below is the state of"))
            terminal.type("\x03")
            assert terminal.process.wait(PATIENCE) == 0
            assert terminal.settings == terminal.before
            assert terminal.output.endswith(RESTORED)
    finally:
        server.stop()


def test_a_wrong_setting_ends_top_with_its_error_on_a_clean_terminal() -> None:
    with Terminal([*CLI, "top"], clean_env(T4_SHARED_SLOTS="many")) as terminal:
        assert terminal.process.wait(PATIENCE) == 2
        assert terminal.settings == terminal.before
        until(lambda: "T4_SHARED_SLOTS='many'" in terminal.output.rpartition(RESTORED)[2])


@pytest.mark.parametrize("end", [signal.SIGTERM, "q"])
def test_top_ends_at_once_while_redis_does_not_answer(tmp_path: Path, end: Any) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        env = clean_env(CELERY_BROKER_URL=server.url)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with Terminal([*CLI, "top"], env) as terminal:
                until(lambda: terminal.shows("reading ..."))
                if end == "q":
                    until(lambda: terminal.shows("Redis has not answered for"))
                    terminal.type(end)
                else:
                    terminal.send(end)
                assert terminal.process.wait(8) == 0
                assert terminal.settings == terminal.before
        finally:
            os.kill(server.pid, signal.SIGCONT)
