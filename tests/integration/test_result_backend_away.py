"""Results in a Redis that goes away: jobs are accepted, and no result is lost or hidden."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from celery import Celery

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
#: Seconds of the outage: longer than all that is waited for in a dispatcher.
AWAY = 7.0
JOBS = 12


class Away:
    """A Redis for results that can stop, or hang."""

    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedRedis(directory / "results")
        self.server.start()

    @contextmanager
    def hangs(self) -> Iterator[None]:
        """It accepts connections, and does not answer."""
        process = psutil.Process(self.server.pid)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    @contextmanager
    def stops(self) -> Iterator[None]:
        """It refuses connections; its data come back."""
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    made = Away(tmp_path_factory.mktemp("results"))
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], results: Away
) -> Iterator[Stack]:
    env = {
        "CELERY_RESULT_BACKEND": results.server.url,
        "GPUQUEUE_FINISH_SECONDS": "2",
        "GPUQUEUE_REPAIR_SECONDS": "2",
    }
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("stack"), env, "bare")) as made:
        made.dispatcher()
        yield made


@pytest.fixture(scope="module")
def sender(stack: Stack) -> Iterator[Celery]:
    """A caller that asks for no result when it sends: its own backend would delay it."""
    with Celery("sender", broker=stack.url, backend="disabled://", set_as_current=False) as made:
        yield made


@pytest.fixture(scope="module")
def reader(results: Away) -> Iterator[Celery]:
    """A caller that reads results."""
    with Celery("reader", backend=results.server.url, set_as_current=False) as made:
        yield made


@pytest.mark.parametrize("kind", ["hangs", "stops"])
def test_jobs_are_accepted_and_no_result_is_lost(
    stack: Stack, results: Away, sender: Celery, reader: Celery, kind: str
) -> None:
    with getattr(results, kind)():
        began = time.monotonic()
        jobs = [sender.send_task("bare.where", queue="gpu.t4.shared").id for _ in range(JOBS)]
        until(lambda: all(stack.record(job) for job in jobs), PATIENCE, "all jobs are accepted")
        cancelled = jobs[-4:]
        unknown = [uuid.uuid4().hex for _ in range(10)]
        assert sender.control.revoke(unknown + cancelled, reply=True, timeout=20, limit=1)
        assert sender.control.ping(timeout=20, limit=1), "the loop asks no backend"
        for job in cancelled:
            stack.in_state(job, "finishing")
        until(lambda: time.monotonic() - began > AWAY, AWAY + 1)
    wanted = {job: "REVOKED" if job in cancelled else "SUCCESS" for job in jobs}

    def shown() -> dict[str, str]:
        return {job: reader.AsyncResult(job).state for job in jobs}

    until(lambda: shown() == wanted, 60, "every result is stored", lambda: str(shown()))
    for job in jobs:
        stack.in_state(job, "ended")
    stack.idle()
    assert shown() == wanted, "no late state has hidden a result"
