"""Which classes fit a job, which one it gets, and how classes are configured."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.classes.choose import DRIVER_RESERVE, choose, resolve
from gpuqueue.classes.gpu_class import GpuClass, mig_class
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.model.names import parse_queue
from gpuqueue.model.request import GpuRequest

GB = 10**9
T4 = GpuClass("t4", shared_slots=8, exclusive_slots=1, memory=16 * GB)
A100 = GpuClass("a100", exclusive_slots=2, memory=80 * GB)
SMALL = mig_class("nvidia.com/mig-1g.5gb", 7)
MIDDLE = mig_class("nvidia.com/mig-3g.20gb", 2)
WIDE = mig_class("nvidia.com/mig-4g.20gb", 1)
ALL = {each.name: each for each in (A100, WIDE, T4, MIDDLE, SMALL)}

FITTING: dict[str, tuple[str, dict[str, Any], list[str], str]] = {
    "a named class is the only candidate": ("gpu.a100", {}, ["a100"], "exclusive"),
    "a named class with shared slots shares by default": ("gpu.t4", {}, ["t4"], "shared"),
    "the queue sets the isolation": ("gpu.t4.exclusive", {}, ["t4"], "exclusive"),
    "the header sets the isolation": ("gpu.t4", {"isolation": "exclusive"}, ["t4"], "exclusive"),
    "auto: all that fit, smallest memory first": (
        *("gpu.auto", {"isolation": "exclusive"}),
        *(["mig-1g.5gb", "t4", "mig-3g.20gb", "mig-4g.20gb", "a100"], "exclusive"),
    ),
    "mig: only profiles": (
        "gpu.mig",
        {},
        ["mig-1g.5gb", "mig-3g.20gb", "mig-4g.20gb"],
        "exclusive",
    ),
    "memory excludes small classes": (
        "gpu.mig",
        {"memory": 6 * GB},
        ["mig-3g.20gb", "mig-4g.20gb"],
        "exclusive",
    ),
    "slices exclude small profiles": ("gpu.mig", {"slices": 4}, ["mig-4g.20gb"], "exclusive"),
    "shared isolation excludes classes without it": (
        "gpu.auto",
        {"isolation": "shared"},
        ["t4"],
        "shared",
    ),
    "memory minus the driver reserve just fits": (
        "gpu.t4",
        {"memory": 16 * GB - DRIVER_RESERVE},
        ["t4"],
        "shared",
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown class": (
        "gpu.h100",
        {},
        "queue='gpu.h100' names the unknown class 'h100'; this dispatcher has: gpu.a100",
    ),
    "two different isolations": (
        "gpu.t4.shared",
        {"isolation": "exclusive"},
        "contradicts the queue gpu.t4.shared; set only one of them",
    ),
    "shared isolation on a class without it": (
        "gpu.a100.shared",
        {},
        "has no slots on class 'a100'; route to gpu.a100",
    ),
    "more memory than any class has": (
        "gpu.auto",
        {"memory": 81 * GB},
        "exceeds the usable memory of class 'a100' (74.0GiB); ask for less",
    ),
    "more than memory minus the driver reserve": (
        "gpu.t4",
        {"memory": 16 * GB - DRIVER_RESERVE + 1},
        "exceeds the usable memory of class 't4' (14.4GiB)",
    ),
    "more slices than any profile has": (
        "gpu.mig",
        {"slices": 5},
        "gpu.slices=5 exceeds the slices of class 'mig-4g.20gb' (4)",
    ),
}
TABLES: dict[str, tuple[str, str]] = {
    "is not TOML": ("[classes", "GPUQUEUE_CLASSES_FILE='f.toml' is not TOML"),
    "has a name in capitals": (
        "[classes.T4]\nshared_slots = 1",
        "f.toml: classes.T4: 'T4' is not a valid class name",
    ),
    "has a reserved name": (
        "[classes.auto]\nshared_slots = 1",
        "'auto' is not a valid class name",
    ),
    "has an unknown field": (
        "[classes.l4]\nslots = 3",
        "f.toml: classes.l4.slots=3 is unknown; known: cpu, devices, exclusive_patience",
    ),
    "has a fraction of a slot": (
        "[classes.l4]\nshared_slots = 1.5",
        "classes.l4.shared_slots=1.5 is not a whole number of at least 0",
    ),
    "has a patience of 0": (
        "[classes.l4]\nshared_slots = 1\nshared_patience = 0",
        "shared_patience=0 is not a whole number of at least 1",
    ),
    "has pods that wait for less than no time": (
        "[classes.l4]\nshared_slots = 1\nwarm_seconds = -0.5",
        "f.toml: classes.l4.warm_seconds=-0.5 is not a number of seconds; use 0 to 86400",
    ),
    "has pods that wait for more than a day": (
        "[classes.l4]\nshared_slots = 1\nwarm_seconds = inf",
        "warm_seconds=inf is not a number of seconds; use 0 to 86400",
    ),
    "has text for the age of pods": (
        "[classes.l4]\nshared_slots = 1\nwarm_age = '1h'",
        "classes.l4.warm_age='1h' is not a number of seconds; use 1 to 604800",
    ),
    "has a truth for seconds": (
        "[classes.l4]\nshared_slots = 1\nwarm_seconds = true",
        "warm_seconds=True is not a number of seconds",
    ),
    "has pods that run no job": (
        "[classes.l4]\nshared_slots = 1\nwarm_jobs = 0",
        "classes.l4.warm_jobs=0 is not a whole number of at least 1",
    ),
    "has text for memory": (
        "[classes.l4]\nshared_slots = 1\nmemory = 'big'",
        "classes.l4: gpu.memory='big' is not an amount",
    ),
    "has no slots": (
        "[classes.l4]\nmemory = '24GB'",
        "classes.l4 has no slots; set shared_slots or exclusive_slots",
    ),
    "names devices by UUID": (
        "[classes.l4]\nshared_slots = 1\ndevices = ['GPU-1']",
        "is not a list of GPU indexes",
    ),
}


@pytest.mark.parametrize(("queue", "fields", "names", "isolation"), FITTING.values(), ids=FITTING)
def test_classes_that_fit_a_job(
    queue: str, fields: dict[str, Any], names: list[str], isolation: str
) -> None:
    fitting, found = resolve(ALL, parse_queue(queue), GpuRequest(**fields))
    assert ([each.name for each in fitting], found) == (names, isolation)


@pytest.mark.parametrize(("queue", "fields", "text"), REFUSED.values(), ids=REFUSED)
def test_job_that_fits_no_class_is_refused(queue: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        resolve(ALL, parse_queue(queue), GpuRequest(**fields))
    assert text in str(caught.value)


def test_queue_mig_without_a_profile_names_missing_settings() -> None:
    with pytest.raises(
        InvalidJob, match="has no class to choose from; set MIG_TOTAL_SLOTS and GPU_RESOURCE_NAME"
    ):
        resolve({"t4": T4}, parse_queue("gpu.mig"), GpuRequest())


def test_cheapest_class_with_a_free_slot_is_chosen() -> None:
    free = {"mig-1g.5gb": 0, "mig-3g.20gb": 1, "mig-4g.20gb": 1}
    assert choose([SMALL, MIDDLE, WIDE], None, lambda name, kind: free[name]) is MIDDLE


def test_without_a_free_slot_fewest_waiting_per_slot_wins() -> None:
    waiting = {"mig-1g.5gb": -7, "mig-3g.20gb": -1, "mig-4g.20gb": -1}
    assert choose([SMALL, MIDDLE, WIDE], None, lambda name, kind: waiting[name]) is MIDDLE


@pytest.mark.parametrize(("text", "problem"), TABLES.values(), ids=TABLES)
def test_invalid_classes_file_is_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_toml(text, "f.toml")
    assert problem in str(caught.value)


def test_classes_file_configures_classes() -> None:
    text = (
        "[classes.l4]\nresource = 'x/gpu'\nshared_slots = 4\nexclusive_slots = 1\nmemory ="
        " '24GB'\ndevices = [0, 2]"
    )
    made = from_toml(text, "f.toml", shared_patience=3)["l4"]
    assert made == GpuClass("l4", "x/gpu", 4, 1, 24 * GB, shared_patience=3, devices=(0, 2))
    assert made.queues == ["gpu.l4.shared", "gpu.l4.exclusive"]
    assert made.spec(2) == {
        "shared_slots": 4,
        "exclusive_slots": 1,
        "exclusive_patience": 8,
        "shared_patience": 3,
        "devices": 2,
    }


def test_mig_class_has_the_name_of_its_profile_and_no_sharing() -> None:
    assert GpuClass("mig-1g.5gb", "nvidia.com/mig-1g.5gb", 0, 7, 5 * GB, 1) == SMALL
    assert SMALL.queues == ["gpu.mig-1g.5gb"]
    with pytest.raises(SettingsError, match="is not a MIG profile"):
        mig_class("nvidia.com/gpu", 7)
