"""Reads MONITOR of Redis while a benchmark runs: the process, the time and the purpose of each
command.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self

import psutil
import redis

from gpuqueue.store.client import connect
from gpuqueue.store.scripts import source

_CONNECTING = (
    "HELLO",
    "CLIENT",
    "AUTH",
    "SELECT",
    "PING",
    "INFO",
    "COMMAND",
    "SCRIPT",
    "MONITOR",
    "READONLY",
)
#: Scripts that each job calls; the watcher calls the others.
_VERBS = (
    *(
        "intake/take",
        "accept",
        "enqueue",
        "launched",
        "claim",
        "loaded",
        "sampled",
        "report",
        "reported",
        "release",
    ),
    *("finish_claim", "finished"),
)
_MARK = "bench:monitor:end"


@cache
def _shas() -> frozenset[str]:
    return frozenset(hashlib.sha1(source(verb).encode()).hexdigest() for verb in _VERBS)


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``port`` is the port of its client, or 0 if a script ran it inside Redis. ``at``
    is Unix seconds by the clock of Redis.
    """

    at: float
    port: int
    text: str

    @property
    def verb(self) -> str:
        """The name of the command."""
        return self.text.partition(" ")[0].upper()

    @property
    def about(self) -> str:
        """The purpose: ``state`` (of gpuqueue), ``backend``, ``connection``, ``broker`` (with
        events), ``rest`` (not part of a job).
        """
        if self.verb in _CONNECTING:
            return "connection"
        if "worker.heartbeat" in self.text:
            return "rest"
        if re.search(r"gpuqueue:\d+:", self.text):
            return (
                "state" if self.verb == "EVALSHA" and self.text.split(" ")[1] in _shas() else "rest"
            )
        return (
            "backend"
            if "celery-task-meta-" in self.text or "celery-taskset-meta-" in self.text
            else "broker"
        )


def round_trips(commands: list[Command]) -> list[str]:
    """Return one line for each round trip of clients: a transaction, MULTI to EXEC, is one."""
    trips: list[str] = []
    inside: dict[int, list[Command]] = {}
    for each in commands:
        if each.verb == "MULTI":
            inside[each.port] = []
        elif each.verb == "EXEC" and each.port in inside:
            parts = inside.pop(each.port)
            trips.append(
                f"{'+'.join(part.verb for part in parts)} ({parts[0].about if parts else 'broker'})"
            )
        elif each.port in inside:
            inside[each.port].append(each)
        elif each.port:
            trips.append(f"{each.verb} ({each.about})")
    return trips


class Monitor:
    """A context manager that reads until its end; then ``commands`` contains all of them."""

    def __init__(self, url: str) -> None:
        self._client: redis.Redis = connect(url)
        self.commands: list[Command] = []
        self._reading = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._reading.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.echo(_MARK)
        self._thread.join(10)
        self._client.close()

    def _read(self) -> None:
        with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
            self._reading.set()
            for each in monitor.listen():
                seen: dict[str, Any] = each
                if _MARK in seen["command"]:
                    return
                port = 0 if seen["client_type"] == "lua" else int(seen["client_port"] or 0)
                self.commands.append(Command(float(seen["time"]), port, seen["command"]))


class Ports:
    """All local ports that processes have used, sampled every few milliseconds because connections
    are short-lived.
    """

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes
        self.owner: dict[int, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(5)
        self._look()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look()
            time.sleep(0.05)

    def _look(self) -> None:
        for name, process in self._processes.items():
            for connection in process.net_connections("tcp"):
                self.owner[connection.laddr.port] = name
