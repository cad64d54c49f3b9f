"""The processes of many schedules in a row: a Redis behind a proxy, two dispatchers, and where
their attempts run.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.keys import class_key
from gpuqueue.store.reader import Reader
from tests.chaos.proxy import HOST, Proxy
from tests.chaos.settings import SETTINGS
from tests.chaos.steps import resolved
from tests.doubles.kubernetes import Cluster, Image
from tests.support.crash_stack import INJECTION
from tests.support.launching import IMAGE, KUBERNETES, ClusterLaunching, LocalLaunching
from tests.support.nodes import APPS, WorkerNode, executors_of, worker_node
from tests.support.waiting import PATIENCE, until

CLASS = "t4"
DISPATCHERS = ("one", "two")
#: Keys without an entry when the queue is idle.
EMPTY = (
    *("holders_shared", "holders_exclusive", "waiting_shared", "waiting_exclusive", "delayed"),
    *("finishing", "launching", "stopping", "deadlines"),
)


class Stage:
    """Started once for several schedules. ``url`` leads through the proxy, ``client`` does not."""

    def __init__(self, directory: Path, kind: str) -> None:
        directory.mkdir(parents=True)
        self.directory, self.kind = directory, kind
        self.effects = directory / "effects"
        self.effects.touch()
        self.armed = directory / "armed"
        self.armed.mkdir()
        self._clocks = directory / "clocks"
        self.clocks([0.0] * (len(DISPATCHERS) + 1))
        steps = directory / "steps"
        self.steps = resolved(kind)
        steps.write_text("\n".join(self.steps.values()))
        self.server = EmbeddedRedis(directory / "redis0").start()
        self._servers = 1
        self.proxy = Proxy(self._port())
        self.url = f"redis://{HOST}:{self.proxy.port}/0"
        self._connect()
        injected = {
            "CRASH_STEPS": str(steps),
            "CRASH_ARMED": str(self.armed),
            "CRASH_NOTES": str(self.effects),
            "CRASH_CLOCKS": str(self._clocks),
            "PYTHONPATH": os.pathsep.join(map(str, (INJECTION, APPS))),
        }
        self.launching: ClusterLaunching | LocalLaunching = (
            ClusterLaunching(directory, self.url, SETTINGS)
            if kind == KUBERNETES
            else LocalLaunching(self.url)
        )
        if kind == KUBERNETES:
            self.cluster.images[IMAGE] = Image(env=injected, cwd=str(directory))
        env = {
            **SETTINGS,
            **injected,
            **self.launching.env(),
            "CELERY_BROKER_URL": self.url,
            "GPUQUEUE_APP": "chaosshop",
        }
        arguments = ["-A", "gpuqueue", "worker", "-Q", "gpu.t4.shared,gpu.t4.exclusive"]
        self.dispatchers: dict[str, WorkerNode] = {
            name: worker_node(
                name, arguments, env | {"CRASH_CLOCK": str(number)}, directory, None
            ).start()
            for number, name in enumerate(DISPATCHERS, 1)
        }
        #: Dispatchers that a schedule keeps away at present.
        self.away: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self._read = 0

    @property
    def cluster(self) -> Cluster:
        assert isinstance(self.launching, ClusterLaunching)
        return self.launching.cluster

    @property
    def workers(self) -> list[WorkerNode]:
        return list(self.dispatchers.values())

    @property
    def server_url(self) -> str:
        return self.server.url

    def wait_until_ready(self) -> None:
        for node in self.dispatchers.values():
            node.ready()
        until(
            lambda: self.client.hexists(class_key(CLASS, "gate"), "opened"),
            PATIENCE,
            "an open class",
            self.logs,
        )

    # -- Redis -------------------------------------------------------------------------------------

    def _port(self) -> int:
        return int(self.server.url.rpartition(":")[2].partition("/")[0])

    def _connect(self) -> None:
        self.client = redis.Redis.from_url(
            self.server.url, decode_responses=True, socket_timeout=1, socket_connect_timeout=1
        )
        self.reader = Reader(self.client)

    def replica(self) -> EmbeddedRedis:
        """Start a replica that has all data."""
        made = EmbeddedRedis(self.directory / f"redis{self._servers}").start()
        self._servers += 1
        self.client.config_set("repl-diskless-sync-delay", "0")
        with redis.Redis.from_url(made.url, decode_responses=True) as client:
            client.replicaof(HOST, self._port())
            until(
                lambda: client.info("replication")["master_link_status"] == "up",
                what="a replica that has all data",
            )
        return made

    def promote(self, replica: EmbeddedRedis, *, caught_up: bool) -> None:
        """Make the replica the primary and lead clients to it. The former primary ends."""
        with redis.Redis.from_url(replica.url, decode_responses=True) as client:
            if caught_up:
                # Clients that write wait from here on, and meet a closed connection.
                self.client.client_pause(5000, all=False)
                end = self.client.info("replication")["master_repl_offset"]
                until(
                    lambda: client.info("replication")["slave_repl_offset"] >= end,
                    what="a replica that has caught up",
                )
            client.replicaof("NO", "ONE")
        former, self.server = self.server, replica
        former.kill()
        assert former.directory is not None
        shutil.rmtree(former.directory)
        self.proxy.target = self._port()
        self.proxy.cut()
        self.client.close()
        self._connect()

    def cut_append_only_file(self, bytes_: int) -> None:
        """Cut the end off the append-only file of a server that does not run."""
        assert self.server.directory is not None
        files = sorted((self.server.directory / "appendonlydir").glob("*.incr.aof"))
        if files and (size := files[-1].stat().st_size):
            os.truncate(files[-1], max(0, size - bytes_))

    # -- processes ---------------------------------------------------------------------------------

    def clocks(self, shifts: list[float]) -> None:
        """Set by how many seconds clocks are off: of executors, then of each dispatcher."""
        raw = struct.pack(f"{len(shifts)}d", *shifts)
        if not self._clocks.exists():
            self._clocks.write_bytes(raw)
        with self._clocks.open("r+b") as file:  # in place: processes have mapped it
            file.write(raw)

    def arm(self, step: str) -> None:
        """Let the first process that comes to the step die there."""
        (self.armed / str(list(self.steps).index(step))).touch()

    def disarm(self) -> None:
        for file in self.armed.iterdir():
            file.unlink(missing_ok=True)

    def revive(self) -> list[str]:
        """Start dispatchers again that have died. Answers those that no signal ended."""
        strange = []
        for name, node in self.dispatchers.items():
            status = node.container.exit_code
            if status is not None and name not in self.away:
                if status != -9:
                    strange.append(f"dispatcher {name} exited with status {status}")
                node.start()
        return strange

    def leader(self) -> str:
        """The dispatcher that leads, or the first."""
        try:
            found = self.reader.leader() or ""
        except redis.RedisError:
            found = ""
        name = found.partition("@")[0]
        return name if name in DISPATCHERS else DISPATCHERS[0]

    def new_events(self) -> list[dict[str, Any]]:
        """What processes have noted since the last call; ``events`` has all of this schedule."""
        with self.effects.open("rb") as file:
            file.seek(self._read)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._read += len(whole)
        found = [json.loads(line) for line in whole.splitlines()]
        self.events += found
        return found

    def note_killed(self, event: dict[str, Any]) -> None:
        """Note that the process of an attempt was killed from outside."""
        killed = event | {"event": "killed", "at": time.monotonic(), "step": "while it runs"}
        with self.effects.open("a") as file:
            file.write(json.dumps(killed) + "\n")

    # -- after a schedule --------------------------------------------------------------------------

    def left_over(self) -> list[str]:
        """What an idle queue does not have."""
        found = []
        for key in EMPTY:
            if members := self.client.zrange(class_key(CLASS, key), 0, 5):
                found.append(f"{key} {members}")
        if messages := self.client.hkeys(class_key(CLASS, "messages")):
            found.append(f"messages {messages[:5]}")
        return found

    def logs(self) -> str:
        logs = [node.container.log_file for node in self.workers]
        return "\n".join(
            f"--- {log.stem}\n{log.read_text(errors='replace')[-20000:]}" for log in logs
        )

    def close(self) -> None:
        for node in self.dispatchers.values():
            node.container.kill("SIGKILL")  # also one that is stopped
        self.launching.close()
        for executor in executors_of(self.url):
            executor.kill()
        self.client.close()
        self.proxy.close()
        self.server.stop()
