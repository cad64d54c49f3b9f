"""The request class of an application: its hooks are called, and those of Celery do nothing."""

from __future__ import annotations

from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.exceptions import WorkerLostError
from celery.worker.request import Request

from gpuqueue.glue.messages import message as messages
from gpuqueue.glue.messages.request_class import tell
from gpuqueue.glue.results.events import Heard

STORED: dict[str, Any] = {
    "headers": {"id": "j", "task": "told"},
    "body": "",
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "properties": {},
    "delivery_info": {"exchange": "", "routing_key": "gpu.t4"},
}


class Telling(Request):  # type: ignore[misc]
    told: tuple[str, ...] = ()

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        self.told += ("on_failure",)
        super().on_failure(exc_info, send_failed_event, return_ok)


def lost() -> ExceptionInfo:
    try:
        raise WorkerLostError("gone")
    except WorkerLostError:
        return ExceptionInfo()


@pytest.mark.parametrize("here", [True, False], ids=["here", "on a worker"])
def test_super_in_a_hook_does_nothing_unlike_on_a_worker(here: bool) -> None:
    app = Celery("told", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.backend.client.cache.clear()

    @app.task(name="told", shared=False)  # type: ignore[untyped-decorator]
    def task() -> None:
        pass

    task.Request = Telling
    heard = Heard()
    if here:
        made: Any = messages.request(
            STORED, ([], {}, {}), app, hostname="w", eventer=heard, task=task
        )[0]
        tell(made, made.on_failure, lost())
    else:
        made = Telling(
            messages.unpack(STORED),
            app=app, hostname="w", eventer=heard, task=task, body=([], {}, {}), decoded=True,
        )  # fmt: skip
        made.on_failure(lost())
    assert made.told == ("on_failure",)
    assert app.backend.get_state("j") == ("PENDING" if here else "FAILURE")
    assert bool(heard.events) is not here
    app.close()
