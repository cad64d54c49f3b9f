"""A Redis with the users of deploy/redis/users.acl, loaded from the file, and a record of what each
of them does.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import subprocess
import threading
from collections import defaultdict
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from gpuqueue.dev.embedded_redis import find_server
from gpuqueue.dev.redis_process import HOST
from tests.support.endpoints import free_port
from tests.support.gate import Gate
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
USERS_FILE = ROOT / "deploy" / "redis" / "users.acl"
USERS = ("client", "worker", "dispatcher", "executor", "flower")
#: The address that each user's gate has for the server: MONITOR tells addresses, not names.
SOURCES = {user: f"127.0.0.{number}" for number, user in enumerate(USERS, 11)}
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


def filled(text: str, passwords: dict[str, str], *, quiet: bool = True) -> str:
    """Return the file as its own head says that it is made.

    ``quiet``: with the words by which clients may introduce themselves to the server that is here.
    """
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    made = "\n".join(lines) + "\n"
    for user, password in passwords.items():
        made = made.replace(
            f"SHA256_OF_{user.upper()}_PASSWORD", hashlib.sha256(password.encode()).hexdigest()
        )
    return made.replace(" +ping", f"{introductions()} +ping") if quiet else made


def introductions() -> str:
    """Return the words that the head of users.acl names for the server's version."""
    if server_version() < (7, 0):
        return " +client|setinfo +client|maint_notifications"
    return " +client|setinfo" if server_version() >= (7, 2) else ""


@cache
def server_version() -> tuple[int, int]:
    """Which Redis is here."""
    said = subprocess.run(
        [find_server(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


class AclRedis:
    """A context manager: the server, a gate for each user, and an administrator's client.

    ``used`` has what each user ran, commands within scripts included; MONITOR leaves out the
    commands of connections and administrators.
    """

    def __init__(self, folder: Path, rules: str | None = None) -> None:
        self._folder = folder
        self._rules = rules or USERS_FILE.read_text()
        self.passwords = {user: secrets.token_hex(8) for user in ("admin", *USERS)}
        self._stack = ExitStack()
        self._gates: dict[str, Gate] = {}
        self._lock = threading.Lock()
        self._used: dict[str, dict[str, set[tuple[str, ...]]]] = defaultdict(
            lambda: defaultdict(set)
        )

    def __enter__(self) -> AclRedis:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "users.acl").write_text(filled(self._rules, self.passwords))
        self.port = free_port()
        words = (
            f"--bind {HOST} --port {self.port} --appendonly yes --aclfile users.acl"
            " --acllog-max-len 1000 --logfile redis.log"
        )
        if server_version() >= (7, 0):
            # else DEBUG is refused to everybody, before anybody's rights are looked at
            words += " --enable-debug-command yes"
        self._server = subprocess.Popen(
            [find_server(), *words.split(), "--save", ""],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(self._end)
        self.admin = redis.Redis(
            HOST,
            self.port,
            username="admin",
            password=self.passwords["admin"],
            decode_responses=True,
        )
        self._stack.callback(self.admin.close)
        until(self._answers, PATIENCE, "the Redis with users answers", self.log)
        for user in USERS:
            self._gates[user] = self._stack.enter_context(Gate(self.port, source=SOURCES[user]))
        self._watch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def log(self) -> str:
        """What the server wrote."""
        path = self._folder / "redis.log"
        return path.read_text() if path.exists() else ""

    def url(self, user: str, *, password: str | None = None, db: int = 0) -> str:
        """The address for a user."""
        password = password or self.passwords[user]
        return f"redis://gpuqueue-{user}:{password}@{HOST}:{self._gates[user].port}/{db}"

    def as_user(self, user: str) -> redis.Redis:
        """A client of a user."""
        return redis.Redis.from_url(self.url(user), decode_responses=True)

    def denied(self) -> list[dict[str, Any]]:
        """What was refused to anybody since the last look."""
        found: list[dict[str, Any]] = self.admin.acl_log()
        self.admin.acl_log_reset()
        return found

    def granted(self, user: str) -> tuple[set[str], set[str], set[str]]:
        """Which commands, key patterns and channel patterns a user has."""
        found: Any = self.admin.acl_getuser(f"gpuqueue-{user}")
        keys, channels = (
            [each] if isinstance(each, str) else each for each in (found["keys"], found["channels"])
        )
        split = [
            {word.lstrip("~&") for part in each for word in part.split()}
            for each in (keys, channels)
        ]
        return {
            word.removeprefix("+") for word in found["commands"] if word.startswith("+")
        }, *split  # type: ignore[return-value]

    def used(self, user: str) -> dict[str, set[tuple[str, ...]]]:
        """What a user ran so far: command → the arguments, cut, of each call."""
        with self._lock:
            return {name: set(calls) for name, calls in self._used[user].items()}

    def _answers(self) -> bool:
        assert self._server.poll() is None, self.log()
        try:
            return bool(self.admin.ping())
        except redis.ConnectionError:
            return False

    def _end(self) -> None:
        self._server.terminate()
        self._server.wait(10)

    def _watch(self) -> None:
        line = socket.create_connection((HOST, self.port))
        line.sendall(f"AUTH admin {self.passwords['admin']}\r\nMONITOR\r\n".encode())
        reader = line.makefile("rb")
        assert [reader.readline() for _ in range(2)] == [b"+OK\r\n", b"+OK\r\n"]
        thread = threading.Thread(target=self._note, args=(reader,), daemon=True)
        thread.start()
        self._stack.callback(thread.join, 10)
        self._stack.callback(line.close)
        self._stack.callback(line.shutdown, socket.SHUT_RDWR)

    def _note(self, reader: Any) -> None:
        users = {address: user for user, address in SOURCES.items()}
        user: str | None = None
        for line in reader:
            who = line.partition(b"[")[2].partition(b"]")[0].split()[-1].decode()
            if who != "lua":  # a script's commands come right after the call of it
                user = users.get(who.rpartition(":")[0])
            if user is None:
                continue
            name, *words = (_plain(word) for word in _WORD.findall(line))
            name = name.lower()
            if name == "script":
                name = f"{name}|{words[0].lower()}"
            with self._lock:
                self._used[user][name].add(tuple(word[:200] for word in words[:40]))


def _plain(word: bytes) -> str:
    def value(found: re.Match[bytes]) -> bytes:
        said = found[1]
        return bytes([int(said[1:], 16)]) if len(said) == 3 else _NAMED.get(said, said)

    return _ESCAPE.sub(value, word).decode(errors="replace")
