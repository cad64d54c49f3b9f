"""What Celery makes of a task that rejects its message, or whose process is lost."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Reject

from gpuqueue.executor.redelivery import (
    STORES_FAILURE,
    if_lost,
    outcome_of,
    reason_of,
    reject,
    status_of,
)
from gpuqueue.glue.messages import message as messages
from gpuqueue.glue.results.events import Heard
from gpuqueue.model.reasons import EndReason
from tests.support.celery_series import needs_failed_rejects, needs_lost_retries

STORED: dict[str, Any] = {
    "headers": {"id": "j", "task": "rejects"},
    "body": "",
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "properties": {},
    "delivery_info": {"exchange": "", "routing_key": "gpu.t4"},
}


def run(*, requeue: bool, acks_late: bool) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """Run a task that rejects its message; return the events, and the state in the backend."""
    app = Celery("rejects", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="rejects", acks_late=acks_late, shared=False)  # type: ignore[untyped-decorator]
    def rejects() -> None:
        raise Reject("later", requeue=requeue)

    heard = Heard()
    request, context = messages.request(
        STORED, ([], {}, {}), app, hostname="w", eventer=heard, task=rejects
    )
    failed = build_tracer("rejects", rejects, app=app)("j", (), {}, context)[0]
    reject(request, rejects, failed)
    return heard.events, app.backend.get_state("j")


def test_a_message_that_is_delivered_again_has_no_result() -> None:
    assert run(requeue=True, acks_late=True) == ([("task-rejected", {"requeue": True})], "PENDING")


def test_a_message_that_was_acknowledged_cannot_be_delivered_again() -> None:
    assert run(requeue=True, acks_late=False) == ([], "PENDING")


@needs_failed_rejects
@pytest.mark.parametrize("acks_late", [True, False])
def test_a_message_that_is_not_delivered_again_fails(acks_late: bool) -> None:
    events, state = run(requeue=False, acks_late=acks_late)
    names = [name for name, _ in events]
    assert (names, state) == (["task-failed", "task-rejected"][: 1 + acks_late], "FAILURE")
    assert "reject requeue=False: later" in events[0][1]["exception"]


@pytest.mark.parametrize(
    ("requeue", "acks_late", "outcome"),
    [
        (True, True, EndReason.REQUEUED),
        (True, False, EndReason.IGNORED),
        (False, True, EndReason.ERROR if STORES_FAILURE else EndReason.IGNORED),
    ],
)
def test_the_outcome_is_what_celery_stores(
    requeue: bool, acks_late: bool, outcome: EndReason
) -> None:
    task: Any = type("Task", (), {"acks_late": acks_late})
    assert outcome_of(Reject("later", requeue=requeue), task) == outcome


def test_a_reason_of_any_length_is_kept() -> None:
    assert reason_of(Reject("later")) == "the task rejected its message: 'later'"
    assert len(reason_of(Reject("x" * 10_000))) <= 300


def task_with(**options: Any) -> Any:
    app = Celery("lost", broker="memory://", set_as_current=False)
    return app.task(name="lost", **options)(nothing)


def nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("options", "retries", "wanted"),
    [
        ({}, 0, None),
        ({"reject_on_worker_lost": True}, 0, None),  # the message was acknowledged
        ({"acks_late": True}, 0, None),
        ({"acks_late": True, "reject_on_worker_lost": True}, 7, "requeue"),
        pytest.param({"retry_on_worker_lost": True}, 2, "retry", marks=needs_lost_retries),
        ({"retry_on_worker_lost": True}, 3, None),  # the default of max_retries
        pytest.param(
            {"retry_on_worker_lost": True, "max_retries": None},
            *(99, "retry"),
            marks=needs_lost_retries,
        ),
        pytest.param(
            {"retry_on_worker_lost": True, "acks_late": True, "reject_on_worker_lost": True},
            *(3, None),
            marks=needs_lost_retries,
        ),
    ],
)
def test_a_task_says_what_a_lost_process_means(
    options: dict[str, Any], retries: int, wanted: str | None
) -> None:
    assert if_lost(task_with(**options), retries) == wanted


def test_the_settings_of_an_application_say_it_for_its_tasks() -> None:
    app = Celery("lost", broker="memory://", set_as_current=False)
    app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
    assert if_lost(app.task(name="lost")(nothing), 0) == "requeue"


@pytest.mark.parametrize(
    ("code", "status"),
    [(None, 1), (0, 1), (3, 3), ("text", 1), (75, 1), (77, 1), (-1, 1), (1000, 1), (143, 143)],
)
def test_a_task_that_exits_says_nothing_in_the_name_of_the_executor(
    code: object, status: int
) -> None:
    assert status_of(SystemExit(code)) == status
