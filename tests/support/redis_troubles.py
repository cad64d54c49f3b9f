"""States of a Redis server in which it refuses commands for a while."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Protocol

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.endpoints import free_port
from tests.support.nodes import WorkerNode
from tests.support.waiting import PATIENCE, until


class Served(Protocol):
    """A server, and dispatchers that use it."""

    @property
    def server_url(self) -> str: ...

    @property
    def directory(self) -> Path: ...

    @property
    def workers(self) -> list[WorkerNode]: ...


class Trouble:
    """A state of the server, for the time of its context. ``word`` begins the errors that it
    gives, ``enough`` are seen when everything has met it.
    """

    word = ""
    enough = 3

    def __init__(self, stack: Served) -> None:
        self.stack = stack
        self.client = redis.Redis.from_url(
            stack.server_url, decode_responses=True, single_connection_client=True
        )

    def __enter__(self) -> Trouble:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.client.close()

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def errors(self) -> int:
        """How many errors of the word the server has given."""
        stats = self.client.info("errorstats")
        found: int = stats.get(f"errorstat_{self.word}", {}).get("count", 0)
        return found


class ReadOnly(Trouble):
    """celery#7946: the server is a replica for a while. Its primary does not answer."""

    word = "READONLY"

    def begin(self) -> None:
        self.client.replicaof("127.0.0.1", free_port())

    def end(self) -> None:
        self.client.replicaof("NO", "ONE")


class MasterDown(ReadOnly):
    word = "MASTERDOWN"

    def begin(self) -> None:
        self.client.config_set("replica-serve-stale-data", "no")
        super().begin()

    def end(self) -> None:
        super().end()
        self.client.config_set("replica-serve-stale-data", "yes")


class OutOfMemory(Trouble):
    word = "OOM"

    def begin(self) -> None:
        self.client.config_set("maxmemory", "1")

    def end(self) -> None:
        self.client.config_set("maxmemory", "0")


class NoReplicas(Trouble):
    word = "NOREPLICAS"

    def begin(self) -> None:
        self.client.config_set("min-replicas-to-write", "1")

    def end(self) -> None:
        self.client.config_set("min-replicas-to-write", "0")


class NoDisk(Trouble):
    """A folder stands where the server saves its data."""

    word = "MISCONF"

    def _save(self, result: str) -> None:
        self.client.bgsave()
        until(
            lambda: self.client.info("persistence")["rdb_last_bgsave_status"] == result,
            what=f"a save that ends with {result}",
        )

    def begin(self) -> None:
        self._folder = Path(str(self.client.config_get("dir")["dir"])) / "dump.rdb"
        if self._folder.is_file():
            self._folder.unlink()
        self._folder.mkdir()
        self.client.config_set("save", "3600 1")
        self._save("err")

    def end(self) -> None:
        shutil.rmtree(self._folder)
        self._save("ok")
        self.client.config_set("save", "")


class Busy(Trouble):
    """A script runs that does not end. The server tells no numbers meanwhile: logs do."""

    word = "BUSY"
    enough = 1

    def begin(self) -> None:
        self._before = self._logged()
        self.client.config_set("lua-time-limit", "20")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(self._is_busy, what="a server that is busy")

    def _is_busy(self) -> bool:
        try:
            self.client.ping()
        except redis.ResponseError as exc:
            return str(exc).startswith(self.word)
        return False

    def _run(self) -> None:
        with (
            redis.Redis.from_url(self.stack.server_url, socket_timeout=PATIENCE) as client,
            pytest.raises(redis.ResponseError, match="SCRIPT KILL"),
        ):
            client.eval("while true do end", 0)

    def _logged(self) -> int:
        found: int = self.stack.workers[0].logs().count("busy running a script")
        return found

    def end(self) -> None:
        self.client.script_kill()
        self._thread.join()

    def errors(self) -> int:
        return self._logged()


class Connections(Trouble):
    """The server closes all connections and takes no new ones."""

    def begin(self) -> None:
        self._most = str(self.client.config_get("maxclients")["maxclients"])
        self._refused = self._rejected()
        self.client.config_set("maxclients", "1")
        self.client.client_kill_filter(_type="normal", skipme=True)

    def _rejected(self) -> int:
        found: int = self.client.info("stats")["rejected_connections"]
        return found

    def end(self) -> None:
        self.client.config_set("maxclients", self._most)

    def errors(self) -> int:
        return self._rejected()


class NoRights(Trouble):
    """The users are loaded again, and for a while the one of all processes has no rights."""

    word = "NOPERM"

    def begin(self) -> None:
        self.client.acl_setuser(
            "admin",
            enabled=True,
            passwords=["+secret"],
            commands=["+@all"],
            keys=["*"],
            channels=["*"],
        )
        self.client.auth("secret", "admin")
        self._refuse()
        self.client.client_kill_filter(_type="normal", skipme=True)

    def _refuse(self) -> None:
        self.client.acl_setuser("default", enabled=True, commands=["-@all"])

    def end(self) -> None:
        self.client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"])


class NoUser(NoRights):
    """The same, and it cannot log in."""

    word = "NOAUTH"

    def _refuse(self) -> None:
        self.client.acl_setuser("default", enabled=False)


class Loading(Trouble):
    """The server is a replica for a while, and loads the same data slowly."""

    word = "LOADING"

    def begin(self) -> None:
        self._other = EmbeddedRedis(self.stack.directory / "other").start()
        host, port = "127.0.0.1", int(self._other.url.rpartition(":")[2].partition("/")[0])
        self.client.mset({f"filler:{number}": "x" * 100 for number in range(2000)})
        own = int(self.stack.server_url.rpartition(":")[2].partition("/")[0])
        self.client.config_set("repl-diskless-sync-delay", "0")
        with redis.Redis.from_url(self._other.url, decode_responses=True) as other:
            other.replicaof(host, own)
            until(
                lambda: other.info("replication").get("master_link_status") == "up",
                what="a copy of the data",
            )
            other.replicaof("NO", "ONE")
            other.config_set("repl-diskless-sync-delay", "0")
        self.client.set("filler", "ahead of the copy: only a full load makes both equal")
        self.client.config_set("loading-process-events-interval-bytes", "1024")
        self.client.config_set("key-load-delay", "1500")
        self.client.replicaof(host, port)
        until(lambda: self.errors() > 0, what="an error while it loads")

    def end(self) -> None:
        until(lambda: not self.client.info("persistence")["loading"], what="all data are loaded")
        self.client.config_set("key-load-delay", "0")
        self.client.replicaof("NO", "ONE")
        self._other.stop()
