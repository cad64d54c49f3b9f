"""Where the suites' tasks go on the side of GPU queues: for callers and for executors alike."""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue

QUEUE = "gpu.t4.shared"
#: Tests keep a worker busy with four tasks that sleep: more slots would run the fifth at once.
SLOTS = 4
#: Tells the pytest process and the application which side they are on.
SIDE = "CELERY_SUITE_SIDE"
GPU, PLAIN = "gpu", "plain"


def to_gpu(name: str, *_: Any, **__: Any) -> dict[str, Any] | None:
    """Route each task to the GPU queue, but the ping with which the suites start their worker.

    The route holds the queue itself: the suites reject an application that has more queues than
    ``celery``.
    """
    if name == "celery.ping":
        return None
    return {"queue": Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)}
