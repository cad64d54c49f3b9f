"""The doctor's checks of Redis: version, persistence, TLS, rights, layout, clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.checks.machine import numbers
from gpuqueue.cli.view.state import State
from gpuqueue.errors import LayoutMismatch
from gpuqueue.model.redis_url import uses_tls, verifies
from gpuqueue.model.sentinel_url import is_sentinel
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store import layout as layouts
from gpuqueue.store.client import Redis, RedisError, explained
from gpuqueue.store.keys import VERSION
from gpuqueue.store.rights import refused

#: The first Redis with the options of ZADD and SET that the scripts use.
LEAST_REDIS = (6, 2)
#: Seconds of clock skew that make `eta` and `expires` of callers visibly wrong.
SKEW = 1.0
#: A key of the queue that does not exist.
_NO_KEY = "gpuqueue:check"


def writes(client: Redis, settings: Settings) -> Iterator[Check]:
    """Check that Redis takes a write. This one changes nothing: it wants the key to exist."""
    try:
        client.set(_NO_KEY, "", xx=True)
    except RedisError as exc:
        yield Check.failed(
            "redis writes", explained(exc, settings.redis_url, settings.redis_setting)
        )
    else:
        yield Check("redis writes", Level.OK, "accepted")


def redis(client: Redis) -> Iterator[Check]:
    """Check that Redis is new enough, persistent, and never evicts. It must answer already."""
    info: dict[str, Any] = client.info()
    version = str(info.get("redis_version", "0"))
    new = numbers(version) >= LEAST_REDIS
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


def replicas(client: Redis, url: str) -> Iterator[Check]:
    """Check that a primary behind Sentinels has a replica, and takes no write without one."""
    if not is_sentinel(url):
        return
    info: dict[str, Any] = client.info("replication")
    online = [
        each for name, each in info.items() if re.fullmatch(r"slave\d+", name) and _is_online(each)
    ]
    yield Check(
        "replicas",
        Level.OK if online else Level.FAIL,
        f"{len(online)} in step",
        "" if online else "start a replica; without one the Sentinels can elect no primary",
    )
    # Redis tells this number only where it requires some.
    sure = "min_slaves_good_slaves" in info
    yield Check(
        "min-replicas-to-write",
        Level.OK if sure else Level.WARN,
        "set" if sure else "0",
        ""
        if sure
        else "set `min-replicas-to-write 1` and `min-replicas-max-lag 10`; otherwise a primary that"
        " is cut off accepts jobs that its successor does not have",
    )


def _is_online(replica: Any) -> bool:
    return isinstance(replica, dict) and replica.get("state") == "online"


def tls(settings: Settings) -> Iterator[Check]:
    """Check that each TLS address verifies the server's certificate."""
    for name, url in settings.addresses.items():
        if url and uses_tls(url):
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
    wrong = list(refused(settings.redis, settings.redis_setting))
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
