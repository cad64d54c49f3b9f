"""What dispatchers and Flower connect to Redis with."""

from __future__ import annotations

import json
import runpy
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from gpuqueue import gpu
from gpuqueue.model.names import ISOLATIONS

ADDRESSES = {
    "redis": "redis://:p@r.example:6379/0",
    "tls": "rediss://:p@r.example:6379/0?ssl_cert_reqs=required",
    "socket": "redis+socket:///run/redis.sock",
    "sentinel": "sentinel://:p@s.example:26379/0",
}


def configured(patch: pytest.MonkeyPatch, url: str, **options: Any) -> Celery:
    """Return an application with the configuration of a dispatcher of this broker."""
    if url.startswith("sentinel"):
        options["master_name"] = "mymaster"
    patch.setenv("CELERY_BROKER_URL", url)
    patch.delenv("CELERY_RESULT_BACKEND", raising=False)
    patch.setenv("GPUQUEUE_BROKER_TRANSPORT_OPTIONS", json.dumps(options) if options else "")
    app = Celery(set_as_current=False)
    found = runpy.run_module("gpuqueue.dispatcher.celeryconfig")
    app.config_from_object(SimpleNamespace(**found))
    return app


@pytest.mark.parametrize("kind", ADDRESSES)
def test_every_connection_to_the_broker_has_limits_and_is_checked(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = configured(monkeypatch, ADDRESSES[kind])
    options = app.conf.broker_transport_options
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (10, 5)
    assert (options["socket_keepalive"], options["health_check_interval"]) == (True, 25)
    assert len(options["socket_keepalive_options"]) == 3
    assert options["unacked_key"] == "gpuqueue.unacked"
    backend = app.backend.connparams
    # redis-py knows no keepalive of a Unix socket.
    assert backend.get("socket_keepalive") == (None if kind == "socket" else True)
    assert backend["health_check_interval"] == 30


def test_the_limits_of_the_operator_win(monkeypatch: pytest.MonkeyPatch) -> None:
    app = configured(
        monkeypatch, ADDRESSES["redis"], socket_timeout=60, visibility_timeout=1, x_example=1
    )
    options = app.conf.broker_transport_options
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (60, 5)
    # What the queue needs stays.
    assert options["visibility_timeout"] > 1
    assert options["x_example"] == 1


def test_no_message_waits_in_a_queue_that_no_dispatcher_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that a class has no slots for are refused, which their callers see."""
    monkeypatch.setenv("T4_SHARED_SLOTS", "0")
    monkeypatch.setenv("T4_EXCLUSIVE_SLOTS", "2")
    taken = {each.name for each in configured(monkeypatch, ADDRESSES["redis"]).conf.task_queues}
    assert {str(gpu("t4", isolation=each)["queue"]) for each in (None, *ISOLATIONS)} <= taken
    assert {"gpu.auto", "gpu.mig"} <= taken
