"""Makes the messages of a schedule, as Celery sends them, before the first of them is sent: a test
can then send each at its time, again, or late.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery, chain, chord
from kombu.transport.redis import Channel
from kombu.utils.json import dumps

import gpuqueue
from tests.chaos.plan import CONTAINER, Sent
from tests.support.launching import IMAGE

#: Seconds before which nothing that is late starts, and by which clocks may differ.
EARLY = 0.1


@dataclass(frozen=True)
class Expected:
    """One task id of a schedule: what the checker expects of it."""

    id: str
    kind: str
    value: Any = None
    #: ids without whose success this one does not start
    needs: tuple[str, ...] = ()
    #: whether it gets a result also without them (the body of a chord)
    always: bool = True


@dataclass
class Made:
    """A job and its messages as (queue, envelope)."""

    sent: Sent
    envelopes: list[tuple[str, str]]
    expected: list[Expected]
    #: seconds of the monotonic clock before which it must not start
    not_before: float = 0.0


class Maker:
    """``prefix`` makes the ids of a schedule unique."""

    def __init__(self, url: str, prefix: str) -> None:
        self._app = Celery("sender", broker=url, backend=url, set_as_current=False)
        # The checker reads results by itself: no result here waits, or subscribes.
        self._app.backend.on_task_call = lambda *_: None
        self._app.backend.remove_pending_result = lambda result: result
        self._prefix = prefix

    def close(self) -> None:
        self._app.close()

    def make(self, sent: Sent) -> Made:
        """Make the messages of one job. Times count from now."""
        with _caught() as envelopes:
            expected = getattr(self, f"_{sent.kind}")(sent)
        wait = sent.at + sent.after if sent.kind == "late" else 0.0
        return Made(sent, envelopes, expected, time.monotonic() + wait - EARLY if wait else 0.0)

    def _id(self, sent: Sent, part: str = "") -> str:
        return f"{self._prefix}-{sent.number}{sent.kind}{part}"

    def _task(self, sent: Sent, name: str, *args: Any, part: str = "", **more: Any) -> Any:
        signature = self._app.signature(f"chaosshop.{name}", (*args, sent.seconds), **more)
        return signature.set(task_id=self._id(sent, part), queue=sent.queue)

    def _send(self, sent: Sent, name: str, value: Any, **options: Any) -> list[Expected]:
        self._task(sent, name, sent.number).apply_async(**options)
        return [Expected(self._id(sent), sent.kind, value)]

    def _plain(self, sent: Sent) -> list[Expected]:
        return self._send(sent, "work", 2 * sent.number)

    _exclusive = _cancelled = _plain

    def _late(self, sent: Sent) -> list[Expected]:
        return self._send(sent, "work", 2 * sent.number, countdown=sent.at + sent.after)

    def _expiring(self, sent: Sent) -> list[Expected]:
        return self._send(sent, "work", 2 * sent.number, expires=sent.at + sent.after)

    def _retrying(self, sent: Sent) -> list[Expected]:
        return self._send(sent, "again", 2 * sent.number)

    def _failing(self, sent: Sent) -> list[Expected]:
        errback = self._app.signature("chaosshop.errback", queue="gpu.t4.shared")
        return self._send(sent, "fail", f"as asked: {sent.number}", link_error=errback)

    def _chain(self, sent: Sent) -> list[Expected]:
        first = self._task(sent, "work", sent.number, part="a")
        second = self._task(sent, "follow", part="b")
        chain(first, second, app=self._app).apply_async()
        one, two = first.options["task_id"], second.options["task_id"]
        return [
            Expected(one, sent.kind, 2 * sent.number),
            Expected(two, sent.kind, 2 * sent.number + 1, (one,), always=False),
        ]

    def _chord(self, sent: Sent) -> list[Expected]:
        header = [self._task(sent, "work", sent.number, part=part) for part in "ab"]
        body = self._task(sent, "total", part="z")
        chord(header, body, app=self._app).apply_async()
        ids = [each.options["task_id"] for each in header]
        parts = [Expected(each, sent.kind, 2 * sent.number) for each in ids]
        whole = Expected(body.options["task_id"], "chord", 4 * sent.number, tuple(ids))
        return [*parts, whole]

    def _container(self, sent: Sent) -> list[Expected]:
        script = f"import time; time.sleep({sent.seconds}); print('done')"
        job = gpuqueue.run(IMAGE, ["python", "-c", script], app=self._app)
        job.set(task_id=self._id(sent), queue=sent.queue).apply_async()
        return [Expected(self._id(sent), CONTAINER)]


@contextmanager
def _caught() -> Iterator[list[tuple[str, str]]]:
    """Keep what kombu would push to a list, in this process."""
    caught: list[tuple[str, str]] = []
    put = Channel._put

    def keep(channel: Channel, queue: str, message: Any, **more: Any) -> None:
        priority = channel._get_message_priority(message, reverse=False)
        caught.append((channel._q_for_pri(queue, priority), dumps(message)))

    Channel._put = keep
    try:
        yield caught
    finally:
        Channel._put = put
