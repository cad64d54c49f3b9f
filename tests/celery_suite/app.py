"""The application of the dispatcher: the suites' tasks, with the settings of their conftest."""

from __future__ import annotations

import os

from celery.contrib.testing.app import TestApp
from kombu import Queue

from tests.celery_suite.routes import QUEUE, to_gpu

app = TestApp(
    "celery.tests",
    config={
        "broker_url": os.environ["CELERY_BROKER_URL"],
        "result_backend": os.environ["CELERY_BROKER_URL"],
        "result_extended": True,
        # A retry names its queue: as on a worker, the application must know it.
        "task_queues": [Queue("celery"), Queue(QUEUE)],
        "task_create_missing_queues": False,
        "task_routes": (to_gpu,),
    },
    enable_logging=True,
    set_as_current=True,
)
tasks = app.loader.import_task_module("t.integration.tasks")
app.register_task(tasks.ClassBasedAutoRetryTask)
