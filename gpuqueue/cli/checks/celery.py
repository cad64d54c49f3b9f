"""The doctor's checks of Celery: result backend, how long results are kept, dispatchers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.view.dead_letters import open_dead
from gpuqueue.cli.view.render import duration
from gpuqueue.cli.view.state import State, gpu_class
from gpuqueue.model.celery_redis import CeleryRedis
from gpuqueue.model.names import REFUSED
from gpuqueue.model.redis_url import is_redis, mask
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store import places as stored
from gpuqueue.store import serving
from gpuqueue.store.client import Redis, RedisError, connect, explained
from gpuqueue.store.keys import class_key
from gpuqueue.store.owners import Owners


def backend(where: CeleryRedis, client: Redis) -> Iterator[Check]:
    """Check that the result backend answers. ``client`` is connected to the queue's state."""
    name, url = "result backend", where.backend
    if not url:
        yield Check(name, Level.FAIL, "none", "set CELERY_RESULT_BACKEND, or CELERY_BROKER_URL")
    elif url == where.state:
        client.ping()
        yield Check(name, Level.OK, mask(url))
    elif is_redis(url):
        try:
            connect(url, timeout=5, retries=1).ping()
            yield Check(name, Level.OK, mask(url))
        except RedisError as exc:
            yield Check.failed(name, explained(exc, url, "CELERY_RESULT_BACKEND"))
    else:
        yield Check(
            name,
            Level.WARN,
            f"{mask(url)}: not Redis, not checked",
            "make sure that dispatchers and executors can reach it",
        )


def results_kept(state: State, expires: dict[str, float | None]) -> Iterator[Check]:
    """Check that results outlive the longest job.

    A group needs the result of its first job until its last one has ended.
    """
    longest = 0.0
    for name in state.reader.classes():
        limits = (
            record.get("time_limit") or 0.0
            for record in state.reader.all_records(name)
            if record["state"] != "ended"
        )
        longest = max([longest, *limits])
    for whose, seconds in expires.items():
        saw = (
            f"{whose}: {duration(seconds) if seconds else 'never'}; longest time limit of a live"
            f" job: {duration(longest) if longest else 'none'}"
        )
        short = seconds is not None and seconds < longest
        fix = f"raise result_expires of the {whose} above {longest:.0f} s" if short else ""
        yield Check("result_expires", Level.FAIL if short else Level.OK, saw, fix)


def tombstones(settings: Settings, options: dict[str, Any]) -> Iterator[Check]:
    """Check that an ended job is remembered for longer than its message can be in hand."""
    visibility = float(options.get("visibility_timeout", 3600))
    long = settings.tombstone_seconds > visibility
    saw = (
        f"{duration(settings.tombstone_seconds)}; a dispatcher may hold a message for"
        f" {duration(visibility)}"
    )
    fix = "" if long else f"set GPUQUEUE_TOMBSTONE_SECONDS above {visibility:.0f}"
    yield Check("tombstones", Level.OK if long else Level.FAIL, saw, fix)


def dead_letters() -> Iterator[Check]:
    """Check that no message was set aside."""
    with open_dead() as found:
        number = found.letters.count()
    yield Check(
        "dead letters",
        Level.WARN if number else Level.OK,
        f"{number} messages could not be accepted" if number else "none",
        "`gpuqueue dead` shows why; `gpuqueue dead send` puts them back" if number else "",
    )


def dispatchers(state: State) -> Iterator[Check]:
    """Check that a dispatcher is alive and one of them leads."""
    alive, leader = state.dispatchers(), state.reader.leader()
    if not alive:
        yield Check(
            "dispatchers",
            Level.FAIL,
            "none alive",
            "start one: celery -A gpuqueue worker (or gpuqueue dev -A <app>)",
        )
    elif not leader:
        yield Check(
            "dispatchers",
            Level.WARN,
            f"{', '.join(alive)}; none leads",
            "run the doctor again; if this persists, read their logs",
        )
    else:
        yield Check("dispatchers", Level.OK, f"{', '.join(alive)}; {leader} leads")
    jobs = serving.live_jobs(state.client, state.unserved())
    if jobs and alive:
        saw = ", ".join(f"{total} jobs of {name}" for name, total in jobs.items())
        yield Check(
            "classes",
            Level.FAIL,
            f"no live dispatcher serves: {saw}",
            "start a dispatcher with this class, or cancel the jobs (gpuqueue cancel ID)",
        )
    for (name, owner), slots in Owners(state.client).unowned().items():
        yield Check(
            "owners",
            Level.FAIL,
            f"{name}: {slots} slots are held by attempts of {owner}, which has no live dispatcher",
            "start its dispatchers; if its cluster is gone or renamed: gpuqueue adopt " + owner,
        )
    for name, (owner, others) in Owners(state.client).by_node().items():
        yield Check(
            "clusters",
            Level.FAIL,
            f"{name}: dispatchers of {owner} and {', '.join(others)} serve it by node;"
            f" {owner} alone starts its jobs",
            "give each cluster classes with their own names: domain='node' has the nodes of one",
        )
    for name in state.reader.classes():
        for place in stored.set_aside(stored.of(state.client, name)):
            yield Check(
                "places",
                Level.WARN,
                f"{name}: {place.name} is set aside (failures: {place.failures}): {place.error}",
                "repair it; one job tries it after each pause (or gpuqueue places --clear PLACE)",
            )
    waiting = state.unaccepted(state.reader.classes() or ["t4"])
    if waiting:
        saw = ", ".join(f"{total} in {queue}" for queue, total in waiting.items())
        yield Check(
            "queues",
            Level.WARN,
            f"no dispatcher has taken: {saw}",
            "start a dispatcher that consumes these queues (-Q)",
        )


def without_slots(state: State) -> Iterator[Check]:
    """Show jobs that wait for slots that their class has no more."""
    for name, spec in state.reader.classes().items():
        slots = gpu_class(spec).slots_of_domain
        for kind, waiting in state.reader.view(name, spec, most=1, held=1).waiting_total.items():
            if waiting and not slots[kind]:
                yield Check(
                    "slots",
                    Level.FAIL,
                    f"{waiting} {kind} jobs of {name} wait, and the class has no {kind} slots",
                    f"give the class {kind} slots, or cancel the jobs (gpuqueue cancel ID)",
                )


def damaged(state: State) -> Iterator[Check]:
    """Show what was set aside since it cannot be read."""
    for name in [*state.reader.classes(), REFUSED]:
        found = sorted(state.reader.damaged(name))
        if found:
            shown = ", ".join(repr(each[:60]) for each in found[:3])
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            yield Check(
                "state",
                Level.WARN,
                f"damaged and set aside in class {name}: {shown}{more}",
                "find what writes to Redis beside gpuqueue; then delete the key"
                f" {class_key(name, 'damaged')}",
            )
