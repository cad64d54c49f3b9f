"""The command line on a Redis that no dispatcher has seen."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.command_line import run_command, running_command
from tests.support.dev_command import clean_env
from tests.support.waiting import until

pytestmark = pytest.mark.integration


def test_a_redis_that_no_dispatcher_has_seen(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        env = clean_env(CELERY_BROKER_URL=server.url)
        told = run_command(["status"], env=env)
        assert told.returncode == 0
        assert "no dispatcher has ever announced itself" in told.stdout
        cancelled = run_command(["cancel", "x"], env=env)
        assert cancelled.returncode == 2
        assert "cannot cancel" in cancelled.stderr
        waited = run_command(["run", "--timeout", "1", "x:1"], env=env)
        assert waited.returncode == 1
        assert "no dispatcher has ever announced itself" in waited.stderr
        assert "not ended within 1 s; the job continues" in waited.stderr
        assert "follow it with `gpuqueue logs -f" in waited.stderr
        with running_command(["run", "x:1"], env=env) as stopped:
            until(lambda: "gpuqueue: job " in stopped.stderr.readline())
            stopped.process.send_signal(signal.SIGINT)
            status, _, err = stopped.ended(30)
        assert "is not cancelled: no dispatcher has ever announced itself" in err
        assert status == 130
