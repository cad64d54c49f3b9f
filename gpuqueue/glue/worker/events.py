"""Events of messages: one that a dispatcher has taken in, and one that it drops as known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)
#: The event of a message that was dropped, since its delivery is known. Not one of ``task-``: those
#: change the state that Flower shows.
KNOWN = "gpuqueue-known"


def tell(eventer: Any, outcome: str, headers: Mapping[str, Any]) -> None:
    """Send the event of a message; ``outcome`` is the answer of accept."""
    task = {
        "uuid": headers["id"],
        "name": headers.get("shadow") or headers.get("task"),
        "retries": headers.get("retries") or 0,
    }
    try:
        if outcome == "known":
            eventer.send(KNOWN, **task)
            return
        eventer.send(
            "task-received",
            **task,
            args=headers.get("argsrepr") or "",
            kwargs=headers.get("kwargsrepr") or "",
            root_id=headers.get("root_id"),
            parent_id=headers.get("parent_id"),
            eta=headers.get("eta"),
            expires=headers.get("expires"),
        )
    except (ValueError, TypeError, RecursionError) as exc:  # a header that no event can hold
        logger.warning("event not sent: %s", exc, extra={"action": "event_lost"})
