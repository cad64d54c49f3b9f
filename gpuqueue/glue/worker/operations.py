"""Celery's control commands, as a GPU class can follow them: its pool is its slots, its queues are
GPU queues, and its tasks are code of the applications. What it cannot follow it refuses, and says
how an operator gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.log import get_logger

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import GpuQueueError, InvalidJob, shown
from gpuqueue.model.names import CHOOSING, parse_queue

logger = get_logger(__name__)
_SLOTS = (
    "the pool of a GPU class is its slots; change the setting (T4_SHARED_SLOTS, T4_EXCLUSIVE_SLOTS,"
    " MIG_TOTAL_SLOTS, or the classes file) and restart its dispatchers"
)
_RESTART = (
    "a GPU class has no pool to restart: each job runs in a process that ends with it; `shutdown`"
    " ends its dispatchers, and jobs continue"
)
_RATE = (
    "a GPU class has no rate limits: its slots limit what runs; change slots, or send fewer tasks"
)
_TIME = (
    "a GPU class keeps no limits of tasks; set time_limit and soft_time_limit in the application,"
    " or with the message, e.g. gpu(time_limit=…)"
)
_EVENTS = (
    "task events stay on: executors send them with what they write anyway, and monitors count them"
)
#: Command → why no dispatcher follows it, and what to do.
REFUSED = {
    "pool_grow": _SLOTS,
    "pool_shrink": _SLOTS,
    "autoscale": _SLOTS,
    "pool_restart": _RESTART,
    "rate_limit": _RATE,
    "time_limit": _TIME,
    "disable_events": _EVENTS,
}
#: The commands that are carried out for each class by itself.
PER_CLASS = ("add_consumer", "cancel_consumer")


class InvalidQueue(GpuQueueError, ValueError):
    """A command names a queue that no worker of the class can consume."""


def commands(
    shut_down: Callable[[Any], str], beat: Callable[[], object]
) -> dict[str, Callable[..., Any]]:
    """Return the handlers.

    Args:
        shut_down: shuts the worker of a state down soon; returns what ends.
        beat: sends the heartbeats of the classes at once.
    """

    def add_consumer(
        state: Any,
        queue: Any,
        exchange: Any = None,
        exchange_type: Any = None,
        routing_key: Any = None,
        **_: Any,
    ) -> dict[str, str]:
        try:
            name = _queue(queue, state.classes)
            for field, value, only in (
                ("exchange", exchange, (None, "", name)),
                ("exchange_type", exchange_type, (None, "", "direct")),
                ("routing_key", routing_key, (None, "", name)),
            ):
                if value not in only:
                    raise InvalidQueue(
                        f"{field}={shown(value, 100)} of queue {name!r} is not that of a GPU"
                        " queue; leave it out"
                    )
        except GpuQueueError as exc:
            return _refused("add_consumer", str(exc))
        state.consumer.call_soon(
            state.consumer.add_task_queue, name, name, "direct", routing_key=name
        )
        return {"ok": f"add consumer {name}"}

    def cancel_consumer(state: Any, queue: Any, **_: Any) -> dict[str, str]:
        try:
            name = _queue(queue, state.classes)
        except GpuQueueError as exc:
            return _refused("cancel_consumer", str(exc))
        state.consumer.call_soon(state.consumer.cancel_task_queue, name)
        return {"ok": f"no longer consuming from {name}"}

    def shutdown(state: Any, **_: Any) -> dict[str, str]:
        what = shut_down(state)
        logger.warning("shutdown by remote control: %s", what, extra={"action": "shutdown"})
        return {"ok": what}

    def heartbeat(state: Any, **_: Any) -> None:
        beat()

    def enable_events(state: Any, **_: Any) -> dict[str, str]:
        return {"ok": "task events already enabled"}

    followed = (add_consumer, cancel_consumer, shutdown, heartbeat, enable_events)
    handlers: dict[str, Callable[..., Any]] = {each.__name__: each for each in followed}
    return handlers | {command: _refusing(command, why) for command, why in REFUSED.items()}


def _refusing(command: str, why: str) -> Callable[..., dict[str, str]]:
    def refuse(state: Any, **_: Any) -> dict[str, str]:
        return _refused(command, why)

    return refuse


def _queue(queue: object, classes: Mapping[str, GpuClass]) -> str:
    """Return the name of a queue that the classes can consume. Raises :class:`InvalidQueue`."""
    try:
        parsed = parse_queue(queue if isinstance(queue, str) else "")
    except InvalidJob:
        raise InvalidQueue(
            f"queue={shown(queue, 100)} is no GPU queue, and only the application's own workers can"
            " run its tasks; add it to one of those (destination=…)"
        ) from None
    gpu_classes = [name for name, each in classes.items() if each.has_gpu]
    if parsed.gpu_class not in (*CHOOSING, *gpu_classes):
        known = ", ".join(gpu_classes)
        raise InvalidQueue(
            f"queue={shown(queue, 100)} is of the class {parsed.gpu_class!r}, and this worker"
            f" serves {known}; name the worker of that class"
        )
    return str(parsed)


def _refused(command: str, problem: str) -> dict[str, str]:
    logger.warning("%s refused: %s", command, problem, extra={"action": "control_refused"})
    return {"error": problem}
