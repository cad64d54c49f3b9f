"""A task that runs out of GPU memory, as its callers and Celery's monitors see it: it runs once
more in a larger place, and is one job. NVML and torch are made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import chord
from celery.result import AsyncResult

from gpuqueue import gpu
from gpuqueue.store.usage import Usage
from tests.support.nodes import APPS, FAKE_GPUS
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
CLASSES = """
[classes.a100]
exclusive_slots = 2
memory = "80GB"
"""
NAMES = ("t4", "a100")
TEXT = "CUDA out of memory. Tried to allocate 20.00 GiB."


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("escalate")
    file = directory / "classes.toml"
    file.write_text(CLASSES)
    env = {
        "GPUQUEUE_CLASSES_FILE": str(file),
        "PYTHONPATH": os.pathsep.join(map(str, (FAKE_GPUS, APPS))),
        "GPUQUEUE_DEVICES": "none",
    }
    with listed(running_stacks, Stack(directory, env)) as made:
        made.dispatcher()
        made.cpu_worker(processes=1)
        yield made


def ended(stack: Stack, result: AsyncResult) -> Any:
    def newest() -> Any:
        found = stack.reader.find(result.id, NAMES)
        return found is not None and found["state"] == "ended" and found

    return until(newest, PATIENCE, f"{result.id} has ended")


def accounts(stack: Stack, result: AsyncResult) -> list[tuple[str, str, str]]:
    entries = [each for name in NAMES for each in Usage(stack.client).of(name, 0).entries]
    own = sorted((each for each in entries if each.id == result.id), key=lambda each: each.stop)
    return [(each.gpu_class, each.isolation, each.reason) for each in own]


def test_a_task_out_of_memory_is_one_job_in_two_classes(stack: Stack, key: str) -> None:
    heard: list[dict[str, Any]] = []
    options = gpu("t4", isolation="exclusive", escalate=True)
    with (
        stack.app.connection_for_read() as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        receiver = stack.app.events.Receiver(connection, handlers={"*": heard.append})
        capture = pool.submit(receiver.capture, limit=None, timeout=PATIENCE)
        until(lambda: any(each["type"] == "worker-heartbeat" for each in heard), PATIENCE)
        first = stack.shop.fill.s(key, "a100 exclusive").set(**options)
        result = (first | stack.shop.pass_on.s(f"{key}-next")).apply_async()
        assert stack.told(key) == "t4 exclusive"
        job = result.parent
        assert job.state == "STARTED"
        # Its larger class has no slot: what a caller sees meanwhile.
        blocker = stack.shop.hold.apply_async((f"{key}-held",), queue="gpu.a100")
        other = stack.shop.hold.apply_async((f"{key}-held",), queue="gpu.a100")
        until(lambda: len(stack.reader.holders("a100")) == 2, PATIENCE, "both slots are taken")
        stack.go(key)
        until(lambda: job.state == "RETRY", PATIENCE, "the state RETRY", lambda: job.state)
        assert str(job.info) == TEXT
        assert not job.ready()
        until(lambda: stack.reader.record("a100", job.id), PATIENCE, "it has moved")
        waiting = stack.reader.record("a100", job.id)
        assert waiting and (waiting["state"], waiting["attempt"]) == ("waiting", 1)
        stack.go(f"{key}-held", 2)
        assert stack.told(key) == "a100 exclusive"
        assert result.get(PATIENCE) == "a100 exclusive"
        assert stack.told(f"{key}-next") == "a100 exclusive"
        # Celery sends what follows before it stores the result.
        assert (job.get(PATIENCE), job.state) == ("a100 exclusive", "SUCCESS")
        assert {blocker.get(PATIENCE), other.get(PATIENCE)}

        def told() -> list[str]:
            return [each["type"] for each in heard if each.get("uuid") == job.id]

        events = ["task-started", "task-retried", "task-started", "task-succeeded"]
        until(lambda: told()[-4:] == events, PATIENCE, "the events", lambda: str(told()))
        assert "task-failed" not in told()
        receiver.should_stop = True
        capture.result(PATIENCE)
    record = ended(stack, job)
    assert (record["gpu_class"], record["escalated"]) == ("a100", "t4 exclusive")
    assert (record["attempt"], record["reason"]) == (2, "SUCCEEDED")
    expected = [("t4", "exclusive", "ESCALATED"), ("a100", "exclusive", "SUCCEEDED")]
    until(lambda: accounts(stack, job) == expected, PATIENCE, "one account for each attempt")


def test_a_chord_with_a_task_out_of_memory_runs_its_body_once(stack: Stack, key: str) -> None:
    options = gpu("t4", isolation="shared", escalate=True)
    fill = partial(stack.shop.fill.s, key)
    stack.go(key)
    header = [fill("t4 exclusive").set(**options), fill("t4 shared").set(**options)]
    body = stack.shop.pass_on.s(f"{key}-body")
    result = chord(header)(body)
    assert result.get(PATIENCE) == ["t4 exclusive", "t4 shared"]
    assert stack.told(f"{key}-body") == ["t4 exclusive", "t4 shared"]
    assert stack.told_so_far(f"{key}-body") == []
    assert sorted(stack.told_so_far(key)) == ["t4 exclusive", "t4 shared", "t4 shared"]


@pytest.mark.parametrize(
    ("options", "places", "error"),
    [
        (
            gpu(["t4", "a100"], isolation="exclusive", escalate=True),
            ["t4 exclusive", "a100 exclusive"],
            "out of GPU memory in a100 (exclusive), as before in t4 (exclusive)",
        ),
        (
            gpu("a100", escalate=True),
            ["a100 exclusive"],
            "out of GPU memory in a100 (exclusive); no class that fits it is larger",
        ),
    ],
    ids=["in both", "in the largest"],
)
def test_a_task_out_of_memory_in_the_end_fails_with_its_error(
    stack: Stack, key: str, options: dict[str, Any], places: list[str], error: str
) -> None:
    stack.go(key, 2)
    until(lambda: not stack.reader.holders("t4"), PATIENCE, "the slot of the last test is free")
    errback = stack.shop.new_errback.s(f"{key}-errback").set(queue="celery")
    result = stack.shop.fill.apply_async((key,), link_error=errback, **options)
    with pytest.raises(Exception, match=r"^CUDA out of memory\. Tried to allocate 20\.00 GiB\.$"):
        result.get(PATIENCE)
    record = ended(stack, result)
    assert (record["reason"], record["error"]) == ("GPU_OOM", error)
    assert stack.told_so_far(key) == places
    assert stack.told(f"{key}-errback")[:3] == ["new", result.id, "OutOfMemoryError"]
    assert stack.told_so_far(f"{key}-errback") == []
