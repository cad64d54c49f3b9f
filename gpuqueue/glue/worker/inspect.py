"""Celery's inspect commands, answered from the records of the queue: a dispatcher itself holds no
task. The answers have a bounded size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from celery.worker import state as worker_state
from kombu.utils.functional import maybe_list

from gpuqueue.errors import GpuQueueError, MalformedMessage, shown
from gpuqueue.glue.messages.bodies import Bodies
from gpuqueue.glue.messages.message import payload
from gpuqueue.model.names import CHOOSING, ISOLATIONS, QueueName, parse_queue, worker_name
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, JobState
from gpuqueue.model.text import fits

#: Ids of one query, and revoked ids in one answer.
MOST_IDS, MOST_REVOKED = 100, 1000
#: Characters of arguments that are shown as their sender wrote them down.
LONGEST = 1024
_HOLDING = (JobState.LAUNCHING, JobState.RUNNING, JobState.REPORTING)
#: In place of arguments that are too long, or cannot be read.
LEFT_OUT = "..."


class InvalidQuery(GpuQueueError, ValueError):
    """A query names no task ids, or too many."""


class Listed(Protocol):
    """A job with its message, if that is small. ``at``: the time by which it is listed."""

    @property
    def record(self) -> Record: ...
    @property
    def message(self) -> Mapping[str, Any] | None: ...
    @property
    def at(self) -> float: ...


class Counted(Protocol):
    """Attempts of a class that hold a slot, or have held one, by isolation."""

    @property
    def begun(self) -> Mapping[str, int]: ...


class Jobs(Protocol):
    """The jobs of a class. Each list is bounded."""

    def running(self, gpu_class: str) -> Sequence[Listed]:
        """Return the jobs that hold a slot."""
        ...

    def waiting(self, gpu_class: str) -> Sequence[Listed]:
        """Return the first jobs in line."""
        ...

    def delayed(self, gpu_class: str) -> Sequence[Listed]:
        """Return the jobs that may start later, and when."""
        ...

    def of(self, gpu_class: str, job_ids: Sequence[str]) -> Sequence[Listed]:
        """Return jobs by their ids."""
        ...

    def revoked(self, gpu_class: str) -> Sequence[str]:
        """Return ids that were revoked before their job came."""
        ...

    def tasks(self, gpu_class: str) -> Collection[str]:
        """Return the tasks of the jobs that run or wait."""
        ...

    def slots(self, gpu_class: str) -> Sequence[str]:
        """Return the names that hold a slot."""
        ...

    def queues(self) -> Sequence[str]:
        """Return the GPU queues whose messages any dispatcher takes."""
        ...

    def activity(self, gpu_class: str) -> Counted:
        """Return how much the class does and has done."""
        ...


def commands(bodies: Bodies) -> dict[str, Callable[..., Any]]:
    """Return the handlers that read the records of the classes in ``state.classes``."""

    def listed(state: Any, find: Callable[[Jobs, str], Sequence[Listed]]) -> list[Listed]:
        return [each for name in state.classes for each in find(state.jobs, name)]

    def active(state: Any, safe: bool = False, **_: Any) -> list[dict[str, Any]]:
        return [
            _info(each, bodies, safe=safe)
            for each in listed(state, lambda jobs, name: jobs.running(name))
        ]

    def reserved(state: Any, **_: Any) -> list[dict[str, Any]]:
        return [
            _info(each, bodies) for each in listed(state, lambda jobs, name: jobs.waiting(name))
        ]

    def scheduled(state: Any, **_: Any) -> list[dict[str, Any]]:
        return [
            {
                "eta": datetime.fromtimestamp(each.at, UTC).isoformat(),
                "priority": each.record.get("priority", 0),
                "request": _info(each, bodies),
            }
            for each in listed(state, lambda jobs, name: jobs.delayed(name))
        ]

    def query_task(state: Any, ids: Any = None, **_: Any) -> dict[str, Any]:
        try:
            wanted = _ids(ids)
        except InvalidQuery as exc:
            return {"error": str(exc)}
        found = listed(state, lambda jobs, name: jobs.of(name, wanted))
        return {each.record["id"]: [_state(each.record), _info(each, bodies)] for each in found}

    def revoked(state: Any, **_: Any) -> list[str]:
        here = list(worker_state.revoked)
        in_redis = [each for name in state.classes for each in state.jobs.revoked(name)]
        return list(dict.fromkeys([*in_redis, *here]))[-MOST_REVOKED:]

    def registered(state: Any, **_: Any) -> list[str]:
        return sorted({task for name in state.classes for task in state.jobs.tasks(name)})

    def stats(state: Any, **_: Any) -> dict[str, Any]:
        return _stats(state)

    def active_queues(state: Any, **_: Any) -> list[dict[str, Any]]:
        known = state.app.amqp.queues
        of_any = (*CHOOSING, *state.classes)
        names = [each for each in state.jobs.queues() if parse_queue(each).gpu_class in of_any]
        return [dict(known[name].as_dict(recurse=True)) for name in names]

    found = (active, reserved, scheduled, query_task, revoked, registered, stats, active_queues)
    handlers: dict[str, Callable[..., Any]] = {each.__name__: each for each in found}
    aliases = {
        "dump_active": active,
        "dump_reserved": reserved,
        "dump_schedule": scheduled,
        "dump_revoked": revoked,
        "dump_tasks": registered,
    }
    return handlers | aliases


def _stats(state: Any) -> dict[str, Any]:
    """Return what Celery's workers tell, with the slots as the pool."""
    total: dict[str, int] = {}
    processes: list[str] = []
    concurrency = 0
    slots = dict.fromkeys(ISOLATIONS, 0)
    for name, gpu_class in state.classes.items():
        begun, own = state.jobs.activity(name).begun, state.jobs.slots_of(gpu_class)
        for isolation in ISOLATIONS:
            slots[isolation] += own[isolation]
            if gpu_class.slots(isolation) or begun[isolation]:
                queue = QueueName(name, isolation if gpu_class.has_sharing else None)
                total[str(queue)] = begun[isolation]
        # One entry a slot: some monitors count them. Shared and exclusive jobs never run together.
        most = max(own.values())
        used = list(state.jobs.slots(name))
        processes += used + ["free"] * (most - len(used))
        concurrency += most
    return {
        **state.consumer.controller.stats(),
        "total": total,
        "pool": {
            "implementation": "gpuqueue",
            "max-concurrency": concurrency,
            "processes": processes,
            **{f"{isolation}-slots": number for isolation, number in slots.items()},
        },
        "dispatcher": state.consumer.hostname,
    }


def _state(record: Record) -> str:
    """Return where a job stands, in Celery's words."""
    if record["state"] == JobState.DELAYED:
        return "scheduled"
    if record["state"] in BEFORE_SLOT:
        return "reserved"
    return "active" if record["state"] in _HOLDING else "ready"


def _info(listed: Listed, bodies: Bodies, *, safe: bool = False) -> dict[str, Any]:
    """Return what Celery tells of a request. ``safe``: arguments as text."""
    record, stored = listed.record, listed.message
    args, kwargs = _arguments(stored, bodies, safe=safe)
    queue = f"gpu.{record['gpu_class']}.{record['isolation']}"
    delivery_info = dict(stored["delivery_info"]) if stored else {"routing_key": queue}
    pid = str(record.get("instance", "")).rpartition(":")[2]
    return {
        "id": record["id"],
        "name": record.get("name") or record.get("task"),
        "args": args,
        "kwargs": kwargs,
        "type": record.get("task"),
        "hostname": record.get("worker") or worker_name(record["gpu_class"]),
        "time_start": record.get("started"),
        "acknowledged": True,
        "delivery_info": {
            "exchange": "",
            "redelivered": False,
            **delivery_info,
            "priority": record.get("priority", 0),
        },
        "worker_pid": int(pid) if pid.isdecimal() else None,
    }


def _arguments(stored: Mapping[str, Any] | None, bodies: Bodies, *, safe: bool) -> tuple[Any, Any]:
    """Return args and kwargs: decoded, or as text, as their sender wrote them down."""
    if stored is None:
        return LEFT_OUT, LEFT_OUT
    if not safe:
        try:
            args, kwargs, _ = payload(stored, bodies)
            return args, kwargs
        except MalformedMessage:  # a signed body, which a dispatcher may not read
            pass
    headers = stored["headers"]
    told = (headers.get("argsrepr"), headers.get("kwargsrepr"))
    args_text, kwargs_text = (
        each[:LONGEST] if isinstance(each, str) else LEFT_OUT for each in told
    )
    return args_text, kwargs_text


def _ids(ids: Any) -> list[str]:
    """Parse the ids of a query. Raises :class:`InvalidQuery`."""
    found = maybe_list(ids) or []
    if not isinstance(found, list | tuple) or not all(fits(each) for each in found):
        raise InvalidQuery(f"ids={shown(ids, 100)} are no task ids; use one id, or a list of ids")
    if len(found) > MOST_IDS:
        raise InvalidQuery(f"ids has {len(found)} ids; use up to {MOST_IDS} in one query")
    return list(dict.fromkeys(found))
