"""Celery's revokes in two dispatchers: one answer of both, and no state but the true one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from gpuqueue.model.names import worker_name
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"
WORKER = worker_name("t4")
BOTH = ("one@test", "two@test")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    """Two dispatchers, and no other worker: each one would write REVOKED as Celery does."""
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("pair"))) as made:
        made.dispatcher("one")
        made.dispatcher("two")
        yield made


@pytest.fixture
def shop(pair: Stack) -> ModuleType:
    """The application, as its callers import it."""
    return pair.shop


@pytest.fixture
def ask(pair: Stack) -> Callable[..., dict[str, Any]]:
    """Send a command of remote control; return the answer of each worker."""

    def send(command: str, **arguments: Any) -> dict[str, Any]:
        replies = pair.app.control.broadcast(
            command, arguments=arguments, reply=True, timeout=PATIENCE, limit=1
        )
        assert replies is not None
        return {name: answer for reply in replies for name, answer in reply.items()}

    return send


def flagged_in(pair: Stack) -> dict[str, list[str]]:
    """Return the revoked ids that each dispatcher lists."""
    found: dict[str, list[str]] | None = pair.app.control.inspect(BOTH, timeout=PATIENCE).revoked()
    assert found is not None
    return found


@pytest.fixture
def other(pair: Stack, shop: ModuleType) -> Callable[[str], str]:
    """Return the id of a task that is no GPU job."""

    def make(kind: str) -> str:
        if kind == "unknown":
            return uuid.uuid4().hex
        return str(shop.add.apply_async((1, 1), queue="plain").id)

    return make


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("kind", ["unknown", "of another queue"])
def test_a_task_that_is_no_gpu_job_is_flagged_and_keeps_its_state(
    pair: Stack,
    ask: Callable[..., dict[str, Any]],
    other: Callable[[str], str],
    kind: str,
    terminate: bool,
) -> None:
    task = other(kind)
    words = "terminate: tasks unknown" if terminate else f"tasks {{'{task}'}} flagged as revoked"
    answers = ask("revoke", task_id=task, terminate=terminate, signal="SIGTERM")
    assert answers == {WORKER: {"ok": words}}
    assert pair.app.AsyncResult(task).state == "PENDING"
    flagged = flagged_in(pair)
    assert all(task in flagged[name] for name in BOTH)


def test_each_command_has_one_answer_of_all_dispatchers(
    pair: Stack, shop: ModuleType, ask: Callable[..., dict[str, Any]]
) -> None:
    running, waiting = uuid.uuid4().hex, uuid.uuid4().hex
    results = [shop.hold.apply_async((running,), queue=ALONE)]
    pair.told(running)
    results.append(shop.hold.apply_async((waiting,), queue=ALONE))
    pair.in_state(results[1].id, "waiting")
    ids = [result.id for result in results]

    # Without terminate, the running job continues.
    (flagged,) = {answer["ok"] for answer in ask("revoke", task_id=[ids[0]]).values()}
    assert flagged == f"tasks {{'{ids[0]}'}} flagged as revoked"
    assert results[0].state != "REVOKED" and pair.known(ids[0])["state"] == "running"

    answers = ask("terminate", task_id=ids, signal="KILL")
    assert answers == {WORKER: {"ok": f"terminate: {', '.join(ids)}"}}
    for result in results:
        with pytest.raises(TaskRevokedError):
            result.get(PATIENCE)
    assert pair.told_so_far(waiting) == []
    pair.idle()


def test_a_job_that_is_sent_with_its_revoke_is_revoked_once(
    pair: Stack, shop: ModuleType, ask: Callable[..., dict[str, Any]]
) -> None:
    # The message is in the list of the broker, or in the hands of a dispatcher.
    keys = [uuid.uuid4().hex for _ in range(8)]
    results = [shop.hold.apply_async((key,), queue=GPU) for key in keys]
    ids = [result.id for result in results]
    answers = ask("revoke", task_id=ids, terminate=True, signal="KILL")
    assert list(answers) == [WORKER]
    for result in results:
        with pytest.raises(TaskRevokedError):
            result.get(PATIENCE)
        assert pair.in_state(result.id, "ended")["reason"] == "CANCELLED"
    pair.idle()


def test_a_wrong_revoke_is_refused_and_changes_nothing(
    pair: Stack, shop: ModuleType, ask: Callable[..., dict[str, Any]]
) -> None:
    key = uuid.uuid4().hex
    job = shop.hold.apply_async((key,), queue=GPU)
    pair.told(key)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("revoke", {"task_id": job.id, "terminate": True, "signal": "NOSUCH"}, "is no signal"),
        ("revoke", {"task_id": [job.id, 7], "terminate": True}, "is no task id"),
        ("terminate", {"task_id": {job.id: 1}, "signal": "KILL"}, "is no task id"),
        ("revoke_by_stamped_headers", {"headers": "order"}, "are no stamps"),
    ]
    for command, arguments, problem in wrong:
        answers = ask(command, **arguments)
        assert list(answers) == [WORKER]
        assert all(problem in answer["error"] for answer in answers.values())
    pair.go(key)
    assert job.get(PATIENCE) == key
    flagged = flagged_in(pair)
    assert sorted(flagged) == list(BOTH)
    assert not any(job.id in ids for ids in flagged.values())


def test_a_revoke_by_stamps_is_answered_and_ends_running_jobs(
    pair: Stack, shop: ModuleType, ask: Callable[..., dict[str, Any]]
) -> None:
    key = uuid.uuid4().hex
    signature = shop.hold.s(key).set(queue=GPU)
    signature.stamp(order=key)
    job = signature.apply_async()
    pair.told(key)
    answers = ask("revoke_by_stamped_headers", headers={"order": [key]}, terminate=True)
    begins = f"headers {{'order': ['{key}']}} flagged as revoked"
    assert list(answers) == [WORKER]
    assert all(answer["ok"].startswith(begins) for answer in answers.values())
    with pytest.raises(TaskRevokedError):
        job.get(PATIENCE)
    until(lambda: pair.known(job.id)["state"] == "ended", PATIENCE, "it has ended")
