"""A Redis behind Sentinels, as real processes: a primary, its replicas, and three Sentinels.

The Sentinels rewrite the configuration files of the servers as in any other place: a primary that
was killed starts again as a primary, and becomes a replica when the Sentinels have found it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import redis

from gpuqueue.dev.embedded_redis import find_server
from tests.support.endpoints import free_port
from tests.support.waiting import PATIENCE, until

MASTER = "mymaster"
#: How long the Sentinels wait for a silent primary, in milliseconds, and for one another.
DOWN_AFTER, FAILOVER_TIMEOUT = 2000, 4000
HOST = "127.0.0.1"


class Server:
    """One process of Redis or of a Sentinel, with its own directory."""

    def __init__(
        self, directory: Path, lines: Sequence[str], *arguments: str, password: str | None = None
    ) -> None:
        directory.mkdir(parents=True)
        self.port = free_port()
        self._directory, self._arguments = directory, arguments
        self._configuration = directory / "redis.conf"
        usual = [f"port {self.port}", f"bind {HOST}", f'dir "{directory}"', "daemonize no"]
        self._configuration.write_text("\n".join([*usual, *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(
            port=self.port, password=password, decode_responses=True, socket_timeout=5
        )

    def start(self) -> Self:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), self._configuration, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, PATIENCE, f"the server on port {self.port}", self.logs)
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def pause(self) -> None:
        """Let it answer nothing, as on a host that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cut_off(self, user: str) -> None:
        """Answer no client but a user of Redis (``NAME:PASSWORD``): not the Sentinels."""
        name, _, password = user.partition(":")
        self.client.acl_setuser("default", enabled=False)
        with redis.Redis(port=self.port, username=name, password=password) as client:
            client.execute_command("CLIENT", "KILL", "USER", "default")

    @property
    def runs(self) -> bool:
        return self._process is not None

    def logs(self) -> str:
        return (self._directory / "log").read_text(errors="replace")


class SentinelSet:
    """A primary with two replicas, watched by three Sentinels; a context manager.

    Args:
        directory: where their files are.
        lines: more lines of the configuration of each Redis.
        sentinel_lines: the same of each Sentinel.
        password: that of the Sentinels.
    """

    def __init__(
        self,
        directory: Path,
        lines: Sequence[str] = (),
        sentinel_lines: Sequence[str] = (),
        password: str | None = None,
    ) -> None:
        self._password = password
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []
        self._directory, self._lines, self._sentinel_lines = directory, lines, sentinel_lines

    def __enter__(self) -> Self:
        usual = ["appendonly yes", 'save ""', "repl-diskless-sync-delay 0", *self._lines]
        try:
            for number in range(3):
                replica = [f"replicaof {HOST} {self.servers[0].port}"] if number else []
                server = Server(self._directory / f"redis{number}", [*usual, *replica])
                self.servers.append(server.start())
            watched = [
                f"sentinel monitor {MASTER} {HOST} {self.servers[0].port} 2",
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}",
                f"sentinel failover-timeout {MASTER} {FAILOVER_TIMEOUT}",
                *self._sentinel_lines,
            ]
            for number in range(3):
                place = self._directory / f"sentinel{number}"
                self.sentinels.append(Server(place, watched, "--sentinel", password=self._password))
                self.sentinels[-1].start()
            self.whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            if server.runs:
                server.resume()
                server.end()
            server.client.close()

    @property
    def url(self) -> str:
        """The address, as Celery has it."""
        return ";".join(f"sentinel://{HOST}:{each.port}" for each in self.sentinels) + "/0"

    @property
    def options(self) -> dict[str, Any]:
        """The options of Celery's transports."""
        return {"master_name": MASTER}

    @property
    def env(self) -> dict[str, str]:
        """The settings of dispatchers."""
        return {
            "CELERY_BROKER_URL": self.url,
            "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": json.dumps(self.options),
        }

    def primary(self) -> Server:
        """The primary that most Sentinels name."""
        ports = [each for each in map(self._named, self.sentinels) if each]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    @staticmethod
    def _named(sentinel: Server) -> int | None:
        try:
            return int(state_of(sentinel)["port"])
        except redis.ConnectionError:
            return None

    def whole(self) -> None:
        """Wait until the primary has both replicas in step, and each Sentinel knows them all."""
        until(self._is_whole, PATIENCE + 30, "two replicas in step", self.logs)

    def _is_whole(self) -> bool:
        try:
            primary = self.primary()
            found = primary.client.info("replication")
            replicas = [found.get(f"slave{number}", {}) for number in (0, 1)]
            return (
                found["role"] == "master"
                and all(each.get("state") == "online" for each in replicas)
                and all(
                    (state := state_of(each))["num-slaves"] == 2
                    and state["num-other-sentinels"] == 2
                    and state["port"] == primary.port
                    and state["flags"] in ("master", {"master"})
                    for each in self.sentinels
                )
            )
        except (redis.RedisError, StopIteration, ValueError):
            return False

    def rejoin(self, server: Server) -> None:
        """Bring an old primary back as a replica. The Sentinels would take 8 s to do so."""
        if server.runs:
            server.resume()
        else:
            server.start()
        server.client.replicaof(HOST, self.primary().port)

    def fail_over(self, server: Server) -> float:
        """Wait until another server is the primary; return how long that took."""
        began = time.monotonic()
        until(lambda: self._writable() not in (None, server), PATIENCE, "a new primary", self.logs)
        return time.monotonic() - began

    def _writable(self) -> Server | None:
        for server in self.servers:
            try:
                if server.runs and self.primary() is server:
                    return server if server.client.role()[0] == "master" else None
            except (redis.RedisError, StopIteration, ValueError):
                continue
        return None

    def logs(self) -> str:
        return "\n".join(each.logs()[-2000:] for each in [*self.sentinels, *self.servers])


def state_of(sentinel: Server) -> dict[str, Any]:
    """Return what a Sentinel says of the primary."""
    found: Any = sentinel.client.sentinel_master(MASTER)
    return dict(found)
