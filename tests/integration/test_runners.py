"""Runners of local mode, with dispatchers, Redis and an application."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpuqueue import cli
from gpuqueue.cli.checks.check import Level
from gpuqueue.cli.checks.runners import executors
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import worker_name
from gpuqueue.settings.dispatcher import load
from gpuqueue.store.logs import Logs
from tests.support.nodes import APPS
from tests.support.runners import runners_of, runtimes
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.local_only("runners"),
]
GPU = "gpu.t4.shared"
#: An application in a file that a test can change. ``{}`` is run when it is imported.
APP = """
import os
from celery import Celery, signals
URL = os.environ["CELERY_BROKER_URL"]
app = Celery("own", broker=URL, backend=URL)
{}

@app.task
def value(*args):
    return VALUE

@app.task
def see(*args):
    return [os.getpid(), os.getppid(), SEEN]

SEEN = []
for name in ("celeryd_init", "worker_init", "worker_process_init"):
    @getattr(signals, name).connect(weak=False)
    def note(name=name, **_):
        SEEN.append([name, os.getpid()])
"""


#: The signals that the application hears, in the order of a worker.
SIGNALS = ["celeryd_init", "worker_init", "worker_process_init"]
#: Notes which modules each executor has imported by itself.
IMPORTS = """
import sys
os.register_at_fork(after_in_child=lambda: globals().update(FORKED=set(sys.modules)))

@signals.worker_process_shutdown.connect(weak=False)
def left(**_):
    with open({!r}, "a") as file:
        print(os.getpid(), *(set(sys.modules) - FORKED), file=file)
"""


def write(stack: Stack, text: str) -> None:
    """Write the application, with a time that no earlier version has."""
    path = stack.directory / "own.py"
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(APP.format(text))
    os.utime(path, ns=(before + 10**9, max(before + 10**9, path.stat().st_mtime_ns)))


@pytest.fixture
def own(stack_factory: Callable[..., Stack]) -> Stack:
    path = os.pathsep.join(["", str(APPS)])
    return stack_factory({"PYTHONPATH": path, "GPUQUEUE_APP": "own"})


def ask(stack: Stack, task: str) -> object:
    return stack.app.send_task(f"own.{task}", queue=GPU).get(PATIENCE)


def test_executors_are_forked_from_one_application_and_see_the_signals(own: Stack) -> None:
    write(own, "VALUE = 1")
    own.dispatcher()
    first, second = ask(own, "see"), ask(own, "see")
    [runner] = runners_of(own.url)
    assert isinstance(first, list) and isinstance(second, list)
    assert first[0] != second[0] and first[1] == second[1] == runner.pid
    [found] = executors(load(), "own")
    assert (found.level, str(runner.pid) in found.saw) == (Level.OK, True)
    for pid, parent, seen in (first, second):
        assert seen == [
            ["celeryd_init", parent],
            ["worker_init", parent],
            ["worker_process_init", pid],
        ]


ENDS = """
for name in ("worker_shutting_down", "worker_shutdown"):
    @getattr(signals, name).connect(weak=False)
    def ended(name=name, sig="", **_):
        with open({!r}, "a") as file:
            print(name, os.getpid(), sig, file=file)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_application_is_told_that_its_runner_ends(own: Stack, number: int) -> None:
    noted = own.directory / "ended"
    write(own, ENDS.format(str(noted)))
    own.dispatcher()
    ask(own, "see")
    [runner] = runners_of(own.url)
    assert not noted.exists()
    runner.send_signal(number)
    runner.wait(PATIENCE)
    name = signal.Signals(number).name
    told = [f"worker_shutting_down {runner.pid} {name}", f"worker_shutdown {runner.pid}"]
    assert [line.rstrip() for line in noted.read_text().splitlines()] == told


def test_a_forked_executor_imports_nothing_that_its_runner_has_not(own: Stack) -> None:
    noted = own.directory / "imported"
    write(own, f"VALUE = 1\n{IMPORTS.format(str(noted))}")
    own.dispatcher()
    seen = ask(own, "see")
    assert isinstance(seen, list)
    until(noted.exists, PATIENCE, "the executor has noted what it imported")
    until(lambda: noted.read_text().endswith("\n"), PATIENCE, "all of it")
    assert noted.read_text() == f"{seen[0]}\n"


def test_events_of_a_forked_executor_reach_monitors(own: Stack) -> None:
    write(own, "VALUE = 1\n@app.task\ndef fail():\n    raise ValueError('wrong')")
    own.dispatcher()
    heard: list[dict[str, Any]] = []
    with own.app.connection_for_read() as connection:
        receiver = own.app.events.Receiver(connection, handlers={"*": heard.append})
        with ThreadPoolExecutor(1) as pool:
            capture = pool.submit(receiver.capture, limit=None, timeout=PATIENCE)
            until(lambda: any(each["type"] == "worker-heartbeat" for each in heard), PATIENCE)
            job, failed = (
                own.app.send_task(f"own.{name}", queue=GPU) for name in ("value", "fail")
            )
            assert job.get(PATIENCE) == 1
            assert isinstance(failed.get(PATIENCE, propagate=False), ValueError)

            def of(uuid: str) -> list[dict[str, Any]]:
                return [each for each in heard if each.get("uuid") == uuid]

            def are(uuid: str, expected: list[str]) -> bool:
                return [each["type"] for each in of(uuid)] == expected

            for each, ended in ((job, "task-succeeded"), (failed, "task-failed")):
                expected = ["task-received", "task-started", ended]
                until(partial(are, each.id, expected), PATIENCE, f"{expected}")
            assert of(job.id)[2]["result"] == "1"
            assert "ValueError('wrong')" in of(failed.id)[2]["exception"]
            assert "Traceback" in of(failed.id)[2]["traceback"]
            assert {each["hostname"] for each in heard} == {worker_name("t4")}
            assert not any(each["type"] == "worker-offline" for each in heard)
            receiver.should_stop = True
            capture.result(PATIENCE)


@pytest.mark.slow
def test_an_extended_result_names_the_attempt_and_its_host(own: Stack) -> None:
    text = "@app.task\ndef die():\n    os.kill(os.getpid(), 9)"
    write(own, f"VALUE = 1\napp.conf.result_extended = True\n{text}")
    own.dispatcher()
    done, died = (own.app.send_task(f"own.{name}", queue=GPU) for name in ("value", "die"))
    assert done.get(PATIENCE) == 1
    assert isinstance(died.get(PATIENCE, propagate=False), Exception)
    for job in (done, died):
        assert job.worker == own.known(job.id)["worker"]
        assert job.worker.startswith(f"t4-{job.id}-1@")


@pytest.mark.slow
def test_changed_application_is_imported_again(own: Stack) -> None:
    write(own, "VALUE = 1")
    node = own.dispatcher()
    assert ask(own, "value") == 1
    [before] = runners_of(own.url)
    write(own, "VALUE = 2")
    assert ask(own, "value") == 2
    until(lambda: not before.is_running(), PATIENCE, "the runner of the old code has ended")
    write(own, "raise RuntimeError('half-written')")
    job = own.app.send_task("own.value", queue=GPU)
    until(
        lambda: (own.record(job.id) or {}).get("wait") == "APPLICATION_HELD",
        PATIENCE,
        "it is held",
        lambda: str(own.record(job.id)),
    )
    assert "jobs wait here for their application: GPUQUEUE_APP='own' cannot" in node.logs()
    write(own, "VALUE = 3")
    assert job.get(PATIENCE) == 3


def test_dispatchers_of_one_application_share_a_runner(own: Stack) -> None:
    write(own, "VALUE = 1")
    nodes = [
        own.dispatcher(name, ready=False, env={"GPUQUEUE_TICK_SECONDS": tick})
        for name, tick in (("one", "0.5"), ("two", "0.6"))
    ]
    for node in nodes:
        node.ready()
    assert [ask(own, "value") for _ in range(4)] == [1] * 4
    until(lambda: len(list(runners_of(own.url))) == 1, PATIENCE, "one runner")


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(600,), name='pump', daemon=True).start()",
            "1 threads when it was imported: pump",
        ),
        (
            "import selectors\nclass Loop: pass\nselectors.DefaultSelector = Loop\nos.chdir('/')",
            "replaced selectors.DefaultSelector by that of own",
        ),
        pytest.param(
            "import grpc\nchannel = grpc.insecure_channel('127.0.0.1:1')",
            "of native libraries",
            marks=pytest.mark.slow,
        ),
        pytest.param("opened = open(os.environ['DEVICE'])", "opened", marks=pytest.mark.slow),
    ],
    ids=["threads", "loop", "grpc", "gpu"],
)
def test_application_that_cannot_be_forked_is_spawned(
    own: Stack, tmp_path: Path, does: str, why: str
) -> None:
    if "grpc" in does:
        pytest.importorskip("grpc")
    device = tmp_path / "nvidia-uvm"
    device.touch()
    if why == "opened":
        does += f"\nfrom gpuqueue.runner import safety; safety._GPUS = ({str(device)!r},)"
    own.env["DEVICE"] = str(device)
    write(own, f"{does}\nVALUE = 1")
    node = own.dispatcher()
    seen = ask(own, "see")
    assert isinstance(seen, list)
    assert [name for name, _ in seen[2]] == SIGNALS
    assert {pid for _, pid in seen[2]} == {seen[0]}, "it was imported there"
    assert "executors are started, not forked" in node.logs() and why in node.logs()
    [found] = executors(load(), "own")
    assert (found.level, why in found.saw) == (Level.WARN, True)


def test_output_of_jobs_outlives_the_readers_of_their_dispatcher(own: Stack) -> None:
    write(own, "VALUE = 1\n@app.task\ndef loud():\n    print('x' * 300_000, flush=True)")
    node = own.dispatcher(ready=False)
    node.stop()
    env = {**os.environ, **node.container.environment, "PYTHONPATH": f":{APPS}"}
    with subprocess.Popen(
        node.container.argv,
        env=env,
        cwd=own.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as dispatcher:
        assert dispatcher.stdout
        for line in dispatcher.stdout:
            if b"ready." in line:
                break
        jobs = [own.app.send_task("own.loud", queue=GPU) for _ in range(3)]  # it is not read
        assert [job.get(PATIENCE) for job in jobs] == [None] * 3
        dispatcher.stdout.close()
        assert own.app.send_task("own.loud", queue=GPU).get(PATIENCE) is None
        dispatcher.kill()


@pytest.mark.slow
def test_two_hundred_forks_of_an_application_with_threads_and_connections(own: Stack) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("grpc")
    write(
        own,
        "import grpc, numpy, redis\n"
        "a = numpy.ones((400, 400)); a @ a\n"
        "shared = redis.Redis.from_url(URL); shared.ping()\n"
        "VALUE = 1\n"
        "@app.task\n"
        "def multiply():\n"
        "    shared.connection_pool.reset(); shared.ping()\n"
        "    return float((a @ a)[0, 0])\n"
        "@app.task\n"
        "def call():\n"
        "    with grpc.insecure_channel('127.0.0.1:1') as channel:\n"
        "        try: channel.unary_unary('/a/b')(b'', timeout=60)\n"
        "        except grpc.RpcError as exc: return exc.code().name",
    )
    node = own.dispatcher()
    jobs = [own.app.send_task("own.multiply", queue=GPU) for _ in range(190)]
    calls = [own.app.send_task("own.call", queue=GPU) for _ in range(10)]
    assert {job.get(2 * PATIENCE) for job in jobs} == {400.0}
    assert {job.get(2 * PATIENCE) for job in calls} == {"UNAVAILABLE"}
    assert "not forked" not in node.logs()
    own.idle()
    assert len(list(runners_of(own.url))) == 1


def test_logs_of_a_process_are_followed_and_kept(
    own: Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = own.directory / "gate"
    write(
        own,
        "import time\n"
        "VALUE = 1\n"
        "@app.task\n"
        "def talk():\n"
        "    print('first words', flush=True)\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
        "    print('last words', flush=True)",
    )
    node = own.dispatcher()
    monkeypatch.setenv("CELERY_BROKER_URL", own.url)
    job = own.app.send_task("own.talk", queue=GPU)
    own.in_state(job.id, "running")
    until(lambda: f"{job.id}#1 | first words" in node.logs(), PATIENCE, "the dispatcher shows it")
    assert cli.main(["logs", job.id]) == 0
    shown = capfd.readouterr().out
    assert "first words" in shown and "last words" not in shown
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(cli.main, ["logs", "-f", job.id])
        gate.touch()
        assert following.result(PATIENCE) == 0
    followed = capfd.readouterr().out
    assert followed.count("first words") == followed.count("last words") == 1
    own.idle()
    until(lambda: Logs(own.client).has(Attempt("t4", job.id, 1)), PATIENCE, "Redis keeps it")
    for runtime in runtimes():
        for path in (runtime.path / "output").iterdir():
            path.unlink()
    assert cli.main(["logs", job.id]) == 0
    assert "last words" in capfd.readouterr().out
