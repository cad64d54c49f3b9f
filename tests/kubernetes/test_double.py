"""The double says what a real Kubernetes said: every recording is played to it, and compared.

Compared are, for each object, the histories of what was said of it (see :mod:`tests.kubernetes.essentials`), and all of every
refused request. A recording stops at some point, so it may be the beginning of what the double says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.testing.cluster import Cluster
from tests.kubernetes.essentials import Histories, histories, refusal
from tests.kubernetes.pods import RECORDINGS
from tests.kubernetes.scenarios import IMAGES, SCENARIOS, Scenario
from tests.kubernetes.watching import Recorder, Row

#: Where the double differs, and why. What is not here is compared.
DIFFERENCES = {
    "Job status.ready": "a real Job's count of ready pods lags by up to a second, and was told or skipped by chance",
    "Pod status.resources": "a kubelet gives them back piecemeal after the end (a memory limit of 9007199254740988Ki)",
    "managedFields": "not kept; they were dropped from the recordings of watches as well",
    "events MissingClusterDNS, FailedMount": "of the recorded machine's set-up",
    "oom_killed": "the process is killed by a fault: no memory limit is enforced here",
    "kubelet_down_then_back": "the container computes for less than a second instead of two minutes",
}


def recorded(name: str) -> list[Row]:
    """The rows of a recording."""
    return [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]


def namespace_of(rows: list[Row]) -> str:
    """Where a recording was made."""
    for row in rows:
        if "watch" in row:
            return str(row["object"]["metadata"]["namespace"])
    return "rec-forbidden" if "without RBAC" in rows[0]["request"] else "rec-quota-refuses-job"


def test_every_recording_is_played() -> None:
    assert {scenario.name for scenario in SCENARIOS} == {path.stem for path in RECORDINGS.glob("*.jsonl")}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_double_says_what_the_server_said(scenario: Scenario, tmp_path: Path) -> None:
    truth = recorded(scenario.name)
    namespace = namespace_of(truth)
    wanted = histories(truth)
    with Cluster(
        tmp_path,
        pace=scenario.pace,
        manifest_pace=scenario.manifest_pace,
        nodes=scenario.nodes,
        images=IMAGES,
        namespace=namespace,
    ) as cluster:
        recorder = Recorder(cluster, namespace)
        scenario.play(recorder)
        try:
            recorder.wait(lambda: not missing(wanted, histories(recorder.rows)), seconds=6)
        except AssertionError:
            pytest.fail(f"the double says something else:\n{missing(wanted, histories(recorder.rows))}")
        recorder.close()
        rows = list(recorder.rows)
    requests = [refusal(row) for row in truth if row.get("status", 0) >= 400 or _in_stream(row)]
    assert [refusal(row) for row in rows if row.get("status", 0) >= 400 or _in_stream(row)] == requests
    assert set(histories(rows)) == set(wanted)


def missing(wanted: Histories, said: Histories) -> str:
    """What was recorded and not said, or said otherwise; empty if nothing."""
    told = []
    for key, history in wanted.items():
        have = said.get(key, [])
        if have[: len(history)] != history:
            at = next((index for index, (a, b) in enumerate(zip(have, history, strict=False)) if a != b), len(have))
            told.append(f"{key} at {at}\n  recorded {_line(history, at)}\n  said     {_line(have, at)}")
    return "\n".join(told)


def _line(history: list[Any], at: int) -> str:
    return json.dumps(history[at]) if at < len(history) else "nothing"


def _in_stream(row: Row) -> bool:
    """A refusal inside a watch, which was answered 200."""
    return isinstance(row.get("body"), dict) and row["body"].get("type") == "ERROR"
