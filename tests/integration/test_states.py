"""States of jobs in Celery's result backend, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.glue.results.states import ResultStates
from gpuqueue.model.record import Record

pytestmark = pytest.mark.integration
RECORD: Record = {
    "id": "a",
    "task": "shop.train",
    "gpu_class": "t4",
    "isolation": "shared",
    "group": "g",
}


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    with EmbeddedRedis() as server:
        made = Celery("states", broker=server.url, backend=server.url)
        made.conf.result_expires = 400
        yield made
        made.close()


def test_async_result_reads_a_written_state(app: Celery) -> None:
    ResultStates(app).store({**RECORD, "attempt": 2}, "DISPATCHED", None)
    result = app.AsyncResult("a")
    assert (result.state, result.info) == (
        "DISPATCHED",
        {"gpu_class": "t4", "isolation": "shared", "attempt": 2},
    )


def test_the_states_and_chords_of_long_jobs_are_kept_from_expiring(app: Celery) -> None:
    states, backend = ResultStates(app), app.backend
    states.store(RECORD, "QUEUED", None)
    backend.client.set(backend.get_key_for_group("g", ".s"), 3)
    keys = [backend.get_key_for_task("a"), backend.get_key_for_group("g", ".s")]
    for key in keys:
        backend.client.expire(key, 5)
    states.refresh(iter([RECORD] * 1001))
    assert all(backend.client.ttl(key) > 300 for key in keys)
    assert states.refresh_seconds == 100


def test_states_that_do_not_expire_are_not_refreshed(app: Celery) -> None:
    other = Celery("other", broker=app.conf.broker_url, backend=app.conf.broker_url)
    other.conf.result_expires = None
    assert ResultStates(other).refresh_seconds is None
    other.close()
