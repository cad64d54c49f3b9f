"""Errors of Redis that pass: jobs end meanwhile, each runs once, and the dispatcher goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from celery import Signature
from celery.result import AsyncResult

from gpuqueue.cli import main
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.errors import ExecutorDied
from gpuqueue.store.reader import Reader
from tests.support.crash_stack import CrashStack
from tests.support.launching import LOCAL
from tests.support.nodes import WorkerNode
from tests.support.redis_troubles import (
    Busy,
    Connections,
    Loading,
    MasterDown,
    NoDisk,
    NoReplicas,
    OutOfMemory,
    ReadOnly,
    Trouble,
)
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[CrashStack]:
    with listed(running_stacks, CrashStack(tmp_path_factory.mktemp("stack"), LOCAL)) as made:
        made.start().ready()
        yield made


@pytest.fixture
def dispatcher(stack: CrashStack) -> WorkerNode:
    return stack.workers[0]


TROUBLES = [ReadOnly, MasterDown, OutOfMemory, NoReplicas, NoDisk, Busy, Connections, Loading]


def wait_for_notes(stack: CrashStack, *words: str) -> None:
    until(
        lambda: set(words) <= set(stack.noted()), PATIENCE, str(words), lambda: str(stack.noted())
    )


def more_errors(trouble: Trouble) -> None:
    """Wait until the server has given more errors than now."""
    wanted = trouble.errors() + trouble.enough
    until(lambda: trouble.errors() >= wanted, PATIENCE, f"more errors {trouble.word}")


def assert_well(stack: CrashStack, dispatcher: WorkerNode) -> None:
    """The same dispatcher accepts and ends another job, and nothing is left."""
    assert stack.send("work", 21).get(timeout=PATIENCE) == 42
    until(stack.is_idle, PATIENCE, "an idle queue", dispatcher.logs)
    assert dispatcher.container.exit_code is None
    assert "Unrecoverable error" not in dispatcher.logs()


def attempts(stack: CrashStack, result: AsyncResult) -> int:
    record = stack.record(result.id)
    assert record is not None
    return record["attempt"]


def send_jobs(stack: CrashStack, gate: Path) -> tuple[AsyncResult, AsyncResult, AsyncResult]:
    """Start a job that succeeds and has a callback, one that fails and has an errback, and one that
    asks for a second try; all at the gate.
    """

    def work(number: int) -> Signature:
        return stack.sender.signature(
            "crashshop.work", (number,), queue="gpu.t4.shared", immutable=True
        )

    jobs = (
        stack.send("finish_at", str(gate), link=work(1)),
        stack.send("fail_at", str(gate), link_error=work(2)),
        stack.send("retry_at", str(gate)),
    )
    wait_for_notes(stack, "working", "failing", "try 0")
    return jobs


def notes_of_jobs(gate: Path) -> list[str]:
    """The notes of these jobs, each run once."""
    begun, let_go = ["working", "failing", "try 0"], [f"let go by {gate.name}"] * 3
    return [*begun, *let_go, "try 1", "ran 1", "ran 2"]


def assert_results(finishing: AsyncResult, failing: AsyncResult, retrying: AsyncResult) -> None:
    assert finishing.get(timeout=PATIENCE) == "finished"
    assert retrying.get(timeout=PATIENCE) == "retried"
    with pytest.raises(ValueError, match="as asked"):
        failing.get(timeout=PATIENCE)


@pytest.mark.parametrize("kind", TROUBLES, ids=lambda kind: kind.__name__)
def test_jobs_that_end_meanwhile_wait_and_run_once(
    stack: CrashStack, dispatcher: WorkerNode, tmp_path: Path, kind: type[Trouble]
) -> None:
    gate = tmp_path / f"gate{len(stack.sent)}"
    stack.notes.write_text("")
    jobs = send_jobs(stack, gate)
    # In any of its steps when the trouble begins. The copy of the data is older than these.
    starting = stack.send("work", 3) if kind is not Loading else None

    with kind(stack) as trouble:
        gate.touch()
        until(lambda: stack.noted().count(f"let go by {gate.name}") == 3, PATIENCE, "three ends")
        more_errors(trouble)

    assert_results(*jobs)
    wait_for_notes(stack, "ran 1", "ran 2")
    if starting is not None:
        assert starting.get(timeout=PATIENCE) == 6
    assert_well(stack, dispatcher)
    worked = ["ran 21"] if starting is None else ["ran 3", "ran 21"]
    assert sorted(stack.noted()) == sorted([*notes_of_jobs(gate), *worked])
    assert [attempts(stack, each) for each in jobs] == [1, 1, 1]


@pytest.fixture
def apart(tmp_path: Path, running_stacks: list[Stack]) -> Iterator[CrashStack]:
    """A stack whose state is on another Redis than its messages and results."""
    with (
        EmbeddedRedis(tmp_path / "state") as state,
        listed(running_stacks, CrashStack(tmp_path / "stack", LOCAL)) as made,
    ):
        made.env["GPUQUEUE_REDIS_URL"] = state.url
        made.client.close()
        made.client = redis.Redis.from_url(state.url, decode_responses=True)
        made.reader = Reader(made.client)
        made.start().ready()
        yield made


@pytest.mark.parametrize(
    "kind", [ReadOnly, NoReplicas, Connections], ids=lambda kind: kind.__name__
)
def test_callbacks_retries_and_results_wait(
    apart: CrashStack, tmp_path: Path, kind: type[Trouble]
) -> None:
    gate = tmp_path / "gate"
    jobs = send_jobs(apart, gate)
    finishing, failing, _ = jobs

    def outcomes() -> list[object]:
        return [(apart.record(each.id) or {}).get("outcome") for each in (finishing, failing)]

    with kind(apart) as trouble:
        gate.touch()
        until(lambda: all(outcomes()), PATIENCE, "two outcomes", lambda: str(outcomes()))
        trouble.enough = 30  # more than the tries of Celery
        more_errors(trouble)
    assert_results(*jobs)
    wait_for_notes(apart, "ran 1", "ran 2")
    assert_well(apart, apart.workers[0])
    assert sorted(apart.noted()) == sorted([*notes_of_jobs(gate), "ran 21"])
    assert [attempts(apart, each) for each in jobs] == [1, 1, 1]


@pytest.mark.parametrize("kind", [ReadOnly, Busy], ids=lambda kind: kind.__name__)
def test_a_dispatcher_outlives_more_than_its_patience(
    stack: CrashStack, dispatcher: WorkerNode, kind: type[Trouble]
) -> None:
    before = dispatcher.logs().count("watcher: Redis: ")
    with kind(stack):
        until(
            lambda: dispatcher.logs().count("watcher: Redis: ") > before,
            PATIENCE,
            "a watcher that has given up once",
            dispatcher.logs,
        )
    assert_well(stack, dispatcher)


def test_a_message_stays_in_its_list_until_redis_takes_its_note(
    stack: CrashStack, dispatcher: WorkerNode
) -> None:
    """Redis hands nothing to a stopped dispatcher, and then has no memory for the note."""
    stack.notes.write_text("")
    process = psutil.Process(dispatcher.pid)
    process.suspend()
    until(lambda: process.status() == psutil.STATUS_STOPPED, PATIENCE, "it has stopped")
    for _ in range(2):  # after that Redis has answered what the dispatcher had asked
        stack.client.ping()
    try:
        results = [stack.send("work", number) for number in range(3)]
        assert stack.client.llen("gpu.t4.shared") == 3
        with OutOfMemory(stack) as trouble:
            process.resume()
            more_errors(trouble)
    finally:
        process.resume()
    assert [each.get(timeout=PATIENCE) for each in results] == [0, 2, 4]
    assert_well(stack, dispatcher)
    assert sorted(stack.noted()) == ["ran 0", "ran 1", "ran 2", "ran 21"]


def test_how_an_executor_died_meanwhile_is_not_forgotten(
    stack: CrashStack, dispatcher: WorkerNode, tmp_path: Path
) -> None:
    stack.notes.write_text("")
    dying = stack.send("finish_at", str(tmp_path / "never"))
    wait_for_notes(stack, "working")
    record = stack.in_state(dying.id, "running")
    with ReadOnly(stack):
        stack.process_of(record).kill()
        until(
            lambda: f"{dying.id}: end not written yet" in dispatcher.logs(),
            PATIENCE,
            "an end that waits",
            dispatcher.logs,
        )
    with pytest.raises(ExecutorDied):
        dying.get(timeout=PATIENCE)
    assert attempts(stack, dying) == 1
    assert_well(stack, dispatcher)
    assert stack.noted().count("working") == 1


def test_a_dispatcher_waits_at_its_start(stack: CrashStack) -> None:
    with NoDisk(stack):
        node, other = stack.start("waiting"), stack.start("stopped")
        until(
            lambda: all(
                "cannot save to its disk: MISCONF" in each.logs() for each in (node, other)
            ),
            PATIENCE,
            "two dispatchers that wait",
            node.logs,
        )
        other.container.kill("SIGTERM")
    node.ready()
    node.stop()


def test_commands_name_the_state_of_redis_and_the_fix(
    stack: CrashStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)

    def output(*arguments: str) -> str:
        assert main(arguments)
        printed = capsys.readouterr()
        return printed.out + printed.err

    with ReadOnly(stack):
        checks = {each["name"]: each for each in json.loads(output("doctor", "--json"))["checks"]}
        assert "is read-only: You can't write" in checks["redis writes"]["saw"]
        assert checks["redis writes"]["fix"] == "try again when it is the primary again"
        (line,) = output("cancel", "no-such-job").splitlines()
        assert line.startswith("gpuqueue: Redis is read-only: ")
        assert line.endswith("; try again when it is the primary again")
    with Busy(stack):
        where = f"CELERY_BROKER_URL='{stack.url}' is busy with a script: BUSY "
        assert output("status").startswith(f"gpuqueue: {where}")


def test_killed_connections_cost_nothing(
    stack: CrashStack, dispatcher: WorkerNode, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    stack.notes.write_text("")
    results = [stack.send("finish_at", str(gate)) for _ in range(3)]
    until(lambda: stack.noted().count("working") == 3, PATIENCE, "three running jobs")
    gate.touch()

    def ended() -> bool:
        stack.client.client_kill_filter(_type="normal", skipme=True)
        return stack.noted().count(f"let go by {gate.name}") == 3

    until(ended, PATIENCE, "the end of all jobs")
    assert [each.get(timeout=PATIENCE) for each in results] == ["finished"] * 3
    assert_well(stack, dispatcher)
    assert stack.noted().count("working") == 3
