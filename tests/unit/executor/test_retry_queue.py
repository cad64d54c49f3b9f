"""Whether the retry of a task comes back to its class: also of one that came from another class."""

from __future__ import annotations

import pytest
from celery import signals

from gpuqueue.executor.retry_queue import RetryQueue
from gpuqueue.model.record import Record


@pytest.mark.parametrize(
    ("queue", "escalated", "elsewhere"),
    [
        ("gpu.a100", None, False),
        ("gpu.auto", None, False),
        ("gpu.t4.shared", None, True),
        ("gpu.t4.shared", "t4 shared", False),
        ("gpu.l4", "t4 shared", True),
        ("celery", "t4 shared", True),
    ],
)
def test_a_retry_on_a_queue(queue: str, escalated: str | None, elsewhere: bool) -> None:
    record: Record = {"id": "a", "gpu_class": "a100", "isolation": "exclusive"}
    if escalated:
        record["escalated"] = escalated
    retry = RetryQueue(record)
    with retry.followed():
        headers = {"id": "a", "retries": 1}
        signals.after_task_publish.send(
            sender="t", headers=headers, body=(), exchange="", routing_key=queue
        )
    assert retry.is_elsewhere is elsewhere
