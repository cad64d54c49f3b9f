"""Events of messages: one that a dispatcher has taken in, and one that it drops as known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.log import get_logger
from kombu.utils.json import dumps

from gpuqueue.model.names import worker_name

logger = get_logger(__name__)
#: The event of a message that was dropped, since its delivery is known. Not one of ``task-``: those
#: change the state that Flower shows.
KNOWN = "gpuqueue-known"


class MessageEvents:
    """Sends the events of messages, those of a batch together. For one thread; an event that cannot
    be sent delays no message.

    Args:
        make: makes Celery's event dispatcher, which buffers events of ``task-``.
        enabled: returns whether the worker sends events now.
    """

    def __init__(self, make: Callable[[], Any], enabled: Callable[[], bool]) -> None:
        self._make = make
        self._enabled = enabled
        self._eventer: Any = None

    def tell(self, outcome: str, gpu_class: str, headers: Mapping[str, Any]) -> None:
        """Send the event of a message, as the worker of a class; ``outcome`` is the answer of
        accept.
        """
        if not self._enabled():
            return
        kind, fields = _event(outcome, headers)
        try:
            dumps(fields)
        except (ValueError, TypeError, RecursionError) as exc:  # a header that no event can hold
            logger.warning("event not sent: %s", exc, extra={"action": "event_lost"})
            return

        def send(eventer: Any) -> None:
            eventer.hostname = worker_name(gpu_class)
            eventer.send(kind, **fields)

        self._try(send)

    def flush(self) -> None:
        """Send what is buffered."""
        if self._eventer is not None:
            self._try(lambda eventer: eventer.flush())

    def close(self) -> None:
        """Close the connection."""
        eventer, self._eventer = self._eventer, None
        if eventer is not None:
            try:
                eventer.close()
                eventer.connection.release()
            except Exception as exc:
                logger.debug("events not closed: %s", exc)

    def _try(self, send: Callable[[Any], object]) -> None:
        try:
            if self._eventer is None:
                self._eventer = self._make()
            send(self._eventer)
        except Exception as exc:  # of any transport
            logger.warning("event not sent: %s", exc, extra={"action": "event_lost"})
            self.close()


def _event(outcome: str, headers: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    task = {
        "uuid": headers["id"],
        "name": headers.get("shadow") or headers.get("task"),
        "retries": headers.get("retries") or 0,
    }
    if outcome == "known":
        return KNOWN, task
    return "task-received", {
        **task,
        "args": headers.get("argsrepr") or "",
        "kwargs": headers.get("kwargsrepr") or "",
        "root_id": headers.get("root_id"),
        "parent_id": headers.get("parent_id"),
        "eta": headers.get("eta"),
        "expires": headers.get("expires"),
    }
