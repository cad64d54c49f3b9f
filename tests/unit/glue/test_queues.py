"""A dispatcher keeps no queue that a callback names."""

from __future__ import annotations

from celery import Celery
from kombu import Queue

APPLICATION = "gpuqueue.glue.worker.queues:DispatcherAMQP"


def test_a_queue_that_a_callback_names_is_used_and_not_kept() -> None:
    app = Celery("of-a-dispatcher", amqp=APPLICATION)
    app.conf.task_queues = [Queue("gpu.t4")]
    queues = app.amqp.queues
    queue = queues["of-a-sender"]
    assert (queue.name, queue.exchange.name, queue.routing_key) == ("of-a-sender",) * 3
    assert list(queues) == list(queues.consume_from) == ["gpu.t4"]


def test_a_chosen_queue_is_consumed_although_no_setting_names_it() -> None:
    app = Celery("of-a-dispatcher", amqp=APPLICATION)
    app.conf.task_queues = [Queue("gpu.t4")]
    app.amqp.queues.select(["gpu.t4.shared"])
    app.amqp.queues.select_add("gpu.auto")
    assert list(app.amqp.queues.consume_from) == ["gpu.t4.shared", "gpu.auto"]
