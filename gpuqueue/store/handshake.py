"""What a connection says before its first command: only what Redis needs.

A client of redis-py asks for the newer protocol, then tells its name and its version: four round
trips. An executor opens three connections for one job.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import redis


@cache
def short() -> dict[str, Any]:
    """Return the options of connections that say no more than they must."""
    known = inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    # The options that name the client differ between versions of redis-py.
    naming = ("driver_info",) if "driver_info" in known else ("lib_name", "lib_version")
    return {"protocol": 2, **{name: None for name in naming if name in known}}


def shorten(pool: redis.ConnectionPool) -> None:
    """Have the connections that a pool will open say no more than they must."""
    options = pool.connection_kwargs
    for name in [name for name in options if name.startswith("maint_notifications")]:
        del options[name]  # they need the newer protocol
    options.update(short())
