"""A job of several GPUs that runs out of memory, and places that have changed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.keys import class_key
from gpuqueue.store.usage import Usage
from tests.property import moving as played
from tests.property.moving import A100, T4, Moving

pytestmark = pytest.mark.integration
TWO: dict[str, Any] = {"gpus": 2}


@pytest.fixture
def moving(schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Moving:
    """Classes with two GPUs each."""
    for each in (T4, A100):
        whole = replace(each, shared_slots=0, exclusive_slots=2)
        monkeypatch.setitem(played.CLASSES, each.name, whole)
    return Moving(schedule_redis)


def change(moving: Moving, gpu_class: GpuClass) -> None:
    """The dispatcher has started again, with other settings."""
    moving.accept.classes[gpu_class.name] = gpu_class  # type: ignore[index]


def further(moving: Moving, gpu_class: str) -> set[str]:
    found: Any = moving.client.zrange(class_key(gpu_class, "holders_further"), 0, -1)
    return set(found) - {"."}


def test_all_its_slots_move_to_the_larger_class(moving: Moving) -> None:
    moving.send(**TWO)
    assert further(moving, "t4") == {"a#1/2"}
    moving.run(EndReason.ESCALATED)
    moving.finish()
    assert (further(moving, "t4"), further(moving, "a100")) == (set(), {"a#2/2"})
    assert moving.record("a100")["gpus"] == 2
    moving.run(EndReason.SUCCEEDED)
    assert further(moving, "a100") == set()
    entries = [each for name in ("t4", "a100") for each in Usage(moving.client).of(name, 0).entries]
    assert [each.gpus for each in entries] == [2, 2]


def test_no_class_with_fewer_slots_than_gpus_is_larger(moving: Moving) -> None:
    change(moving, A100)
    moving.send(**TWO)
    assert moving.record("t4")["larger"] == "none"


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (A100, "gpu.gpus=2 exceeds the exclusive slots of class 'a100' (1 in one domain)"),
        (replace(A100, exclusive_slots=0), "gpu.isolation='exclusive' has no slots on class"),
        (replace(A100, exclusive_slots=2, memory=8), "gpu.memory='1.0GiB' exceeds the usable"),
    ],
    ids=["fewer slots", "no slots", "less memory"],
)
def test_a_job_that_its_larger_class_cannot_run_any_more_ends(
    moving: Moving, now: GpuClass, problem: str
) -> None:
    """In the state RETRY, it would wait for ever."""
    moving.send(**TWO, memory="1GiB")
    moving.run(EndReason.ESCALATED)
    change(moving, now)
    moving.finish()
    found = moving.record("t4")
    assert found["finish_error"].startswith(f"its larger class cannot run it any more: {problem}")
    assert [place[0] for place in moving.live()] == ["t4"]
    for _ in range(12):
        moving.now += 100
        moving.finish()
    found = moving.record("t4")
    assert (found["state"], found["reason"]) == ("ended", "GPU_OOM")
    assert moving.live() == []
