"""What the previous version left in Redis, in every state, is taken over: every job ends as it
should, once, and slots come free.

``state-0.1.0.json`` was recorded by record.py from dispatchers and executors of that version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue.model.states import JobState
from gpuqueue.store.keys import LAYOUT, class_key
from tests.support.crash_stack import CLOCKS
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until
from tests.upgrade.record import SLOTS
from tests.upgrade.state import load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
HERE = Path(__file__).parent
STATES = sorted(HERE.glob("state-*.json"))
#: Job → how it ends.
ENDS: dict[str, tuple[str, Any]] = {
    "done": ("SUCCESS", 1),
    "failed": ("FAILURE", "ValueError"),
    "retried": ("SUCCESS", 1),
    "running": ("SUCCESS", "running"),
    "running, to be stopped": ("REVOKED", "TaskRevokedError"),
    "reporting": ("FAILURE", "ExecutorDied"),
    "ended, not released": ("SUCCESS", "ended, not released"),
    "delayed by a pause": ("SUCCESS", 1),
    "delayed by eta": ("SUCCESS", 1),
    "launching": ("SUCCESS", 1),
    "accepted": ("SUCCESS", 1),
    "exclusive": ("SUCCESS", 1),
    "exclusive 0": ("SUCCESS", 1),
    "shared 6": ("SUCCESS", 1),
    "shared 3": ("SUCCESS", 1),
    "shared 3 later": ("SUCCESS", 1),
    "expiring": ("REVOKED", "TaskRevokedError"),
    "cancelled": ("REVOKED", "TaskRevokedError"),
    "refused": ("FAILURE", "InvalidJob"),
    "in the broker": ("SUCCESS", 1),
    "revoked before it came": ("REVOKED", "TaskRevokedError"),
}
#: What tasks tell → how often: once where their code had not run yet, never again where it had,
#: once more where it was cut off.
TOLD = {
    **dict.fromkeys(("done", "reporting", "ended, not released", "running, to be stopped"), 0),
    **dict.fromkeys(("expiring", "cancelled", "refused", "revoked"), 0),
    **dict.fromkeys(
        ("running", "paused", "eta", "launching", "accepted", "exclusive", "exclusive 0", "broker"),
        1,
    ),
    **dict.fromkeys(("shared 6", "shared 3", "shared 3 later"), 1),
}


@pytest.fixture(scope="module", params=STATES, ids=lambda file: file.stem)
def kept(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


@pytest.fixture
def stack(tmp_path: Path, running_stacks: list[Stack], kept: dict[str, Any]) -> Iterator[Stack]:
    made = Stack(tmp_path / "stack", CLOCKS | {"T4_SHARED_SLOTS": SLOTS})
    running_stacks.append(made)
    load(made.client, kept)
    yield made
    running_stacks.remove(made)
    made.close()


def records(kept: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the newest record of each job, as it was recorded."""
    names = {job_id: name for name, job_id in kept["jobs"].items()}
    raw = [
        text
        for name in ("t4", "refused")
        for text in kept["keys"][class_key(name, "jobs")][1].values()
    ]
    return {
        names[each["id"]]: each
        for each in sorted(map(json.loads, raw), key=lambda each: each["created"])
    }


def test_a_job_was_recorded_in_every_state(kept: dict[str, Any]) -> None:
    assert {each["state"] for each in records(kept).values()} == {str(state) for state in JobState}
    assert set(kept["jobs"]) == set(ENDS)
    never_empty = {
        "holders_exclusive",
        "devices",
    }  # an exclusive job does not run beside shared ones; devices are a GPU's
    from_0_1_0 = json.loads((HERE / "contract-0.1.0.json").read_text())["keys of a class"]
    assert set(from_0_1_0) - never_empty <= {
        key.rpartition(":")[2] for key in kept["keys"] if "{t4}" in key
    }


@pytest.mark.slow
def test_every_job_of_the_previous_version_ends_as_it_should_once(
    stack: Stack, kept: dict[str, Any]
) -> None:
    jobs: dict[str, str] = kept["jobs"]
    for name in ("done", "revoked before it came"):  # one is delivered again, one comes now
        stack.app.send_task(
            "shop.tell_of", (name.partition(" ")[0], 2), queue="gpu.t4.shared", task_id=jobs[name]
        )
    stack.dispatcher()
    stack.go("running")

    def ended(name: str) -> tuple[str, Any]:
        result = AsyncResult(jobs[name], app=stack.app)
        return result.state, type(result.result).__name__ if isinstance(
            result.result, Exception
        ) else result.result

    until(
        lambda: {name: ended(name) for name in ENDS} == ENDS,
        PATIENCE,
        "all have ended",
        lambda: str([*map(ended, ENDS)]),
    )
    until(lambda: _left(stack) == [], PATIENCE, "nothing is left", lambda: str(_left(stack)))
    assert {key: len(stack.told_so_far(key)) for key in TOLD} == TOLD
    assert stack.client.get(LAYOUT) == "1"


@pytest.mark.slow
def test_the_line_of_the_previous_version_keeps_its_order(
    stack: Stack, kept: dict[str, Any]
) -> None:
    jobs: dict[str, str] = kept["jobs"]
    stack.env["T4_SHARED_SLOTS"] = "1"
    stack.dispatcher()
    stack.go("running")
    until(lambda: _left(stack) == [], PATIENCE, "nothing is left", lambda: str(_left(stack)))

    def admitted(*names: str) -> list[str]:
        found = {name: stack.record(jobs[name]) for name in names}
        return sorted(names, key=lambda name: (found[name] or {}).get("admitted", 0.0))

    assert admitted("exclusive", "exclusive 0") == ["exclusive 0", "exclusive"]
    shared = ["shared 3", "shared 3 later", "shared 6"]
    assert admitted(*reversed(shared)) == shared


def _left(stack: Stack) -> list[str]:
    """What has not ended, or still holds a slot."""
    left = [
        str(delivery)
        for name in ("t4", "refused")
        for delivery in stack.client.hkeys(class_key(name, "messages"))
    ]
    held = [f"slot of {delivery}" for delivery in stack.holders()]
    return left + held + [str(each) for each in stack.client.lrange("gpu.t4.shared", 0, -1)]
