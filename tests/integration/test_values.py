"""Values arrive as they were sent, in whichever form an application sends and accepts them."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from celery import chain, chord
from celery.exceptions import TaskRevokedError
from kombu.exceptions import EncodeError
from kombu.utils.json import loads

from gpuqueue import errors
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.names import worker_name
from tests.support.command_line import run_command
from tests.support.nodes import ProcessContainer, WorkerNode
from tests.support.stack import Stack, listed, load_application
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
CPU, GPU, ALONE = "celery", "gpu.t4.shared", "gpu.t4.exclusive"
FILE = os.fsdecode(b"caf\xe9.txt")
TYPED: list[Any] = [
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    date(2026, 1, 2),
    time(3, 4, 5),
    UUID(int=7),
    Decimal("1.10"),
    b"text",
    b"\x80\xff",
    math.inf,
    -math.inf,
    FILE,
]


def test_values_come_back_with_their_types(shop: ModuleType, stack: Stack, queue: str) -> None:
    sent = {"list": TYPED, FILE: math.nan}
    result = shop.echo.apply_async((sent,), queue=queue)
    found = result.get(PATIENCE)
    assert found["list"] == TYPED
    assert [type(each) for each in found["list"]] == [type(each) for each in TYPED]
    assert math.isnan(found[FILE])


def test_an_error_that_names_a_file_comes_back(
    shop: ModuleType, stack: Stack, key: str, queue: str
) -> None:
    result = shop.fail.apply_async((FILE,), queue=queue, link_error=shop.new_errback.s(key))
    with pytest.raises(ValueError, match=FILE):
        result.get(PATIENCE)
    assert stack.told(key)[2:] == ["ValueError", f"no {FILE}", True]


# -- other forms -----------------------------------------------------------------------------------

FORMS = ["json", "msgpack", "yaml", "pickle", "tight"]
#: kombu's YAML writes no signatures: its applications send no links, chains and chords.
CANVAS = [form for form in FORMS if form != "yaml"]


class Parcels:
    """A stack of an application that sends one form, and the application as its callers have it."""

    def __init__(self, stack: Stack, form: str, app: ModuleType) -> None:
        self.stack, self.form, self.app = stack, form, app

    def send(self, task: str, *args: Any, queue: str = GPU, **options: Any) -> Any:
        return getattr(self.app, task).apply_async(args, queue=queue, **options)

    def on(self, queue: str, task: str, *args: Any) -> Any:
        return getattr(self.app, task).s(*args).set(queue=queue)

    def told(self, key: str) -> Any:
        """What a task has told, with its types."""
        found: Any = self.stack.client.blpop([f"told:{key}"], timeout=PATIENCE)
        assert found is not None, f"no task told of {key}"
        return loads(found[1])

    def cli(self, *arguments: str) -> str:
        done = run_command(arguments, env={**os.environ, **self.stack.env})
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cli_json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json"))


@pytest.fixture(scope="module")
def parcels(
    tmp_path_factory: pytest.TempPathFactory,
    running_stacks: list[Stack],
    kind: str,
    request: pytest.FixtureRequest,
) -> Iterator[Parcels]:
    form = request.param
    # Celery lets no root run a worker that reads pickles, otherwise.
    variables = {"PARCELS_SERIALIZER": form, "C_FORCE_ROOT": "1"}
    folder = tmp_path_factory.mktemp(form)
    with listed(running_stacks, Stack(folder, variables, "parcels", kind)) as stack:
        os.environ.update(variables)
        try:
            app = load_application("parcels", stack.url)
        finally:
            del os.environ["PARCELS_SERIALIZER"]
        stack.dispatcher()
        stack.cpu_worker()
        yield Parcels(stack, form, app)
        app.app.close()


forms = pytest.mark.parametrize("parcels", FORMS, indirect=True)
canvas = pytest.mark.parametrize("parcels", CANVAS, indirect=True)


def values(found: Parcels) -> list[Any]:
    """Values that its form can hold."""
    plain = [1, 2.5, "text", None, True, [1], {"a": 1}, math.inf]
    more: dict[str, list[Any]] = {
        "json": [*TYPED, found.app.Fruit("pear", 3)],
        "msgpack": [b"\x80\xff", 2**63],
        "yaml": [b"\x80\xff", date(2026, 1, 2), TYPED[0]],
        "pickle": [*TYPED, {1, 2}, (1, (2, 3)), 1j, Exception],
        "tight": [*TYPED, found.app.Fruit("pear", 3)],
    }
    return plain + more[found.form]


@pytest.mark.slow
@forms
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_call_arrives_as_on_a_worker_of_its_application(
    parcels: Parcels, compression: str | None
) -> None:
    sent = values(parcels)
    expected = [type(each).__name__ for each in sent]
    for queue in (CPU, GPU):
        task = parcels.app.names
        result = task.apply_async(
            sent[:1],
            {f"n{number}": value for number, value in enumerate(sent[1:])},
            queue=queue,
            compression=compression,
        )
        assert result.get(PATIENCE) == expected, queue


@pytest.mark.slow
@forms
def test_a_retry_arrives_in_the_same_form(parcels: Parcels) -> None:
    assert parcels.send("again", [1, "text"]).get(PATIENCE) == [1, "text"]


@pytest.mark.slow
@canvas
def test_links_and_errbacks_get_their_values(parcels: Parcels, key: str) -> None:
    note = values(parcels)[-1] if parcels.form in ("json", "tight") else [1]
    parcels.send("echo", 5, link=parcels.on(GPU, "pass_on", key, note))
    assert parcels.told(key) == [5, note]
    result = parcels.send("fail", note, link_error=parcels.app.errback.s(key, note))
    assert parcels.told(key) == [result.id, "ValueError", [note], note]


@pytest.mark.slow
@canvas
def test_chains_and_chords_cross_from_cpu_to_gpu_and_back(parcels: Parcels) -> None:
    on = parcels.on
    found = chain(on(GPU, "add", 1, 2), on(CPU, "add", 10), on(GPU, "add", 100)).apply_async()
    assert found.get(PATIENCE) == 113
    header = [on(GPU, "add", 1, 1), on(CPU, "add", 2, 2), on(GPU, "echo", 3)]
    for queue in (CPU, GPU):
        assert chord(header, on(queue, "total", 100)).apply_async().get(PATIENCE) == 109


@pytest.mark.slow
@pytest.mark.parametrize("parcels", ["yaml"], indirect=True)
def test_yaml_has_no_signatures_on_any_queue(parcels: Parcels) -> None:
    for queue in (CPU, GPU):
        with pytest.raises(EncodeError, match="cannot represent an object"):
            parcels.send("echo", 1, queue=queue, link=parcels.app.echo.s())


# -- ends without an executor ----------------------------------------------------------------------


@pytest.fixture
def busy(parcels: Parcels, key: str) -> Iterator[None]:
    """The exclusive slot is taken until the test ends."""
    blocker = parcels.send("hold", f"{key}-busy", queue=ALONE)
    parcels.told(f"{key}-busy")
    yield
    parcels.stack.go(f"{key}-busy")
    blocker.get(PATIENCE)


@pytest.mark.slow
@forms
def test_a_waiting_job_is_revoked_by_its_application(
    parcels: Parcels, key: str, busy: None
) -> None:
    result = parcels.send("echo", 1, queue=ALONE)
    parcels.stack.in_state(result.id, "waiting")
    if parcels.form == "tight":  # a form of remote control that only the application knows
        parcels.app.app.control.mailbox.serializer = "json"
    result.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(PATIENCE)
    assert parcels.stack.in_state(result.id, "ended")["reason"] == "CANCELLED"


@pytest.mark.slow
@forms
def test_a_running_job_is_terminated_by_its_application(parcels: Parcels, key: str) -> None:
    result = parcels.send("hold", key)
    assert parcels.told(key) == result.id
    if parcels.form == "tight":
        parcels.app.app.control.mailbox.serializer = "json"
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    assert parcels.stack.in_state(result.id, "ended")["reason"] == "CANCELLED"


@pytest.mark.slow
@pytest.mark.parametrize("parcels", ["json", "msgpack", "yaml", "pickle"], indirect=True)
def test_dispatchers_answer_an_application_in_its_form(parcels: Parcels) -> None:
    answers = parcels.app.app.control.ping([worker_name("t4")], timeout=PATIENCE, limit=1)
    assert [list(each) for each in answers] == [[worker_name("t4")]]


@pytest.mark.slow
@pytest.mark.local_only("the start of a dispatcher")
def test_a_dispatcher_starts_beside_a_worker_that_answers_in_its_form(
    stack_factory: Callable[..., Stack],
) -> None:
    form = {"PARCELS_SERIALIZER": "msgpack", "PARCELS_ALSO": '["json"]'}
    made = stack_factory({"GPUQUEUE_APP": "parcels", **form})
    made.cpu_worker()
    # Without the options of other nodes, with which Celery asks no neighbour.
    command = [sys.executable, "-m", "celery", "-A", "gpuqueue", "worker", "-n", "late@test"]
    process = ProcessContainer("late", [*command, "-l", "INFO"], made.env, made.directory)
    late = WorkerNode(process, made.app)
    made.workers.append(late.start())
    late.ready()
    assert "Refusing to deserialize" not in late.logs()


@pytest.mark.slow
@canvas
def test_a_revoked_member_fails_its_chord_in_the_application(
    parcels: Parcels, key: str, busy: None
) -> None:
    waits = parcels.on(ALONE, "echo", 1).set(task_id=f"{key}-member")
    body = parcels.on(CPU, "total").on_error(parcels.app.errback.s(key, [1]))
    chord([waits, parcels.on(CPU, "add", 1, 1)], body).apply_async()
    parcels.stack.in_state(f"{key}-member", "waiting")
    parcels.stack.app.control.revoke(f"{key}-member")
    assert parcels.told(key)[1] == "ChordError"


@pytest.mark.slow
@canvas
def test_an_executor_that_dies_calls_the_errback_with_its_values(
    parcels: Parcels, key: str
) -> None:
    note = values(parcels)[-1] if parcels.form in ("json", "tight") else [1]
    result = parcels.send("die", note, link_error=parcels.app.errback.s(key, note))
    with pytest.raises(errors.ExecutorDied, match="signal 9"):
        result.get(PATIENCE)
    assert parcels.told(key) == [result.id, "ExecutorDied", [note], note]


@pytest.mark.slow
@forms
def test_an_expired_job_is_revoked(parcels: Parcels, busy: None) -> None:
    result = parcels.send("echo", 1, queue=ALONE, expires=0.5)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(PATIENCE)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("parcels", ["json"], indirect=True)
@pytest.mark.parametrize("form", ["msgpack", "yaml", "pickle", "tight"])
def test_a_form_that_is_not_accepted_fails_the_job_with_the_fix(
    parcels: Parcels, form: str
) -> None:
    result = parcels.send("echo", 1, serializer=form)
    with pytest.raises(errors.MalformedMessage) as caught:
        result.get(PATIENCE)
    assert "is not in accept_content=['json'] of the application" in str(caught.value)
    assert f"add {form!r} to it" in str(caught.value)
    assert parcels.send("echo", 2).get(PATIENCE) == 2


@pytest.mark.slow
@pytest.mark.parametrize("parcels", ["msgpack"], indirect=True)
def test_a_container_job_in_another_form_is_refused_with_the_fix(parcels: Parcels) -> None:
    send = parcels.app.app.send_task
    result = send(CONTAINER_TASK, ("tool:1",), queue=GPU)
    with pytest.raises(errors.InvalidJob, match=r"send it as JSON: \.apply_async\(serializer='js"):
        result.get(PATIENCE)


@pytest.mark.slow
@forms
def test_the_command_line_shows_jobs_and_dead_letters_of_any_form(
    parcels: Parcels, key: str, busy: None
) -> None:
    waiting = parcels.send("echo", 1, queue=ALONE, argsrepr=FILE)
    parcels.stack.in_state(waiting.id, "waiting")
    assert parcels.cli_json("why", waiting.id)["state"] == "waiting"
    assert waiting.id in parcels.cli("why", waiting.id)
    assert parcels.cli_json("status")["classes"]
    assert "t4" in parcels.cli("status")
    parcels.send("echo", 1, task_id="x" * 600, argsrepr=FILE, shadow=FILE)
    [letter] = until(lambda: parcels.cli_json("dead"), PATIENCE, "it is set aside")
    assert letter["task"] == "parcels.echo"
    assert "parcels.echo" in parcels.cli("dead")
    assert '"parcels.echo"' in parcels.cli("dead", "show", letter["id"])
    assert parcels.cli_json("dead", "drop", "--all")["dropped"] == [letter["id"]]
