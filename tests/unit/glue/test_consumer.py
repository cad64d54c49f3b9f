"""The worker's consumer, and a broker that is away."""

from __future__ import annotations

import re
import runpy
from types import SimpleNamespace

import kombu.utils.functional
import pytest
from celery import Celery
from kombu import Connection

from gpuqueue.glue.worker.consumer import BETWEEN, Consumer


class EnoughTries(Exception):
    """The test has seen enough."""


def test_it_tries_to_connect_at_short_intervals_without_an_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages wait for the next try when the broker is back."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 200:
            raise EnoughTries

    monkeypatch.setattr(kombu.utils.functional, "sleep", sleep)
    consumer = Consumer.__new__(Consumer)
    with Celery(set_as_current=False) as consumer.app:
        found = runpy.run_module("gpuqueue.dispatcher.celeryconfig")
        consumer.app.config_from_object(SimpleNamespace(**found))
        consumer.first_connection_attempt, consumer.broker_connection_retry_attempt = True, 0
        with pytest.raises(EnoughTries), Connection("redis://127.0.0.1:1/0") as broker:
            consumer.ensure_connected(broker)
    told = [float(each) for each in re.findall(r"Trying again in ([\d.]+) seconds", caplog.text)]
    assert len(told) > 50 and max(told) == BETWEEN
