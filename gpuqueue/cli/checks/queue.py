"""The doctor's checks of this machine, Redis, Celery, dispatchers, GPUs and the application."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.application import Application
from gpuqueue.cli.view.render import duration
from gpuqueue.cli.view.state import State
from gpuqueue.errors import GpuQueueError, LayoutMismatch, SettingsError
from gpuqueue.model.redis_url import mask, verifies
from gpuqueue.nvidia import devices
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store import layout as layouts
from gpuqueue.store.client import Redis, RedisError, connect, explained
from gpuqueue.store.keys import VERSION
from gpuqueue.store.rights import refused

#: The first Redis with the options of ZADD and SET that the scripts use.
LEAST_REDIS = (6, 2)
#: Versions of Celery that the tests cover.
CELERY = ((5, 6), (6, 0))
#: Seconds of clock skew that make `eta`, `expires` and the watcher's deadlines visibly wrong.
SKEW = 1.0
_PACKAGES = ("celery", "kombu", "redis", "flower")


class Level(StrEnum):
    """The result of a check."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it found and how to fix it. ``fix`` is empty when nothing needs doing."""

    name: str
    level: Level
    saw: str
    fix: str = ""

    @classmethod
    def failed(cls, name: str, error: GpuQueueError, where: str = "") -> Check:
        """Turn a gpuqueue error into a failed check: ``where`` precedes its problem."""
        problem, _, fix = str(error).rpartition("; ")
        return cls(name, Level.FAIL, where + (problem or fix), fix if problem else "")


def versions() -> Iterator[Check]:
    """Check the versions of Python and the packages."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    celery = _numbers(found["celery"])
    fits = CELERY[0] <= celery < CELERY[1]
    saw = ", ".join(
        [
            f"python {platform.python_version()}",
            *(f"{name} {version}" for name, version in found.items()),
        ]
    )
    yield Check(
        "versions", Level.OK if fits else Level.FAIL, saw, "" if fits else "install celery>=5.6,<6"
    )


def redis(client: Redis) -> Iterator[Check]:
    """Check that Redis is new enough, persistent, and never evicts. It must answer already."""
    info: dict[str, Any] = client.info()
    version = str(info.get("redis_version", "0"))
    new = _numbers(version) >= LEAST_REDIS
    yield Check(
        "redis version",
        Level.OK if new else Level.FAIL,
        version,
        "" if new else "run Redis 6.2 or newer, or Valkey",
    )
    policy = info.get("maxmemory_policy", "unknown")
    safe = policy == "noeviction"
    fix = (
        ""
        if safe
        else "set `maxmemory-policy noeviction`; otherwise Redis may evict jobs and results"
    )
    yield Check("maxmemory-policy", Level.OK if safe else Level.FAIL, str(policy), fix)
    if not info.get("aof_enabled"):
        yield Check(
            "appendonly",
            Level.WARN,
            "off",
            "set `appendonly yes`; otherwise a crash of Redis loses the newest jobs",
        )
    elif info.get("aof_last_write_status") != "ok" or info.get("aof_last_bgrewrite_status") != "ok":
        yield Check(
            "appendonly",
            Level.FAIL,
            "on, and its last write failed",
            "free disk space on the volume of the append-only file",
        )
    else:
        yield Check("appendonly", Level.OK, "on")


def tls(settings: Settings) -> Iterator[Check]:
    """Check that each TLS address verifies the server's certificate."""
    for name, url in settings.addresses.items():
        if url and url.startswith("rediss://"):
            sure = verifies(url)
            fix = f"add ssl_cert_reqs=required to {name}; else any server can pose as Redis"
            yield Check(
                "tls",
                Level.OK if sure else Level.WARN,
                f"{name} {'is verified' if sure else 'accepts any certificate'}",
                "" if sure else fix,
            )


def rights(settings: Settings) -> Iterator[Check]:
    """Check that the Redis user of each address has the rights of a dispatcher."""
    wrong = list(
        refused(
            settings.redis_url, settings.broker_url, settings.result_backend, settings.redis_setting
        )
    )
    for each in wrong:
        yield Check.failed("redis rights", each)
    if not wrong:
        yield Check("redis rights", Level.OK, "all rights of a dispatcher")


def layout(state: State) -> Iterator[Check]:
    """Check that this version reads the layout of the state in Redis."""
    try:
        layouts.check(state.client, state.settings.redis_url, state.settings.redis_setting)
    except LayoutMismatch as exc:
        yield Check.failed("layout", exc)
    else:
        yield Check("layout", Level.OK, str(VERSION))


def clock(client: Redis) -> Iterator[Check]:
    """Compare the clock of this machine with the clock of Redis."""
    before = time.time()
    seconds, microseconds = client.time()
    skew = seconds + microseconds / 1e6 - (before + time.time()) / 2
    good = abs(skew) <= SKEW
    yield Check(
        "clock",
        Level.OK if good else Level.WARN,
        f"{skew:+.2f}s",
        "" if good else "synchronise both clocks by NTP",
    )


def backend(url: str | None, client: Redis, broker_url: str | None) -> Iterator[Check]:
    """Check that the result backend answers. ``client`` is connected to ``broker_url``."""
    name = "result backend"
    if not url:
        yield Check(name, Level.FAIL, "none", "set CELERY_RESULT_BACKEND, or CELERY_BROKER_URL")
    elif url == broker_url:
        client.ping()
        yield Check(name, Level.OK, mask(url))
    elif url.startswith(("redis://", "rediss://", "unix://")):
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
            f" job: {duration(longest)}"
        )
        short = seconds is not None and seconds < longest
        fix = f"raise result_expires of the {whose} above {longest:.0f} s" if short else ""
        yield Check("result_expires", Level.FAIL if short else Level.OK, saw, fix)


def tombstones(settings: Settings, options: dict[str, Any]) -> Iterator[Check]:
    """Check that an ended job is remembered for longer than its message can be redelivered."""
    visibility = float(options.get("visibility_timeout", 3600))
    long = settings.tombstone_seconds > visibility
    saw = (
        f"{duration(settings.tombstone_seconds)}; visibility timeout of dispatchers:"
        f" {duration(visibility)}"
    )
    fix = "" if long else f"set GPUQUEUE_TOMBSTONE_SECONDS above {visibility:.0f}"
    yield Check("tombstones", Level.OK if long else Level.FAIL, saw, fix)


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
    waiting = state.unaccepted(state.reader.classes() or ["t4"])
    if waiting:
        saw = ", ".join(f"{total} in {queue}" for queue, total in waiting.items())
        yield Check(
            "queues",
            Level.WARN,
            f"no dispatcher has taken: {saw}",
            "start a dispatcher that consumes these queues (-Q)",
        )


def gpus(settings: Settings, classes: dict[str, GpuClass]) -> Iterator[Check]:
    """Check the GPUs of this machine for local jobs, and that they fit the slots."""
    if settings.execution_mode != "local":
        return
    try:
        found = devices.allowed(devices.find(), settings.devices, devices.visible_now())
        dealt = devices.deal(classes.values(), found)
    except SettingsError as exc:
        problem, _, fix = str(exc).partition("; ")
        yield Check("gpus", Level.FAIL, problem, fix)
        return
    if not found:
        yield Check(
            "gpus",
            Level.WARN,
            "none; local jobs run on the CPU",
            "install the NVIDIA driver on machines with local dispatchers",
        )
    else:
        saw = ", ".join(f"{each.index} {each.name} {each.memory / 2**30:.0f}GiB" for each in found)
        yield Check(
            "gpus",
            Level.OK,
            f"{saw}; " + ", ".join(f"{name} has {len(gpus)}" for name, gpus in dealt.items()),
        )


def application(name: str | None, seen: Application | None, settings: Settings) -> Iterator[Check]:
    """Check that executors can load the application and read its messages."""
    if name is None or seen is None:
        yield Check(
            "application",
            Level.WARN,
            "GPUQUEUE_APP is not set here",
            "set it to the argument of `celery -A` to check the application",
        )
        return
    if seen.error:
        problem, _, fix = seen.error.rpartition("; ")
        yield Check(
            "application", Level.FAIL, problem or fix, fix if problem else "correct GPUQUEUE_APP"
        )
        return
    level, fix = Level.OK, ""
    if not seen.tasks:
        level, fix = (
            Level.FAIL,
            "import the tasks where the application is created, or list their modules in `include`",
        )
    elif seen.task_serializer not in ("json", "auth"):
        level, fix = (
            Level.FAIL,
            f"task_serializer={seen.task_serializer!r} is refused on GPU queues; set it to 'json'",
        )
    elif seen.task_serializer == "json" and settings.cert_store:
        level, fix = (
            Level.FAIL,
            (
                "it does not sign messages, and GPUQUEUE_CERT_STORE accepts only signed ones; sign"
                " them, or unset it"
            ),
        )
    elif seen.result_serializer != "json" or not {"json", "application/json"} & set(
        seen.results_accepted
    ):
        level, fix = (
            Level.FAIL,
            (
                "set result_serializer='json' and result_accept_content=['json']; dispatchers write"
                " results too"
            ),
        )
    elif seen.broker_url != settings.broker_url:
        level = Level.WARN
        fix = (
            f"its broker_url is {mask(seen.broker_url or 'unset')}; submit jobs where"
            " CELERY_BROKER_URL is the same as for dispatchers"
        )
    how = ", signed" if seen.task_serializer == "auth" else ""
    yield Check("application", level, f"{name}: {len(seen.tasks)} tasks{how}", fix)


def seconds(expires: object) -> float | None:
    """Return Celery's result_expires in seconds; None means never."""
    if isinstance(expires, timedelta):
        return expires.total_seconds()
    return float(expires) if isinstance(expires, (int, float)) and expires else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
