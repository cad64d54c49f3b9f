"""The doctor tells whether executors can read what an application sends."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gpuqueue.cli.checks.application import Application, begin, check, finish
from gpuqueue.cli.checks.check import Level
from tests.support.nodes import APPS

URL = "redis://127.0.0.1:1/0"
SEEN = Application(tasks=["shop.add"], broker_url=URL)


def said(seen: Application, cert_store: str | None = None) -> tuple[Level, str]:
    redis = SimpleNamespace(broker=URL)
    settings: Any = SimpleNamespace(cert_store=cert_store, redis=redis, execution_mode="local")
    [found] = check("shop", seen, settings)
    return found.level, f"{found.saw}; {found.fix}"


@pytest.mark.parametrize("form", ["msgpack", "yaml", "pickle", "mine"])
def test_an_application_that_accepts_what_it_sends_is_well(form: str) -> None:
    level, words = said(replace(SEEN, task_serializer=form))
    assert (level, words) == (Level.OK, f"shop: 1 tasks, messages in {form}; ")


def test_an_application_that_refuses_what_it_sends_is_told_the_fix() -> None:
    level, words = said(replace(SEEN, task_serializer="yaml", accepts_it=False))
    assert level is Level.FAIL
    assert "accept_content refuses what task_serializer='yaml' sends; add 'yaml' to" in words


@pytest.mark.parametrize("form", ["json", "pickle"])
def test_a_certificate_store_needs_an_application_that_signs(form: str) -> None:
    level, words = said(replace(SEEN, task_serializer=form), "/etc/keys")
    assert level is Level.FAIL
    assert "it does not sign messages" in words


@pytest.mark.parametrize(("also", "accepts"), [("[]", True), ('["no-such"]', False)])
def test_the_application_is_asked_what_it_accepts(also: str, accepts: bool) -> None:
    variables = {
        "CELERY_BROKER_URL": URL,
        "PARCELS_SERIALIZER": "tight",
        "PARCELS_ALSO": also,
        "PYTHONPATH": os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]),
    }
    seen = finish(begin("parcels", {**os.environ, **variables}), "parcels")
    assert (seen.error, seen.task_serializer, seen.accepts_it) == (None, "tight", accepts)
