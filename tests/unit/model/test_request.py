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


def test_what_is_not_asked_for_is_not_sent() -> None:
    assert GpuRequest.parse(None) == GpuRequest.parse({}) == GpuRequest()
    assert GpuRequest().header() == {}


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidJob, match="warmth") as caught:
        GpuRequest.parse({"warmth": 60})
    assert all(name in str(caught.value) for name in REQUEST_FIELDS)
