"""The habits of applications on plain workers: hooks, SDKs, base classes, alarms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.abortable import AbortableAsyncResult
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult

from gpuqueue import ExecutorDied
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU = "gpu.t4.shared"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> Iterator[Stack]:
    habits = Stack(tmp_path_factory.mktemp("habits"), kind=kind, app="habits")
    with listed(running_stacks, habits) as made:
        made.dispatcher()
        yield made


def send(stack: Stack, task: str, *args: object, **options: Any) -> AsyncResult:
    return stack.app.send_task(f"habits.{task}", args, queue=GPU, **options)


def told(stack: Stack, key: str) -> list[str]:
    found: list[str] = stack.client.lrange(key, 0, -1)  # type: ignore[assignment]
    return found


def test_hooks_are_called_in_the_order_of_a_worker(stack: Stack) -> None:
    pid, parent = send(stack, "pids").get(PATIENCE)
    until(lambda: any("worker_ready" in each for each in told(stack, "hooks")), PATIENCE)
    noted = [each.split(" ") for each in told(stack, "hooks")]
    of_parent = [(name, worker) for name, of, worker in noted if int(of) == parent]
    assert [name for name, _ in of_parent] == ["celeryd_init", "worker_init", "worker_ready"]
    assert all(worker.startswith("gpuqueue-runner@") for _, worker in of_parent)
    assert [name for name, of, _ in noted if int(of) == pid] == ["worker_process_init"]
    order = [name for name, of, _ in noted if int(of) in (pid, parent)]
    assert order.index("worker_init") < order.index("worker_process_init")


def test_a_tracer_that_an_sdk_replaced_traces_the_task(stack: Stack) -> None:
    assert send(stack, "traced").get(PATIENCE) == ["habits.traced"]


def test_a_base_class_and_the_task_have_one_request(stack: Stack) -> None:
    assert send(stack, "marked").get(PATIENCE) == "set before"


def test_a_task_reads_all_properties_that_its_sender_gave(stack: Stack) -> None:
    sent = send(stack, "properties", app_id="1234", update="a name", id="another", priority=3)
    found = sent.get(PATIENCE)
    assert found.pop("delivery_tag") and found.pop("reply_to")
    assert found == {
        "app_id": "1234",
        "update": "a name",
        "id": "another",
        "priority": 3,
        "correlation_id": sent.id,
        "delivery_mode": 2,
    }


def test_a_task_reads_the_signature_of_its_code(stack: Stack) -> None:
    assert send(stack, "signed", 1).get(PATIENCE) == "(one: int, other: int = 2) -> str"


@pytest.mark.parametrize(("args", "words"), [((1,), "missing 1 required"), ((1, 2, 3), "takes 2")])
def test_wrong_arguments_are_the_type_error_of_python(
    stack: Stack, args: tuple[int, ...], words: str
) -> None:
    with pytest.raises(TypeError, match=words) as caught:
        send(stack, "takes_two", *args).get(PATIENCE)
    assert type(caught.value) is TypeError


def test_arguments_that_no_code_can_take_are_the_error_of_the_task(stack: Stack) -> None:
    options: dict[str, Any] = {"kwargs": {"self": 1}, "queue": GPU}  # Celery calls with a self
    sent = stack.app.send_task("habits.takes_two", (1,), **options)
    with pytest.raises(TypeError, match="multiple values for argument 'self'"):
        sent.get(PATIENCE)
    ended = stack.in_state(sent.id, "ended")
    assert ended["reason"] == "ERROR"
    assert "error" not in ended, "the executor has reported the end itself"


def test_a_task_has_its_alarm_beside_a_soft_limit(stack: Stack) -> None:
    assert send(stack, "alarmed", 0.2, soft_time_limit=30).get(PATIENCE) == "rung"


@pytest.mark.slow
def test_a_soft_limit_is_met_beside_the_alarm_of_a_task(stack: Stack) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        send(stack, "alarmed", 30.0, soft_time_limit=1).get(PATIENCE)


def test_a_task_sees_that_it_was_aborted_before_its_start(stack: Stack) -> None:
    sent = send(stack, "aborted", countdown=1)
    AbortableAsyncResult(sent.id, app=stack.app).abort()
    until(lambda: (stack.record(sent.id) or {}).get("state") == "ended", PATIENCE)
    assert AsyncResult(sent.id, app=stack.app).get(PATIENCE) is True


@pytest.mark.parametrize(("how", "status"), [("returns", 0), ("raises", 1), ("exits", 7)])
def test_a_copy_that_a_task_forks_has_no_part_in_its_outcome(
    stack: Stack, how: str, status: int
) -> None:
    assert send(stack, "forked", how).get(PATIENCE) == status


def test_a_rate_limit_of_a_task_is_ignored(stack: Stack) -> None:
    sent = [send(stack, "limited") for _ in range(3)]
    assert [each.get(PATIENCE) for each in sent] == ["ran"] * 3


def test_a_result_names_the_children_of_its_task(stack: Stack) -> None:
    sent = send(stack, "parent")
    child = sent.get(PATIENCE)
    assert [each.id for each in sent.children][1:] == [child]


@pytest.mark.parametrize(
    ("does", "options", "said"),
    [
        ("work", {}, ["accepted", "success"]),
        ("retry", {}, ["accepted", "success", "failure Retry", "retry"]),
        ("fail", {}, ["accepted", "success", "failure ValueError"]),
        ("sleep", {"soft_time_limit": 1}, ["accepted", "soft timeout 1"]),
        ("sleep", {"time_limit": 1}, ["accepted", "hard timeout 1"]),
    ],
    ids=["success", "retry", "failure", "soft limit", "hard limit"],
)
@pytest.mark.slow
def test_the_request_class_of_an_application_is_told(
    stack: Stack, does: str, options: dict[str, Any], said: list[str]
) -> None:
    sent = send(stack, "requested", does, **options)
    until(lambda: told(stack, sent.id)[: len(said)] == said, PATIENCE, f"{said}")


@pytest.mark.slow
@pytest.mark.local_only("the environment of an image")
def test_a_time_limit_of_the_whole_application_is_kept(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> None:
    env = {"HABITS_TIME_LIMIT": "1", "CELERY_RESULT_BACKEND": ""}
    limited = Stack(tmp_path_factory.mktemp("limited"), env, kind=kind, app="habits")
    with listed(running_stacks, limited) as made:
        made.dispatcher()
        with pytest.raises(TimeLimitExceeded):
            send(made, "requested", "sleep").get(PATIENCE)


@pytest.mark.slow
@pytest.mark.local_only("a setting of dispatchers")
@pytest.mark.parametrize(("task", "seen"), [("untracked", "PENDING"), ("tracked", "STARTED")])
def test_states_can_be_those_of_a_worker_alone(
    stack_factory: Callable[..., Stack], task: str, seen: str
) -> None:
    made = stack_factory({"GPUQUEUE_APP": "habits", "GPUQUEUE_STATES": "celery"})
    first = made.dispatcher()
    waits = send(made, task, countdown=1000)
    until(lambda: made.record(waits.id), PATIENCE, "it is accepted")
    first.stop()  # writes what it has not written
    assert waits.state == "PENDING"
    made.dispatcher("second")
    assert send(made, task).get(PATIENCE) == seen


# -- what the application says of its broker and its results ---------------------------------------


def test_messages_are_taken_by_the_steps_of_the_application(
    stack_factory: Callable[..., Stack],
) -> None:
    made = stack_factory({"GPUQUEUE_APP": "habits", "HABITS_STEPS": "[0, 1, 2, 7]"})
    options = {"priority_steps": [0, 1, 2, 7], "sep": ":"}
    with Celery("caller", broker=made.url, backend=made.url, set_as_current=False) as caller:
        caller.conf.broker_transport_options = options
        made.dispatcher()
        sent = [
            caller.send_task("habits.takes_two", (each, 1), queue=GPU, priority=each)
            for each in range(9)
        ]
        assert [each.get(PATIENCE) for each in sent] == list(range(1, 10))


@pytest.mark.slow
def test_steps_that_an_operator_set_otherwise_are_an_error_that_names_both(
    stack_factory: Callable[..., Stack],
) -> None:
    told = json.dumps({"priority_steps": [0, 9]})
    made = stack_factory(
        {
            "GPUQUEUE_APP": "habits",
            "HABITS_STEPS": "[0, 1]",
            "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": told,
        }
    )
    node = made.dispatcher()
    assert send(made, "takes_two", 1, 2).get(PATIENCE) == 3
    words = "habits has priority_steps=[0, 1], and dispatchers have [0, 9]"
    until(lambda: words in node.logs(), PATIENCE, "the error", node.logs)
    assert "set GPUQUEUE_BROKER_TRANSPORT_OPTIONS to what the application has" in node.logs()


#: What an application may call its exchanges and channels.
NAMES = {
    "control_exchange": "theirs",
    "event_exchange": "their-events",
    "broker_transport_options": {"fanout_prefix": "/theirs-{db}.", "fanout_patterns": False},
}


@pytest.mark.slow
def test_commands_and_events_go_by_the_names_of_the_application(
    stack_factory: Callable[..., Stack],
) -> None:
    made = stack_factory({"GPUQUEUE_APP": "habits", "HABITS_NAMES": json.dumps(NAMES)})
    node = made.dispatcher()
    with Celery("caller", broker=made.url, backend=made.url, set_as_current=False) as caller:
        caller.conf.update(NAMES)

        def job(*args: object, **options: Any) -> AsyncResult:
            return caller.send_task("habits.takes_two", args, queue=GPU, **options)

        def answers() -> bool:
            return bool(caller.control.inspect(timeout=0.5).ping())

        assert job(1, 2).get(PATIENCE) == 3
        until(answers, PATIENCE, "a class answers", node.logs)
        late = job(1, 2, countdown=1000)
        until(lambda: made.record(late.id), PATIENCE, "it is accepted")
        late.revoke()
        with pytest.raises(TaskRevokedError):
            late.get(PATIENCE)
        assert heard(caller, lambda: job(3, 4)) >= {"task-received", "task-succeeded"}
    assert "Traceback" not in node.logs()


def heard(caller: Celery, send: Callable[[], AsyncResult]) -> set[str]:
    """The kinds of events of a job that a monitor with the settings of the application hears."""
    names, jobs = set[str](), list[str]()
    with caller.connection_for_read() as connection:
        receiver = caller.events.Receiver(connection)

        def note(event: dict[str, Any]) -> None:
            if event["type"] == "worker-heartbeat" and not jobs:
                jobs.append(send().id)  # it hears by now
            if event.get("uuid") in jobs:
                names.add(event["type"])
                receiver.should_stop = event["type"] == "task-succeeded"

        receiver.handlers["*"] = note
        receiver.capture(limit=None, timeout=PATIENCE, wakeup=True)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("where", ["database", "pickle"])
def test_results_are_where_the_code_of_the_application_says(
    stack_factory: Callable[..., Stack], where: str
) -> None:
    own = {"HABITS_DATABASE": "3"} if where == "database" else {"HABITS_SERIALIZER": "pickle"}
    made = stack_factory({"GPUQUEUE_APP": "habits", **own})
    node = made.dispatcher()
    backend = f"{made.url.rpartition('/')[0]}/3" if where == "database" else made.url
    with Celery("caller", broker=made.url, backend=backend, set_as_current=False) as caller:
        caller.conf.accept_content = ["json", "pickle"]
        caller.conf.result_serializer = "pickle" if where == "pickle" else "json"

        def job(task: str, *args: object, **options: Any) -> AsyncResult:
            return caller.send_task(f"habits.{task}", args, queue=GPU, **options)

        def late() -> AsyncResult:
            found = job("takes_two", 1, 2, countdown=1000)
            until(lambda: made.record(found.id), PATIENCE, "it is accepted")
            return found

        early = late()  # on Kubernetes no pod has imported the application by now
        early.revoke()
        until(
            lambda: "results_elsewhere" in node.logs() or "it writes all" in node.logs(), PATIENCE
        )
        with pytest.raises(TaskRevokedError):
            early.get(PATIENCE)
        assert job("takes_two", 1, 2).get(PATIENCE) == 3
        with pytest.raises(ExecutorDied):
            job("killed").get(PATIENCE)
        waiting = late()
        assert waiting.state == "PENDING"
        waiting.revoke()
        with pytest.raises(TaskRevokedError):
            waiting.get(PATIENCE)
