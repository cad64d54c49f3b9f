"""The time limits of a class: of jobs that set none, and the largest that a job may have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery.exceptions import TimeLimitExceeded

from gpuqueue.errors import InvalidJob
from gpuqueue.store.reader import Reader
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
CLASSES = """
[classes.usual]
exclusive_slots = 1
default_time_limit = 2

[classes.short]
exclusive_slots = 1
max_time_limit = 2
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("limits")
    file = directory / "classes.toml"
    file.write_text(CLASSES)
    env = {"GPUQUEUE_CLASSES_FILE": str(file), "GPUQUEUE_WARM_SECONDS": "0"}
    with listed(running_stacks, Stack(directory, env)) as made:
        made.dispatcher()
        yield made


@pytest.mark.parametrize("gpu_class", ["usual", "short"])
def test_a_job_without_a_limit_gets_that_of_its_class(
    stack: Stack, key: str, gpu_class: str
) -> None:
    result = stack.shop.hold.apply_async([key], queue=f"gpu.{gpu_class}")
    with pytest.raises(TimeLimitExceeded) as caught:
        result.get(PATIENCE)
    assert caught.value.args == (2,)


def test_a_limit_that_the_task_declares_counts_before_the_default(stack: Stack, key: str) -> None:
    result = stack.shop.endless.apply_async([key], queue="gpu.usual")
    with pytest.raises(TimeLimitExceeded) as caught:
        result.get(PATIENCE)
    assert caught.value.args == (1,)


def test_a_job_is_planned_by_the_limit_of_its_task_once_that_is_told(
    stack: Stack, key: str
) -> None:
    reader = Reader(stack.client)

    def planned() -> float | None:
        options = {"queue": "gpu.usual", "countdown": 3600}
        # As a sender without the code of the task.
        job = stack.shop.endless.apply_async([key], time_limit=None, **options)
        until(lambda: reader.find(job.id, ["usual"]))
        record = reader.find(job.id, ["usual"])
        assert record and record["time_limit"] == 2, "of the class, while none is declared"
        return record.get("planned_limit")

    stack.shop.endless.apply_async([key], queue="gpu.usual")
    until(lambda: planned() == 1)


def test_a_limit_of_a_message_above_the_largest_is_refused(stack: Stack, key: str) -> None:
    result = stack.shop.hold.apply_async([key], queue="gpu.short", time_limit=3)
    with pytest.raises(
        InvalidJob,
        match=r"time_limit=3 exceeds max_time_limit of class 'short' \(2 s\); ask for up to 2,",
    ):
        result.get(PATIENCE)


def test_a_limit_of_a_message_within_the_largest_is_kept(stack: Stack, key: str) -> None:
    result = stack.shop.hold.apply_async([key], queue="gpu.short", time_limit=1)
    with pytest.raises(TimeLimitExceeded) as caught:
        result.get(PATIENCE)
    assert caught.value.args == (1,)
