"""The ``gpu`` header of a job: an error names the field, the value and the fix."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gpuqueue.errors import InvalidJob
from gpuqueue.model.request import REQUEST_FIELDS, GpuRequest


@pytest.mark.parametrize("warm", [0, 0.5, 60, 86_400])
def test_seconds_that_a_pod_may_wait(warm: float) -> None:
    request = GpuRequest.parse({"warm": warm})
    assert request.warm == warm
    assert request.header() == {"warm": warm}


@pytest.mark.parametrize("warm", [-1, 86_401, math.inf, math.nan, "60", True, [60]])
def test_other_waits_are_refused(warm: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        GpuRequest.parse({"warm": warm})
    assert str(caught.value) == f"gpu.warm={warm!r} is not a number of seconds; use 0 to 86400"


@pytest.mark.parametrize("classes", [["t4"], ("mig-1g.5gb", "t4"), [f"c{n}" for n in range(16)]])
def test_a_list_of_classes_keeps_its_order(classes: Any) -> None:
    request = GpuRequest.parse({"classes": classes})
    assert request.classes == tuple(classes)
    assert request.header() == {"classes": list(classes)}


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ([], "gpu.classes=[] is empty; list 1 to 16 classes, e.g. ['mig-1g.5gb', 't4']"),
        ("t4", "gpu.classes='t4' is not a list of classes; list 1 to 16 classes"),
        ({"t4": 1}, "gpu.classes={'t4': 1} is not a list of classes"),
        ([f"c{n}" for n in range(17)], "has 17 classes; list 1 to 16 classes"),
        (["t4", "T4"], "gpu.classes='T4' cannot name a class"),
        (["t4", 4], "gpu.classes=4 cannot name a class"),
        (["auto"], "gpu.classes='auto' is not a class of GPUs"),
        (["chords"], "gpu.classes='chords' is not a class of GPUs"),
        (["t4", "l4", "t4"], "gpu.classes='t4' is listed twice; list each class once"),
    ],
    ids=lambda value: value if isinstance(value, str) and "gpu." in value else "",
)
def test_other_lists_of_classes_are_refused(classes: Any, text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        GpuRequest.parse({"classes": classes})
    assert text in str(caught.value)


@pytest.mark.parametrize("escalate", ["true", 1, 0, []])
def test_escalate_is_a_truth_value(escalate: Any) -> None:
    with pytest.raises(InvalidJob, match=r"gpu\.escalate=.* is not a truth value; use true"):
        GpuRequest.parse({"escalate": escalate})


def test_what_is_not_asked_for_is_not_sent() -> None:
    assert GpuRequest.parse(None) == GpuRequest.parse({}) == GpuRequest()
    assert GpuRequest().header() == {}


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidJob, match="warmth") as caught:
        GpuRequest.parse({"warmth": 60})
    assert all(name in str(caught.value) for name in REQUEST_FIELDS)
