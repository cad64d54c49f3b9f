"""Celery's remote control: revokes reach jobs that no worker holds.

The worker's mailbox gets other handlers of these commands. Celery's handlers ignore a task that no
worker holds, ask the result backend for each id in the loop of the worker, and write REVOKED for a
job that runs and shows no state yet.

Never here: the result backend, and the registry of commands that all workers of a process share.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control as CeleryControl
from celery.worker.control import Panel
from kombu.utils.functional import maybe_list

from gpuqueue.errors import GpuQueueError, shown
from gpuqueue.glue.messages.parse import LONGEST_STAMP
from gpuqueue.model.signals import parse_signal
from gpuqueue.model.text import LONGEST_NAME, fits

logger = get_logger(__name__)
#: Outcomes of jobs that a revoke with ``terminate`` names in its answer, as Celery names the tasks
#: that it terminates.
_TERMINATED = ("cancelled", "stopping", "finishing", "queued")


class InvalidRevoke(GpuQueueError, ValueError):
    """A revoke names no task ids, or no stamps."""


class Cancelling(Protocol):
    """Cancels jobs. Its callers wait for half a second at most."""

    def cancel_all(self, job_ids: Sequence[str], *, terminate: bool, signal: str) -> dict[str, str]:
        """Cancel jobs; return id → outcome."""
        ...

    def cancel_by_stamps(
        self, stamps: dict[str, list[str]], *, terminate: bool, signal: str
    ) -> bool:
        """Begin to cancel the jobs with any of these stamps, now and later. False: too many revokes
        wait.
        """
        ...


class Control(bootsteps.Step):
    """A consumer step: puts the handlers into the mailbox of this worker."""

    requires = (CeleryControl,)
    name = "gpuqueue control"

    def create(self, c: Any) -> None:
        """Replace the handlers, before the mailbox listens."""
        celery_control = c.blueprint.steps[CeleryControl.name]
        ours = _handlers(lambda: c.controller.gpuqueue.canceller)
        celery_control.box.node.handlers = ChainMap(ours, Panel.data)


def _handlers(cancelling: Callable[[], Cancelling]) -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the handlers. They answer what those of Celery answer."""

    def revoke(
        state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any
    ) -> dict[str, Any]:
        try:
            ids, name = _ids(task_id), parse_signal(signal)
        except GpuQueueError as exc:
            return _refused("revoke", str(exc))
        worker_state.revoked.update(ids)
        outcomes = cancelling().cancel_all(ids, terminate=bool(terminate), signal=name)
        logger.info("tasks flagged as revoked: %d", len(ids), extra={"action": "revoked"})
        if failed := [each for each, outcome in outcomes.items() if outcome == "failed"]:
            return _refused("revoke", f"tasks {shown(failed, 200)} are not revoked; see the log")
        if not terminate:
            return {"ok": f"tasks {set(ids)} flagged as revoked"}
        known = [each for each, outcome in outcomes.items() if outcome in _TERMINATED]
        return {"ok": f"terminate: {', '.join(known) or 'tasks unknown'}"}

    def terminate(state: Any, signal: Any, task_id: Any, **_: Any) -> dict[str, Any]:
        return revoke(state, task_id, True, signal)

    def revoke_by_stamped_headers(
        state: Any, headers: Any, terminate: bool = False, signal: Any = None, **_: Any
    ) -> dict[str, Any]:
        command = "revoke_by_stamped_headers"
        try:
            stamps, name = _stamps(headers), parse_signal(signal)
        except GpuQueueError as exc:
            return _refused(command, str(exc))
        if not cancelling().cancel_by_stamps(stamps, terminate=bool(terminate), signal=name):
            return _refused(command, "too many revokes wait for Redis; send it again later")
        end = "their running jobs are terminated" if terminate else "but not terminated"
        return {"ok": f"headers {stamps} flagged as revoked, {end}"}

    return {each.__name__: each for each in (revoke, terminate, revoke_by_stamped_headers)}


def _ids(task_id: Any) -> list[str]:
    """Parse the ids of a revoke: a text, or a list of texts. Raises :class:`InvalidRevoke`."""
    ids = [task_id] if isinstance(task_id, str) else task_id
    if not isinstance(ids, list | tuple):
        raise InvalidRevoke(
            f"task_id={shown(task_id, 100)} is no task id; use one id, or a list of ids"
        )
    for each in ids:
        if not fits(each):
            raise InvalidRevoke(
                f"task_id={shown(each, 100)} is no task id; use a text of up to {LONGEST_NAME}"
                " characters"
            )
    return list(dict.fromkeys(ids))


def _stamps(headers: Any) -> dict[str, list[str]]:
    """Parse the stamps of a revoke: a mapping, or texts ``header=value``. Raises
    :class:`InvalidRevoke`.
    """
    wrong = InvalidRevoke(f"headers={shown(headers, 100)} are no stamps; use header=value")
    if isinstance(headers, str):
        headers = [headers]
    if isinstance(headers, list | tuple):
        pairs = [str(each).partition("=") for each in headers]
        if not all(equals for _, equals, _ in pairs):
            raise wrong
        headers = {header: value for header, _, value in pairs}
    if not isinstance(headers, Mapping):
        raise wrong
    stamps = {
        str(key): [str(value) for value in maybe_list(values) or []]
        for key, values in headers.items()
    }
    for key, values in stamps.items():
        for value in values:
            if not fits(f"{key}={value}", LONGEST_STAMP):
                raise wrong
    return stamps


def _refused(command: str, problem: str) -> dict[str, Any]:
    """Answer a revoke that is refused."""
    logger.warning("%s refused: %s", command, problem, extra={"action": "control_refused"})
    return {"error": problem}
