"""Which queues the intake takes messages of: those that Celery lists, if they are GPU queues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery import Celery
from kombu import Queue

from gpuqueue.glue.worker.intake_step import Intake


def test_no_other_queue_is_taken_from_even_if_celery_lists_it() -> None:
    started: list[Any] = []
    app = Celery("of-a-dispatcher", amqp="gpuqueue.glue.worker.queues:DispatcherAMQP")
    app.conf.task_queues = [Queue("gpu.t4.shared")]
    listed = SimpleNamespace(queues=[], consuming_from=lambda name: name != "gpu.cancelled")
    consumer: Any = SimpleNamespace(
        app=app,
        task_consumer=listed,
        event_dispatcher=None,
        controller=SimpleNamespace(
            gpuqueue=SimpleNamespace(intake=SimpleNamespace(start=lambda *all: started.append(all)))
        ),
    )
    Intake(consumer).start(consumer)
    [(queues, _)] = started
    for name in ("gpu.t4.shared", "celery", "cpu", "gpu.auto", "gpu.cancelled"):
        listed.queues.append(app.amqp.queues.select_add(name))
    assert queues() == ["gpu.t4.shared", "gpu.auto"]
    consumer.task_consumer = None
    assert queues() == []
