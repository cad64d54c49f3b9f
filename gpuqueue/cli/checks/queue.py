"""What ``gpuqueue doctor`` looks at: each check answers OK, WARN or FAIL, what it saw, and the fix."""

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

#: ZADD's and SET's options that the scripts use came with it.
LEAST_REDIS = (6, 2)
#: Celery that this version is tested with.
CELERY = ((5, 6), (6, 0))
#: Clocks further apart than this make `eta`, `expires` and the watcher's deadlines visibly wrong,
#: in seconds.
SKEW = 1.0
_PACKAGES = ("celery", "kombu", "redis", "flower")


class Level(StrEnum):
    """How a check ended."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``fix`` is empty when there is nothing to do."""

    name: str
    level: Level
    saw: str
    fix: str = ""

    @classmethod
    def failed(cls, name: str, error: GpuQueueError, where: str = "") -> Check:
        """Make the one of an error of ours, whose text ends with the fix; ``where`` is put before
        its problem.
        """
        problem, _, fix = str(error).rpartition("; ")
        return cls(name, Level.FAIL, where + (problem or fix), fix if problem else "")


def versions() -> Iterator[Check]:
    """Which Python and packages these are."""
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
    """Whether Redis is one that a queue can trust. The caller has seen it answer."""
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
        else "set `maxmemory-policy noeviction`: Redis may evict jobs and results otherwise"
    )
    yield Check("maxmemory-policy", Level.OK if safe else Level.FAIL, str(policy), fix)
    if not info.get("aof_enabled"):
        yield Check(
            "appendonly",
            Level.WARN,
            "off",
            "set `appendonly yes`: a crash of Redis loses the newest jobs otherwise",
        )
    elif info.get("aof_last_write_status") != "ok" or info.get("aof_last_bgrewrite_status") != "ok":
        yield Check(
            "appendonly",
            Level.FAIL,
            "on, and its last write failed",
            "free disk space where Redis keeps its file",
        )
    else:
        yield Check("appendonly", Level.OK, "on")


def tls(settings: Settings) -> Iterator[Check]:
    """Whether Redis is spoken with over TLS, and has to prove who it is."""
    for name, url in settings.addresses.items():
        if url and url.startswith("rediss://"):
            sure = verifies(url)
            fix = (
                ""
                if sure
                else (
                    f"say ssl_cert_reqs=required in {name}: whoever is in between can pose as Redis"
                )
            )
            yield Check(
                "tls",
                Level.OK if sure else Level.WARN,
                f"{name} {'is verified' if sure else 'trusts anybody'}",
                fix,
            )


def rights(settings: Settings) -> Iterator[Check]:
    """Whether the users of the addresses may do in Redis what dispatchers do."""
    wrong = list(
        refused(
            settings.redis_url, settings.broker_url, settings.result_backend, settings.redis_setting
        )
    )
    for each in wrong:
        yield Check.failed("redis rights", each)
    if not wrong:
        yield Check("redis rights", Level.OK, "a dispatcher's")


def layout(state: State) -> Iterator[Check]:
    """Whether this version reads what lies in Redis."""
    try:
        layouts.check(state.client, state.settings.redis_url, state.settings.redis_setting)
    except LayoutMismatch as exc:
        yield Check.failed("layout", exc)
    else:
        yield Check("layout", Level.OK, str(VERSION))


def clock(client: Redis) -> Iterator[Check]:
    """How far this machine's clock is from Redis'."""
    before = time.time()
    seconds, microseconds = client.time()
    skew = seconds + microseconds / 1e6 - (before + time.time()) / 2
    good = abs(skew) <= SKEW
    yield Check(
        "clock",
        Level.OK if good else Level.WARN,
        f"{skew:+.2f}s",
        "" if good else "keep both machines' clocks by NTP",
    )


def backend(url: str | None, client: Redis, broker_url: str | None) -> Iterator[Check]:
    """Whether the result backend answers. ``client`` is connected to ``broker_url``."""
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
            f"{mask(url)}: not Redis, not looked at",
            "see that dispatchers and executors reach it",
        )


def results_kept(state: State, expires: dict[str, float | None]) -> Iterator[Check]:
    """Whether results outlive the longest job: of a group, the first result must be there when the
    last job ends.
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
    """Whether an ended job is remembered for longer than its message can come back."""
    visibility = float(options.get("visibility_timeout", 3600))
    long = settings.tombstone_seconds > visibility
    saw = (
        f"{duration(settings.tombstone_seconds)}; visibility timeout of dispatchers:"
        f" {duration(visibility)}"
    )
    fix = "" if long else f"set GPUQUEUE_TOMBSTONE_SECONDS above {visibility:.0f}"
    yield Check("tombstones", Level.OK if long else Level.FAIL, saw, fix)


def dispatchers(state: State) -> Iterator[Check]:
    """Whether somebody starts jobs, and somebody watches them."""
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
            "run the doctor again; if it stays, see their logs",
        )
    else:
        yield Check("dispatchers", Level.OK, f"{', '.join(alive)}; {leader} leads")
    waiting = state.unaccepted(state.reader.classes() or ["t4"])
    if waiting:
        saw = ", ".join(f"{total} in {queue}" for queue, total in waiting.items())
        yield Check(
            "queues",
            Level.WARN,
            f"not taken by a dispatcher: {saw}",
            "have a dispatcher consume these queues (-Q)",
        )


def gpus(settings: Settings, classes: dict[str, GpuClass]) -> Iterator[Check]:
    """Which GPUs this machine has for local jobs, and whether they fit the slots."""
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
            "none: local jobs run on the CPU",
            "install the NVIDIA driver where dispatchers run locally",
        )
    else:
        saw = ", ".join(f"{each.index} {each.name} {each.memory / 2**30:.0f}GiB" for each in found)
        yield Check(
            "gpus",
            Level.OK,
            f"{saw}; " + ", ".join(f"{name} has {len(gpus)}" for name, gpus in dealt.items()),
        )


def application(name: str | None, seen: Application | None, settings: Settings) -> Iterator[Check]:
    """Whether executors can load the application and speak with it."""
    if name is None or seen is None:
        yield Check(
            "application",
            Level.WARN,
            "GPUQUEUE_APP is not set here",
            "set it to what follows `celery -A` to have it checked",
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
            "import the tasks where the application is made, or list their modules in `include`",
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
                "it does not sign, and GPUQUEUE_CERT_STORE takes only what is signed; sign, or"
                " unset it"
            ),
        )
    elif seen.result_serializer != "json" or not {"json", "application/json"} & set(
        seen.results_accepted
    ):
        level, fix = (
            Level.FAIL,
            (
                "set result_serializer='json' and result_accept_content=['json']: dispatchers write"
                " results, too"
            ),
        )
    elif seen.broker_url != settings.broker_url:
        level = Level.WARN
        fix = (
            f"its own broker_url is {mask(seen.broker_url or 'unset')}; submit where"
            " CELERY_BROKER_URL is set as for dispatchers"
        )
    how = ", signed" if seen.task_serializer == "auth" else ""
    yield Check("application", level, f"{name}: {len(seen.tasks)} tasks{how}", fix)


def seconds(expires: object) -> float | None:
    """Return Celery's result_expires in seconds; None: never."""
    if isinstance(expires, timedelta):
        return expires.total_seconds()
    return float(expires) if isinstance(expires, (int, float)) and expires else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
