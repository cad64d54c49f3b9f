"""How a live attempt stands to the record of its job."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.dispatcher.identity import Standing, standing
from gpuqueue.model.attempt import LiveAttempt, is_same_instance

MINE: Any = {"delivery": "a", "id": "a", "gpu_class": "t4", "isolation": "shared", "token": "mine"}
MINE["attempt"] = 2
LIVE = LiveAttempt.of(MINE, "h:n:1")
OTHER = {"token": "other"}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, Standing.UNKNOWN),
        ({"attempt": 2, "state": "launching", "token": "mine"}, Standing.CURRENT),
        (
            {"attempt": 2, "state": "running", "token": "mine", "instance": "h:n:1"},
            Standing.CURRENT,
        ),
        ({"attempt": 2, "state": "launching", "token": "mine", "instance": "x"}, Standing.CURRENT),
        ({"attempt": 2, "state": "running", "token": "mine", "instance": "x"}, Standing.OVER),
        ({"attempt": 2, "state": "launching", **OTHER}, Standing.STRAY),
        ({"attempt": 2, "state": "running", **OTHER}, Standing.STRAY),
        ({"state": "accepted"}, Standing.AHEAD),
        ({"state": "waiting"}, Standing.AHEAD),
        ({"attempt": 1, "state": "delayed"}, Standing.AHEAD),
        ({"attempt": 2, "state": "delayed"}, Standing.OVER),
        ({"attempt": 1, "state": "running", **OTHER}, Standing.SUCCESSOR),
        ({"attempt": 1, "state": "launching", "token": "alive"}, Standing.STRAY),
        ({"attempt": 1, "state": "finishing"}, Standing.OVER),
        ({"attempt": 3, "state": "running", **OTHER}, Standing.OVER),
        ({"attempt": 2, "state": "ended", "instance": "h:n:1"}, Standing.OVER),
    ],
)
def test_a_live_attempt_is_compared_by_token_and_instance(record: Any, expected: Standing) -> None:
    assert standing(record, LIVE, {"mine", "alive"}) is expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ns/job", "ns/job/uid", True),
        ("ns/job/uid", "ns/job", True),
        ("ns/job/one", "ns/job/two", False),
        ("ns/job", "ns/job-1", False),
        ("h:n:1", "h:n:1", True),
        ("h:n:1", "h:n:12", False),
    ],
)
def test_a_job_is_the_same_instance_as_its_pod(one: str, other: str, same: bool) -> None:
    assert is_same_instance(one, other) is same
