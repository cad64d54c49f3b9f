"""How ``doctor`` says that executors start here: what the runners of the machine answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuqueue.cli.checks.check import Level
from gpuqueue.cli.checks.runners import executors
from gpuqueue.launchers.local import greeting, wire
from gpuqueue.launchers.local.runtime import Runtime, prepare
from gpuqueue.settings.dispatcher import Settings, load


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("GPUQUEUE_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(greeting, "WITHIN", 0.2)
    return load()


@contextlib.contextmanager
def answering(runtime: Runtime, *said: bytes) -> Iterator[None]:
    """A process in place of the runner of a directory, which says this to those who connect."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime.socket))
        listener.listen()

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    for each in said:
                        connection.sendall(each)
                    connection.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def hello(app: str = "shop", **more: str) -> bytes:
    return wire.encode("hello", version="1", pid=7, app=app, **{"unsafe": "", **more})


def looked(settings: Settings) -> tuple[Level, str]:
    [found] = executors(settings, "shop")
    assert bool(found.fix) == (found.level is Level.WARN)
    return found.level, found.saw


def test_runner_that_forks_is_named(settings: Settings, tmp_path: Path) -> None:
    with answering(prepare(tmp_path, "one"), hello()):
        level, saw = looked(settings)
    assert level is Level.OK and "forked" in saw and "pid 7" in saw


def test_the_reason_of_a_runner_that_spawns_is_shown(settings: Settings, tmp_path: Path) -> None:
    whole = hello(unsafe="the application started 3 threads")
    with answering(prepare(tmp_path, "one"), whole[:9], whole[9:]):
        level, saw = looked(settings)
    assert level is Level.WARN and saw.endswith("the application started 3 threads")


def test_a_runner_without_the_application_says_why(settings: Settings, tmp_path: Path) -> None:
    with answering(prepare(tmp_path, "one"), hello(problem="it cannot be imported; correct it")):
        assert looked(settings) == (Level.WARN, "it cannot be imported")


@pytest.mark.parametrize(
    "said",
    [hello("other"), b"", b"no message\n", wire.encode("ended", nonce="n")],
    ids=["another application", "silent", "malformed", "no greeting"],
)
def test_without_the_answer_of_its_runner_nothing_is_known(
    settings: Settings, tmp_path: Path, said: bytes
) -> None:
    with answering(prepare(tmp_path, "one"), said):
        level, saw = looked(settings)
    assert level is Level.OK and saw.startswith("not known")


def test_without_a_runner_nothing_is_known(settings: Settings, tmp_path: Path) -> None:
    prepare(tmp_path, "one")
    assert looked(settings)[1].startswith("not known")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("GPUQUEUE_START", "spawn", ["GPUQUEUE_START=spawn: each one imports the application"]),
        ("GPU_EXECUTION_MODE", "k8s_job", []),
    ],
)
def test_settings_that_say_it_ask_no_runner(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    expected: list[str],
) -> None:
    monkeypatch.setenv(name, value)
    with answering(prepare(tmp_path, "one"), hello()):
        assert [each.saw for each in executors(load(), "shop")] == expected
