"""States of jobs in Celery's result backend, on a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.task import Context
from kombu.exceptions import DecodeError
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.glue.results import running, states
from gpuqueue.glue.results.earlier import mark, state_of
from gpuqueue.glue.results.running import store_running_states, stored_before
from gpuqueue.glue.results.states import (
    LONGEST,
    Informing,
    ResultStates,
)
from gpuqueue.model.record import Record
from gpuqueue.model.states import DISPATCHED, QUEUED
from gpuqueue.store.passing import passes
from tests.support.waiting import until

pytestmark = pytest.mark.integration
RECORD: Record = {
    "id": "a",
    "task": "shop.train",
    "gpu_class": "t4",
    "isolation": "shared",
    "group": "g",
}
#: States that say more than QUEUED and DISPATCHED.
FURTHER = ("STARTED", "RETRY", "PROGRESS", "SUCCESS", "FAILURE", "REVOKED")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as made:
        yield made


def application(url: str, **settings: Any) -> Celery:
    made = Celery("states", broker=url, backend=url, set_as_current=False)
    made.conf.update(result_expires=400, **settings)
    return made


@pytest.fixture
def app(server: EmbeddedRedis) -> Iterator[Celery]:
    made = application(server.url)
    made.backend.client.flushdb()
    yield made
    made.close()


def store(app: Celery, state: str, **fields: Any) -> bool:
    """Store a state of job ``a`` as a dispatcher does."""
    record: Any = {**RECORD, **fields}
    (stored,) = ResultStates(app).store([Informing.of(record, state, {})])
    return stored


def put(app: Celery, state: str) -> None:
    """Store a state of job ``a`` as an application does."""
    value: Any = ValueError("no") if state in ("RETRY", "FAILURE", "REVOKED") else {"done": 3}
    app.backend.store_result("a", value, state)


def test_async_result_reads_a_written_state(app: Celery) -> None:
    assert store(app, DISPATCHED, attempt=2)
    result = app.AsyncResult("a")
    assert (result.state, result.info) == (
        "DISPATCHED",
        {"gpu_class": "t4", "isolation": "shared", "attempt": 2},
    )
    key = app.backend.get_key_for_task("a")
    assert 390 <= app.backend.client.ttl(key) <= 400


@pytest.mark.parametrize("known", FURTHER)
@pytest.mark.parametrize("state", [QUEUED, DISPATCHED])
def test_a_state_never_replaces_one_that_says_more(app: Celery, state: str, known: str) -> None:
    put(app, known)
    before = app.backend.client.get(app.backend.get_key_for_task("a"))
    assert not store(app, state)
    assert app.backend.client.get(app.backend.get_key_for_task("a")) == before


@pytest.mark.parametrize("known", ["PENDING", "RECEIVED", QUEUED, DISPATCHED])
@pytest.mark.parametrize("state", [QUEUED, DISPATCHED, "STARTED"])
def test_a_state_replaces_one_from_before_the_start(app: Celery, state: str, known: str) -> None:
    put(app, known)
    assert store(app, state)
    assert app.AsyncResult("a").state == state


@pytest.mark.parametrize("known", ["RETRY", "PROGRESS", "SUCCESS", "FAILURE", "REVOKED"])
def test_started_of_a_container_replaces_no_result(app: Celery, known: str) -> None:
    put(app, known)
    assert not store(app, "STARTED")
    assert app.AsyncResult("a").state == known


@pytest.mark.parametrize(
    "value",
    [b"", b"\x80\x04", b"[1]", b"3", b'{"status":3}', b'{"status":"QUEUED"', b"[" * 3000],
    ids=["empty", "bytes", "list", "number", "status", "half", "deep"],
)
def test_a_value_that_cannot_be_read_is_kept(app: Celery, value: bytes) -> None:
    key = app.backend.get_key_for_task("a")
    app.backend.client.set(key, value)
    assert store(app, DISPATCHED) is (value == b"")  # an empty value is none
    assert (app.backend.client.get(key) == value) is (value != b"")


def test_a_value_too_long_to_be_read_is_kept(app: Celery) -> None:
    app.backend.store_result("a", "x" * LONGEST, QUEUED)
    assert not store(app, DISPATCHED)
    assert app.AsyncResult("a").state == QUEUED


@pytest.mark.parametrize("known", [QUEUED, "SUCCESS"])
@pytest.mark.parametrize(
    "settings",
    [
        {"result_compression": "gzip"},
        {"result_serializer": "pickle", "result_accept_content": ["pickle"]},
    ],
    ids=["compressed", "pickled"],
)
def test_values_that_only_celery_reads_follow_the_same_rule(
    server: EmbeddedRedis, app: Celery, settings: dict[str, Any], known: str
) -> None:
    other = application(server.url, **settings)
    put(other, known)
    assert store(other, DISPATCHED) is (known == QUEUED)
    assert other.AsyncResult("a").state == (DISPATCHED if known == QUEUED else known)
    other.close()


def test_another_application_without_the_serializer_keeps_a_value(
    server: EmbeddedRedis, app: Celery
) -> None:
    other = application(
        server.url, result_serializer="pickle", result_accept_content=["pickle", "json"]
    )
    put(other, "SUCCESS")
    assert not store(app, DISPATCHED)
    assert other.AsyncResult("a").state == "SUCCESS"
    other.close()


def test_a_key_prefix_is_honoured(server: EmbeddedRedis, app: Celery) -> None:
    other = application(server.url, result_backend_transport_options={"global_keyprefix": "shop"})
    put(app, "SUCCESS")
    assert store(other, QUEUED)
    assert other.AsyncResult("a").state == QUEUED
    ResultStates(other).refresh([RECORD])
    put(other, "SUCCESS")
    assert not store(other, QUEUED)
    assert {key.decode() for key in app.backend.client.keys("*")} == {
        "celery-task-meta-a",
        "shop_celery-task-meta-a",
    }
    other.close()


def test_many_states_are_one_command(app: Celery) -> None:
    states = ResultStates(app)
    some = [Informing.of({**RECORD, "id": f"job-{n}"}, QUEUED, {}) for n in range(100)]
    states.store(some)
    before = app.backend.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    app.backend.store_result("job-7", 1, "SUCCESS")
    stored = states.store([Informing.of(each.record, DISPATCHED, {}) for each in some])
    assert stored == [n != 7 for n in range(100)]
    assert app.backend.client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


def test_other_backends_are_read_before_they_are_written(tmp_path: Path) -> None:
    app = Celery("files", broker="memory://", backend=f"file://{tmp_path}", set_as_current=False)
    assert store(app, QUEUED) and store(app, DISPATCHED)
    put(app, "SUCCESS")
    assert not store(app, DISPATCHED)
    assert app.AsyncResult("a").state == "SUCCESS"
    assert ResultStates(app).refresh_seconds is None
    app.close()


def test_headers_of_any_size_leave_a_short_state(app: Celery) -> None:
    app.conf.result_extended = True
    headers = {"group": "g" * 10_000, "stamps": {"a": ["b"] * 5000}, "stamped_headers": ["a"]}
    ResultStates(app).store([Informing.of(RECORD, QUEUED, headers)])
    assert app.backend.client.strlen(app.backend.get_key_for_task("a")) < LONGEST
    assert app.AsyncResult("a").state == QUEUED


# -- an executor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [*FURTHER, QUEUED, DISPATCHED])
def test_started_of_an_executor_replaces_all_but_a_success(app: Celery, known: str) -> None:
    put(app, known)
    store_running_states(app, passes)
    app.backend.store_result("a", {"pid": 1}, "STARTED", request=Context({"id": "a"}))
    assert app.AsyncResult("a").state == ("SUCCESS" if known == "SUCCESS" else "STARTED")


@pytest.mark.parametrize("started", [True, False], ids=["started", "no STARTED"])
@pytest.mark.parametrize("known", ["SUCCESS", "FAILURE", "RETRY", QUEUED, None])
@pytest.mark.parametrize("where", ["redis", "files"])
def test_a_result_from_before_a_task_is_known(
    app: Celery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    known: str | None,
    started: bool,
) -> None:
    monkeypatch.setattr(running, "_found", {})
    if where == "files":
        app.conf.result_backend = f"file://{tmp_path}"
        app._local.backend = app._get_backend()
    if known:
        put(app, known)
    before = mark(app.backend.get_task_meta("a", cache=False))
    store_running_states(app, passes)
    if started:
        app.backend.store_result("a", {"pid": 1}, "STARTED")
    stays = known == "SUCCESS" or (known == "FAILURE" and not started)
    found = stored_before(app, "a")
    assert bool(found) == stays
    assert found == (before if stays else "")
    record: Any = {**RECORD, "earlier": found}
    if stays:
        assert state_of(app, record) is None
    if known or started:
        app.backend.forget("a")
    put(app, "SUCCESS")
    assert state_of(app, record) == "SUCCESS", "the result of this run"


def test_started_of_an_executor_is_one_command(app: Celery) -> None:
    store_running_states(app, passes)
    app.backend.store_result("b", {"pid": 1}, "STARTED")
    app.backend.client.config_resetstat()
    app.backend.store_result("a", {"pid": 1}, "STARTED")
    assert app.AsyncResult("a").info == {"pid": 1}
    stats = app.backend.client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_multi" not in stats


def test_started_that_the_script_cannot_read_is_left_to_celery(
    server: EmbeddedRedis, app: Celery
) -> None:
    other = application(server.url, result_compression="gzip")
    put(other, "RETRY")
    store_running_states(other, passes)
    other.backend.store_result("a", {"pid": 1}, "STARTED")
    assert other.AsyncResult("a").state == "STARTED"
    other.close()


@pytest.mark.parametrize("state", [QUEUED, DISPATCHED])
def test_a_result_replaces_a_state_written_for_another_reader(
    server: EmbeddedRedis, app: Celery, state: str
) -> None:
    put(app, state)
    options: Any = {"result_serializer": "pickle", "accept_content": ["pickle"]}
    other = application(server.url, **options)
    store_running_states(other, passes)
    other.backend.mark_as_revoked("a", "in time", request=Context({"id": "a"}))
    assert other.AsyncResult("a").state == "REVOKED"
    app.backend.client.set(app.backend.get_key_for_task("a"), '{"status": "SUCCESS"}')
    with pytest.raises(DecodeError):
        other.backend.mark_as_revoked("a", "in time", request=Context({"id": "a"}))
    other.close()


def retry(app: Celery) -> None:
    """Store RETRY of job ``a`` as an executor does whose retry has been sent."""
    error, request = ValueError("later"), Context({"id": "a"})
    app.backend.mark_as_retry("a", error, traceback="the traceback", request=request)


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize("known", [*FURTHER, QUEUED, DISPATCHED, ""])
def test_retry_of_an_executor_replaces_all_but_a_result(
    server: EmbeddedRedis, app: Celery, known: str, compression: str
) -> None:
    other = application(server.url, **({"result_compression": compression} if compression else {}))
    if known:
        put(other, known)
    store_running_states(other, passes)
    retry(other)
    kept = known if known in ("SUCCESS", "FAILURE", "REVOKED") else "RETRY"
    result = other.AsyncResult("a")
    assert result.state == kept
    if kept == "RETRY":
        assert (result.traceback, repr(result.info)) == ("the traceback", "ValueError('later')")
        assert 390 <= app.backend.client.ttl(app.backend.get_key_for_task("a")) <= 400
    other.close()


@pytest.mark.parametrize("known", ["SUCCESS", "FAILURE"])
def test_retry_that_redis_refused_replaces_no_result_of_the_retry(
    app: Celery, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    """The message of a retry is sent first, so the retry can end while Redis takes no RETRY."""
    run, asked = states.ask, 0

    def late(backend: Any, some: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:  # between the look at the progress, and RETRY in its place
            put(app, known)
        return run(backend, some)

    put(app, "PROGRESS")
    store_running_states(app, passes)
    monkeypatch.setattr(running, "ask", late)
    retry(app)
    assert (app.AsyncResult("a").state, asked) == (known, 2)


@pytest.mark.parametrize("state", ["STARTED", "RETRY"])
def test_states_need_no_right_to_run_scripts(
    server: EmbeddedRedis, app: Celery, state: str
) -> None:
    admin = redis.Redis.from_url(server.url)
    rights = ("+@all", "-evalsha", "-eval", "-strlen")
    admin.acl_setuser("plain", enabled=True, passwords=["+plain"], keys=["*"], channels=["*"],
                      commands=list(rights))  # fmt: skip
    other = application(server.url.replace("redis://", "redis://plain:plain@"))
    store_running_states(other, passes)
    put(other, state)
    assert app.AsyncResult("a").state == state
    other.close()


# -- expiry --------------------------------------------------------------------------------------


def test_the_states_and_chords_of_long_jobs_are_kept_from_expiring(app: Celery) -> None:
    states, backend = ResultStates(app), app.backend
    store(app, QUEUED)
    backend.client.set(backend.get_key_for_group("g", ".s"), 3)
    keys = [backend.get_key_for_task("a"), backend.get_key_for_group("g", ".s")]
    for key in keys:
        backend.client.expire(key, 5)
    states.refresh(iter([RECORD] * 1001))
    assert all(backend.client.ttl(key) > 300 for key in keys)
    assert states.refresh_seconds == 100


@pytest.mark.parametrize(("expires", "least", "most"), [(900, 800, 900), (0, -1, -1)])
def test_chords_keep_the_expiry_of_chords(
    server: EmbeddedRedis, app: Celery, expires: int, least: int, most: int
) -> None:
    other = application(server.url, result_chord_expires=expires)
    key = other.backend.get_key_for_group("g", ".s")
    other.backend.set_chord_size("g", 3)
    ResultStates(other).refresh([RECORD])
    assert least <= other.backend.client.ttl(key) <= most
    other.close()


def test_states_that_do_not_expire_are_not_refreshed(app: Celery) -> None:
    other = Celery("other", broker=app.conf.broker_url, backend=app.conf.broker_url)
    other.conf.result_expires = None
    assert ResultStates(other).refresh_seconds is None
    other.close()


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EmbeddedRedis, Celery]]:
    """A result backend that is away, and the application of an executor."""
    monkeypatch.setattr(running, "EARLIEST", 0.1)
    server = EmbeddedRedis(tmp_path / "results")
    server.start()
    made = application(server.url)
    made.backend.client.flushdb()
    store_running_states(made, passes)
    server.stop()
    yield server, made
    made.close()
    server.stop()


def late() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "gpuqueue-started"]


def test_started_does_not_wait_for_an_absent_backend(away: tuple[EmbeddedRedis, Celery]) -> None:
    server, app = away
    app.backend.client.set_retry(Retry(ConstantBackoff(1), 60))  # the patience of an executor
    began = time.monotonic()
    app.backend.store_result("a", {"pid": 1}, "STARTED", request=Context({"id": "a"}))
    assert stored_before(app, "a") == "", "unknown"
    assert time.monotonic() - began < 20
    assert app.backend.client.get_retry()._retries == 60, "results must be as patient as before"
    server.start()
    until(lambda: app.AsyncResult("a").state == "STARTED")
    assert app.AsyncResult("a").info == {"pid": 1}
    until(lambda: not late())


@pytest.mark.parametrize("state", ["RETRY", "PROGRESS", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_late_started_replaces_nothing_that_says_more(
    away: tuple[EmbeddedRedis, Celery], state: str
) -> None:
    server, app = away
    app.backend.store_result("a", {"pid": 1}, "STARTED")
    server.start()
    put(app, state)
    until(lambda: not late())
    assert app.AsyncResult("a").state == state


def test_a_late_started_is_given_up_when_another_state_follows(
    away: tuple[EmbeddedRedis, Celery],
) -> None:
    server, app = away
    app.backend.store_result("a", {"pid": 1}, "STARTED")
    assert late()
    with suppress(Exception):  # it is away for this one, too
        app.backend.store_result("a", 1, "SUCCESS")
    until(lambda: not late())
    server.start()
    assert app.AsyncResult("a").state == "PENDING"


def test_started_of_a_repeat_replaces_only_what_it_has_read(app: Celery) -> None:
    """A command that the server takes late must not replace what this process has written since."""
    sent: list[Any] = []
    run = states.ask

    def delayed(backend: Any, asked: Any) -> Any:
        sent.append(asked)
        return [0] if len(sent) == 2 else run(backend, asked)

    put(app, "RETRY")
    store_running_states(app, passes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "ask", delayed)
        app.backend.store_result("a", {"pid": 1}, "STARTED")
    app.backend.store_result("a", ValueError("wrong"), "FAILURE")
    assert run(app.backend, sent[1]) == [0]
    assert app.AsyncResult("a").state == "FAILURE"
