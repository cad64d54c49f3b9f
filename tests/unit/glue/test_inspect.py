"""What a class answers to Celery's inspect commands, from records and small messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu import Message

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.glue.messages.message import encode, pack
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.glue.worker import inspect
from gpuqueue.glue.worker.inspect import LONGEST, MOST_IDS, MOST_REVOKED
from gpuqueue.model.record import Record

T4 = GpuClass("t4", shared_slots=3, exclusive_slots=1)
MIG = GpuClass("mig-1g.5gb", exclusive_slots=2)
HEADERS = {"id": "a", "task": "shop.add", "argsrepr": "(1, 2)", "kwargsrepr": "{'x': 3}"}


def sent(body: Any = ([1, 2], {"x": 3}, {}), **headers: Any) -> Message:
    return Message(
        body=body if isinstance(body, str) else json.dumps(body),
        content_type="application/json",
        content_encoding="utf-8",
        headers={**HEADERS, **headers},
        properties={"priority": 4},
        delivery_info={"exchange": "", "routing_key": "gpu.t4.shared", "redelivered": False},
    )


@dataclass
class Listed:
    """A job as it is listed."""

    record: Record
    message: dict[str, Any] | None = None
    at: float = 0.0


def record(**fields: Any) -> Record:
    made: Any = {
        "id": "a",
        "delivery": "a",
        "task": "shop.add",
        "name": "shop.add",
        "state": "running",
        "gpu_class": "t4",
        "isolation": "shared",
        "priority": 4,
        **fields,
    }
    return made  # type: ignore[no-any-return]


def job(message: Message | None = None, **fields: Any) -> Listed:
    return Listed(record(**fields), json.loads(encode(pack(message, None))) if message else None)


RUNS = {
    "worker": "t4-a-1@pod-1",
    "started": 1000.5,
    "instance": "host:nonce~machine.7:4321",
    "attempt": 1,
}


@dataclass
class Jobs:
    """The jobs of one class."""

    here: list[Listed] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=lambda: {"shared": 5, "exclusive": 1})
    holders: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def running(self, gpu_class: str) -> list[Listed]:
        self.asked.append(gpu_class)
        return self.here

    waiting = delayed = running

    def of(self, gpu_class: str, job_ids: list[str]) -> list[Listed]:
        return [each for each in self.here if each.record["id"] in job_ids]

    def revoked(self, gpu_class: str) -> list[str]:
        return self.ids

    def slots(self, gpu_class: str) -> list[str]:
        return self.holders

    def slots_of(self, gpu_class: GpuClass) -> dict[str, int]:
        return {isolation: gpu_class.slots(isolation) for isolation in ("shared", "exclusive")}

    def activity(self, gpu_class: str) -> Any:
        return SimpleNamespace(begun=self.begun)


def ask(command: str, jobs: Jobs, *classes: GpuClass, **arguments: Any) -> Any:
    controller = SimpleNamespace(stats=lambda: {"pid": 7, "total": {}, "pool": {}, "clock": "1"})
    state = SimpleNamespace(
        classes={each.name: each for each in classes or (T4,)},
        jobs=jobs,
        consumer=SimpleNamespace(hostname="one@host", controller=controller),
    )
    answer = inspect.commands(UNSIGNED)[command](state, **arguments)
    return json.loads(json.dumps(answer))


@pytest.fixture(autouse=True)
def flagged() -> Iterator[Any]:
    worker_state.revoked.clear()
    yield worker_state.revoked
    worker_state.revoked.clear()


def test_a_running_job_is_told_in_the_words_of_a_worker_of_celery() -> None:
    [told] = ask("active", Jobs([job(sent(), **RUNS)]))
    app = Celery(set_as_current=False)

    plain = Request(sent(), app=app, hostname="h", task=app.tasks["celery.chain"])
    assert told == {
        **json.loads(json.dumps(plain.info())),
        "hostname": "t4-a-1@pod-1",
        "time_start": 1000.5,
        "worker_pid": 4321,
        "acknowledged": True,
    }


def test_arguments_are_text_if_the_caller_wants_it_safe() -> None:
    [told] = ask("active", Jobs([job(sent(), **RUNS)]), safe=True)
    assert (told["args"], told["kwargs"]) == ("(1, 2)", "{'x': 3}")


@pytest.mark.parametrize(
    ("message", "args"),
    [
        (None, "..."),
        (sent("no JSON"), "(1, 2)"),
        (sent("no JSON", argsrepr=7), "..."),
        (sent("no JSON", argsrepr="x" * 5000), "x" * LONGEST),
    ],
)
def test_arguments_that_cannot_be_read_are_shown_as_they_were_written(
    message: Message | None, args: str
) -> None:
    [told] = ask("active", Jobs([job(message, **RUNS)]))
    assert told["args"] == args


@pytest.mark.parametrize("instance", ["ns/gpu-job-7/pod-uid", ""])
def test_a_job_in_a_pod_has_no_process_of_this_machine(instance: str) -> None:
    [told] = ask("active", Jobs([job(sent(), **RUNS | {"instance": instance})]))
    assert told["worker_pid"] is None


def test_a_job_that_waits_has_the_worker_of_its_class_and_no_start() -> None:
    [told] = ask("reserved", Jobs([job(sent(), state="waiting")]))
    assert (told["hostname"], told["time_start"], told["worker_pid"]) == (
        "gpu-t4@gpuqueue-t4", None, None,
    )  # fmt: skip
    assert told["delivery_info"]["routing_key"] == "gpu.t4.shared"


def test_a_job_that_starts_later_is_told_with_its_time() -> None:
    later = job(sent(), state="delayed")
    later.at = 1_700_000_000.0
    [told] = ask("scheduled", Jobs([later]))
    assert (told["eta"], told["priority"]) == ("2023-11-14T22:13:20+00:00", 4)
    assert told["request"]["id"] == "a"


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("accepted", "reserved"),
        ("waiting", "reserved"),
        ("delayed", "scheduled"),
        ("launching", "active"),
        ("running", "active"),
        ("reporting", "active"),
        ("finishing", "ready"),
        ("ended", "ready"),
    ],
)
def test_a_query_tells_where_a_job_stands(state: str, word: str) -> None:
    told = ask("query_task", Jobs([job(sent(), state=state)]), ids=["a", "unknown"])
    assert list(told) == ["a"]
    assert (told["a"][0], told["a"][1]["name"]) == (word, "shop.add")


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (7, "ids=7 are no task ids"),
        (["a", 7], "are no task ids"),
        ([""], "are no task ids"),
        ([str(n) for n in range(MOST_IDS + 1)], "use up to 100 in one query"),
    ],
)
def test_a_wrong_query_is_refused(ids: Any, problem: str) -> None:
    assert problem in ask("query_task", Jobs(), ids=ids)["error"]


def test_one_id_is_a_query_too() -> None:
    assert list(ask("query_task", Jobs([job(sent())]), ids="a")) == ["a"]
    assert ask("query_task", Jobs([job(sent())])) == {}


def test_revoked_ids_are_those_of_redis_and_of_this_process(flagged: Any) -> None:
    flagged.add("here")
    assert ask("revoked", Jobs(ids=["there", "here"])) == ["there", "here"]
    flagged.update(str(number) for number in range(2 * MOST_REVOKED))
    assert len(ask("revoked", Jobs(ids=["there"]))) == MOST_REVOKED


def test_the_slots_are_the_pool_of_a_class() -> None:
    told = ask("stats", Jobs(holders=["a#1"]))
    assert told["pool"] == {
        "implementation": "gpuqueue",
        "max-concurrency": 3,
        "processes": ["a#1", "free", "free"],
        "shared-slots": 3,
        "exclusive-slots": 1,
    }
    assert told["total"] == {"gpu.t4.shared": 5, "gpu.t4.exclusive": 1}
    assert (told["pid"], told["clock"], told["dispatcher"]) == (7, "1", "one@host")


def test_a_class_without_sharing_has_its_plain_queue() -> None:
    told = ask("stats", Jobs(begun={"shared": 0, "exclusive": 9}), MIG)
    assert told["total"] == {"gpu.mig-1g.5gb": 9}
    assert told["pool"]["max-concurrency"] == 2


def test_a_dispatcher_itself_answers_for_all_its_classes() -> None:
    jobs = Jobs([job(sent(), **RUNS)])
    assert len(ask("active", jobs, T4, MIG)) == 2 and jobs.asked == ["t4", "mig-1g.5gb"]
    assert ask("stats", jobs, T4, MIG)["pool"]["max-concurrency"] == 5


def test_the_queues_are_those_of_the_classes() -> None:
    app = Celery(amqp="gpuqueue.glue.worker.queues:DispatcherAMQP", set_as_current=False)
    names = ["gpu.a100", "gpu.auto", "gpu.t4"]
    state = SimpleNamespace(classes={"t4": T4}, jobs=SimpleNamespace(queues=lambda: names), app=app)
    told = inspect.commands(UNSIGNED)["active_queues"](state)
    assert [each["name"] for each in told] == ["gpu.auto", "gpu.t4"]
    assert told[1]["exchange"]["name"] == "gpu.t4"
    assert "gpu.t4" not in app.amqp.queues, "it is not consumed for that"
