"""Celery's remote control: revokes reach jobs that no worker holds.

A second mailbox node listens beside the worker's, because Celery's handlers ignore a task that no
worker holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from celery import bootsteps
from celery.utils.log import get_logger
from kombu.common import ignore_errors
from kombu.utils.functional import maybe_list

from gpuqueue.errors import InvalidSignal, shown
from gpuqueue.model.signals import parse_signal

logger = get_logger(__name__)


class Cancelling(Protocol):
    """Cancels jobs."""

    def cancel_all(self, job_ids: Sequence[str], *, terminate: bool, signal: str) -> dict[str, str]:
        """Cancel jobs; return id → outcome."""
        ...

    def cancel_by_stamps(
        self, stamps: dict[str, list[str]], *, terminate: bool, signal: str
    ) -> None:
        """Begin to cancel the jobs with any of these stamps, now and later."""
        ...


class Control(bootsteps.StartStopStep):
    """A consumer step: it starts again with each connection, like Celery's mailbox."""

    requires = ("celery.worker.consumer.control:Control",)
    name = "gpuqueue control"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._consumer: Any = None

    def start(self, c: Any) -> None:
        """Listen."""
        cancelling: Cancelling = c.controller.gpuqueue.canceller
        node = c.app.control.mailbox.Node(
            f"gpuqueue.{c.hostname}",
            handlers=_handlers(cancelling),
            state={"hostname": c.hostname},
            channel=c.connection.channel(),
        )

        def on_message(body: Any, message: Any) -> None:
            c.app.clock.forward()
            if not isinstance(body, Mapping) or body.get("method") not in node.handlers:
                # The worker's mailbox replies. Here kombu would log an error, and send it as a
                # second reply.
                return
            try:
                node.handle_message(body, message)
            except Exception:
                logger.exception("remote control failed", extra={"action": "control_failed"})

        self._consumer = node.listen(callback=on_message)
        self._consumer.on_decode_error = c.on_decode_error

    def stop(self, c: Any) -> None:
        """Stop listening."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            ignore_errors(c, consumer.cancel)
            if consumer.channel is not None:
                ignore_errors(c, consumer.channel.close)

    shutdown = stop


def _handlers(cancelling: Cancelling) -> Mapping[str, Any]:
    def revoke(
        state: Any, task_id: Any = None, terminate: bool = False, signal: Any = None, **_: Any
    ) -> dict[str, Any]:
        ids = [str(each) for each in maybe_list(task_id) or []]
        try:
            name = parse_signal(signal)
        except InvalidSignal as exc:
            return _refused("revoke", exc)
        return {"ok": cancelling.cancel_all(ids, terminate=bool(terminate), signal=name)}

    def terminate(state: Any, signal: Any = None, task_id: Any = None, **_: Any) -> dict[str, Any]:
        return revoke(state, task_id, True, signal)

    def revoke_by_stamped_headers(
        state: Any, headers: Any = None, terminate: bool = False, signal: Any = None, **_: Any
    ) -> dict[str, Any]:
        try:
            stamps, name = _stamps(headers), parse_signal(signal)
        except (InvalidSignal, ValueError) as exc:
            return _refused("revoke_by_stamped_headers", exc)
        cancelling.cancel_by_stamps(stamps, terminate=bool(terminate), signal=name)
        return {"ok": "jobs with these stamps are cancelled in the background"}

    return {each.__name__: each for each in (revoke, terminate, revoke_by_stamped_headers)}


def _stamps(headers: Any) -> dict[str, list[str]]:
    """Parse the stamps of a revoke: a mapping, or texts ``header=value``. Raises ValueError."""
    if isinstance(headers, str):
        headers = [headers]
    if isinstance(headers, list | tuple):
        pairs = [str(each).partition("=") for each in headers]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"headers={shown(headers, 100)} are no stamps; use header=value")
        headers = {header: value for header, _, value in pairs}
    if not isinstance(headers or {}, Mapping):
        raise ValueError(f"headers={shown(headers, 100)} are no stamps; use header=value")
    return {
        str(key): [str(value) for value in maybe_list(values) or []]
        for key, values in (headers or {}).items()
    }


def _refused(method: str, exc: Exception) -> dict[str, Any]:
    """Answer a revoke that names no signal, or no stamps. It changes nothing."""
    logger.warning("%s refused: %s", method, exc, extra={"action": "control_refused"})
    return {"error": str(exc)}
