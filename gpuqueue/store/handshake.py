"""What a connection says before its first command: only what Redis needs.

A client of redis-py asks for the newer protocol, then tells its name and its version: four round
trips. An executor opens three connections for one job. Without any, a server that refuses the
connection would be noticed where redis-py repeats nothing and drops the server's words.
"""

from __future__ import annotations

import inspect
import os
from functools import cache, partial
from typing import Any

import redis

#: redis-py before 5.3 wants the name of a command.
_COMMAND = (
    ("PING",)
    if inspect.signature(redis.ConnectionPool.get_connection).parameters["command_name"].default
    is inspect.Parameter.empty
    else ()
)


@cache
def short() -> dict[str, Any]:
    """Return the options of connections that say no more than they must."""
    known = inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    # The options that name the client differ between versions of redis-py.
    naming = ("driver_info",) if "driver_info" in known else ("lib_name", "lib_version")
    return {
        "protocol": 2,
        "redis_connect_func": greet,
        **{name: None for name in naming if name in known},
    }


def greet(connection: redis.Connection) -> None:
    """Prepare a new connection, and read what the server says of it: it may take no more of them,
    or none from this address.

    Raises the error of the server. The policy of the connection repeats it.
    """
    connection.on_connect()  # type: ignore[no-untyped-call]
    if not (connection.db or connection.username or connection.password):  # else it has answered
        connection.send_command("PING", check_health=False)  # type: ignore[no-untyped-call]
        connection.read_response()


def opened(pool: redis.ConnectionPool) -> Any:
    """Return a connection of a pool that has greeted its server."""
    return pool.get_connection(*_COMMAND)


def prepare(pool: redis.ConnectionPool) -> None:
    """Make a connection before this process forks, without connecting it: a process that is forked
    takes it over, and saves the pages that it would copy to make one.
    """
    if type(pool) is redis.ConnectionPool and not pool._available_connections:
        pool._available_connections.append(pool.make_connection())
        os.register_at_fork(after_in_child=partial(_take_over, pool))


def _take_over(pool: redis.ConnectionPool) -> None:
    """Tell a pool that its connections are of this process, if none is of its parent."""
    waiting = pool._available_connections
    if not pool._in_use_connections and all(each._sock is None for each in waiting):
        pool.pid = os.getpid()
        for each in waiting:
            each.pid = pool.pid


def shorten(pool: redis.ConnectionPool) -> None:
    """Have the connections that a pool will open say no more than they must."""
    options = pool.connection_kwargs
    for name in [name for name in options if name.startswith("maint_notifications")]:
        del options[name]  # they need the newer protocol
    options.update(short())
