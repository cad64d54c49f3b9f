"""Celery's remote control: commands reach jobs that no worker holds.

The worker gets another mailbox, with other handlers. Celery's handlers of revokes ignore a task
that no worker holds, ask the result backend for each id in the loop of the worker, and write
REVOKED for a job that runs and shows no state yet.

Never here: the result backend, and the registry of commands that all workers of a process share.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from celery import bootsteps, signals
from celery.platforms import EX_OK
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control as CeleryControl
from celery.worker.control import Panel
from kombu.utils.functional import maybe_list

from gpuqueue.errors import GpuQueueError, shown
from gpuqueue.glue.messages.parse import LONGEST_STAMP, UNSIGNED
from gpuqueue.glue.worker import inspect, operations
from gpuqueue.glue.worker.commands import Commands
from gpuqueue.glue.worker.mailbox import ClassMailbox
from gpuqueue.model.signals import parse_signal
from gpuqueue.model.text import LONGEST_NAME, fits

logger = get_logger(__name__)
#: Seconds after which a dispatcher carries out a revoke that another one answers: that one may have
#: just died.
BEHIND = 1.0
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
    """A consumer step: gives this worker another mailbox, with its handlers."""

    requires = (CeleryControl,)
    name = "gpuqueue control"

    def create(self, c: Any) -> None:
        """Replace the mailbox, before it listens."""
        box = c.blueprint.steps[CeleryControl.name].box

        def dispatcher() -> Any:
            return c.controller.gpuqueue

        reading = inspect.commands(UNSIGNED)
        ours = {
            **reading,
            **operations.commands(_shut_down, lambda: dispatcher().watcher.beat_soon()),
            **_revokes(lambda: dispatcher().canceller),
        }
        per_class = {*reading, *operations.PER_CLASS}
        handlers = ChainMap(ours, Panel.data)
        box.node = ClassMailbox(box.node, handlers, per_class, set(reading), dispatcher)
        c.commands = Commands(box)


def _shut_down(state: Any) -> str:
    """Have Celery shut this worker down as on SIGTERM; return what ends."""
    signals.worker_shutting_down.send(
        sender=state.hostname, sig="remote control", how="Warm", exitcode=EX_OK
    )
    worker_state.should_stop = EX_OK
    classes = ", ".join(sorted(state.consumer.controller.gpuqueue.workers.classes))
    return (
        f"{state.hostname} (classes: {classes}) shuts down; running jobs continue, waiting jobs"
        " stay in line"
    )


def _revokes(cancelling: Callable[[], Cancelling]) -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the handlers of revokes. They answer what those of Celery answer."""

    def revoke(
        state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any
    ) -> dict[str, Any]:
        try:
            ids, name = _ids(task_id), parse_signal(signal)
        except GpuQueueError as exc:
            return _refused("revoke", str(exc))
        worker_state.revoked.update(ids)

        def cancel() -> dict[str, str]:
            return cancelling().cancel_all(ids, terminate=bool(terminate), signal=name)

        if not state.first:  # the one that answers shall know what it has ended
            state.consumer.timer.call_after(BEHIND, cancel)
            return {"ok": "another dispatcher answers"}
        outcomes = cancel()
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
