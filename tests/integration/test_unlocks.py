"""A chord whose body is a GPU job, and a result backend without native chords: the unlock
waits for the header without a GPU, and holds no slot of a GPU class.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery import chord
from celery.canvas import Signature
from celery.exceptions import ChordError

from gpuqueue.model.names import CHORDS, UNLOCK
from gpuqueue.model.record import Record
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.support.launching import KUBERNETES
from tests.support.stack import Stack, listed, load_application
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
ALONE = "gpu.t4.exclusive"
#: The class has one slot for a job alone.
ENV = {
    "T4_SHARED_SLOTS": "2",
    "T4_EXCLUSIVE_SLOTS": "1",
    "GPUQUEUE_MAX_ATTEMPTS": "2",
    "GPU_SECRET_NAME": "filed",
}


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("unlocks")
    results = {"CELERY_RESULT_BACKEND": f"file://{folder}/results"}
    (folder / "results").mkdir()
    with listed(running_stacks, Stack(folder, ENV | results, "filed", kind)) as made:
        if kind == KUBERNETES:
            made.cluster.secret("filed", {"CELERY_BROKER_URL": made.url, **results})
        made.dispatcher()
        made.cpu_worker()
        yield made


@pytest.fixture(scope="module")
def filed(stack: Stack) -> Iterator[ModuleType]:
    """The application, as its callers import it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FILED_RESULTS", str(stack.directory / "results"))
        made = load_application("filed", stack.url)
    yield made
    made.app.close()


def waits(stack: Stack) -> Record:
    """Wait until one unlock looks at its header, and return its record."""

    def looking() -> Record | None:
        records = stack.reader.all_records(CHORDS)
        return next((each for each in records if each.get("if_lost")), None)

    return until(
        looking,
        PATIENCE,
        "an unlock looks at its header",
        lambda: str(list(stack.reader.all_records(CHORDS))),
    )


def pod_of(stack: Stack, unlock: Record) -> dict[str, Any]:
    """The pod that runs an unlock."""
    pod = stack.cluster.pod_of(unlock["instance"].split("/")[1])
    assert pod is not None
    return pod


def alone(signature: Signature) -> Signature:
    return signature.set(queue=ALONE)


def test_an_unlock_needs_no_slot(stack: Stack, filed: ModuleType, key: str) -> None:
    held = filed.hold.apply_async((key,), queue=ALONE)
    stack.told(key)
    result = chord([filed.add.s(1, 2), filed.add.s(3, 4)])(alone(filed.total.s()))
    body = stack.in_state(result.id, "waiting")
    assert stack.holders() == [held.id], "the only slot is that of the job that runs"
    assert [each["task"] for each in stack.reader.all_records("t4")].count(UNLOCK) == 0
    assert body["gpu_class"] == "t4"
    stack.go(key)
    assert result.get(PATIENCE) == 10
    assert held.get(PATIENCE) == 7


def test_an_unlock_waits_in_one_process(stack: Stack, filed: ModuleType, key: str) -> None:
    before = len(list(stack.reader.all_records(CHORDS)))
    result = chord([filed.hold.s(key), filed.add.s(1, 1)])(alone(filed.total.s()))
    stack.told(key)
    found = waits(stack)
    assert found["task"] == UNLOCK
    if stack.kind == KUBERNETES:
        [container] = pod_of(stack, found)["spec"]["containers"]
        assert "nvidia" not in str(container["resources"])
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    else:
        assert stack.process_of(found).environ()["CUDA_VISIBLE_DEVICES"] == ""
    assert "chords" in stack.reader.classes(), "commands show it"
    stack.go(key)
    assert result.get(PATIENCE) == 9
    assert len(list(stack.reader.all_records(CHORDS))) == before + 1, "it was not retried"


def test_more_chords_than_slots_take_turns(stack: Stack, filed: ModuleType) -> None:
    headers = {}
    for _ in range(11):
        waits_for = filed.add.s(0, 0).set(queue="not-consumed")
        result = chord([waits_for, filed.add.s(1, 1)])(filed.total.s().set(queue="gpu.t4.shared"))
        headers[result.id] = result.parent[0].id, result
    before = {each["id"] for each in stack.reader.all_records(CHORDS) if each["state"] == "ended"}

    def looked() -> bool:
        unlocks = {each["id"] for each in stack.reader.all_records(CHORDS) if each.get("started")}
        return len(unlocks - before) == len(headers)

    until(looked, PATIENCE, "each unlock has looked at its header")
    for header, _ in headers.values():
        filed.app.backend.store_result(header, 40, "SUCCESS")
    assert [each.get(PATIENCE) for _, each in headers.values()] == [42] * len(headers)


def lose(stack: Stack, unlock: Record) -> None:
    """Kill the process of an unlock, or delete its pod, and wait until that is known."""
    if stack.kind == KUBERNETES:
        name = pod_of(stack, unlock)["metadata"]["name"]
        stack.cluster.registry.delete(PODS, stack.cluster.namespace, name, Deletion("Background"))
    else:
        os.kill(stack.process_of(unlock).pid, signal.SIGKILL)

    def known() -> bool:
        found = stack.reader.find(unlock["id"], [CHORDS])
        assert found is not None
        return found["state"] != "running" or found["attempt"] > unlock["attempt"]

    until(known, PATIENCE, "its end is known")


def test_an_unlock_outlives_its_process(stack: Stack, filed: ModuleType, key: str) -> None:
    result = chord([filed.hold.s(key), filed.add.s(1, 1)])(alone(filed.total.s()))
    stack.told(key)
    first = waits(stack)
    lose(stack, first)
    again = waits(stack)
    assert (again["id"], again["attempt"], again["losses"]) == (first["id"], 2, 1)
    stack.go(key)
    assert result.get(PATIENCE) == 9


def test_a_body_is_told_of_an_unlock_that_is_lost(
    stack: Stack, filed: ModuleType, key: str
) -> None:
    body = alone(filed.total.s()).on_error(filed.note.s(key))
    result = chord([filed.hold.s(f"{key} header"), filed.add.s(1, 1)])(body)
    stack.told(f"{key} header")
    for _ in range(2):
        lose(stack, waits(stack))
    with pytest.raises(ChordError, match="the header cannot be awaited"):
        filed.app.AsyncResult(result.id).get(PATIENCE)
    assert stack.told(key)[0] == "ChordError"
    stack.go(f"{key} header")


def test_a_header_that_fails_reaches_the_errback(stack: Stack, filed: ModuleType, key: str) -> None:
    body = alone(filed.total.s()).on_error(filed.note.s(key))
    result = chord([filed.add.s(1, 2), filed.fail.s()])(body)
    with pytest.raises(ChordError, match="no pears left"):
        filed.app.AsyncResult(result.id).get(PATIENCE)
    name, text = stack.told(key)
    assert (name, "no pears left" in text) == ("ChordError", True)
