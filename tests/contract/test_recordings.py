"""The double says what a real Kubernetes said: every recording is played to it, and compared.

Compared are, for each object, the histories of what was said of it (see
:mod:`tests.contract.histories`), and all of every refused request. A recording stops at some
point, so it may be the beginning of what the double says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contract.histories import Histories, histories, refusal
from tests.contract.recorder import Recorder, Row
from tests.contract.scenarios import (
    IMAGES,
    SCENARIOS,
    Scenario,
    created,
    deleted,
    ended,
    gone,
    over,
    running,
    state,
    waiting,
)
from tests.doubles.kubernetes import Cluster
from tests.support.pod_objects import RECORDINGS

#: Where the double differs, and why. What is not here is compared.
DIFFERENCES = {
    "Job status.ready": (
        "a real Job's count of ready pods lags by up to a second, and was told or skipped by chance"
    ),
    "Pod status.resources": (
        "a kubelet gives them back piecemeal after the end (a memory limit of 9007199254740988Ki)"
    ),
    "managedFields": "not kept; they were dropped from the recordings of watches as well",
    "events MissingClusterDNS, FailedMount": (
        "of the recorded machine's set-up; those of a missing volume are compared"
    ),
    "pods of a watch that broke off": "they are known by their events alone",
    "events of the Job controller": "the newer recordings have none of them",
    "oom_killed": "the process is killed by a fault: no memory limit is enforced here",
    "kubelet_down_then_back": (
        "the container computes for less than a second instead of two minutes"
    ),
}

JOB_EVENTS = ("events", "Job gpu-job", "job-controller")


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
    assert {scenario.name for scenario in SCENARIOS} == {
        path.stem for path in RECORDINGS.glob("*.jsonl")
    }


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_double_reproduces_the_recording(scenario: Scenario, tmp_path: Path) -> None:
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
            recorder.wait(lambda: not missing(wanted, histories(recorder.rows)))
        except AssertionError:
            pytest.fail(
                f"the double says something else:\n{missing(wanted, histories(recorder.rows))}"
            )
        recorder.close()
        rows = list(recorder.rows)
    requests = [refusal(row) for row in truth if row.get("status", 0) >= 400 or _in_stream(row)]
    assert [
        refusal(row) for row in rows if row.get("status", 0) >= 400 or _in_stream(row)
    ] == requests
    broken = {row["watch"] for row in truth if row.get("type") == "ERROR"}
    beyond = {key for key in set(histories(rows)) - set(wanted) if key[0] not in broken}
    assert beyond <= {JOB_EVENTS}
    assert set(histories(rows)) >= set(wanted)


def missing(wanted: Histories, said: Histories) -> str:
    """What was recorded and not said, or said otherwise; empty if nothing."""
    told = []
    for key, history in wanted.items():
        have = said.get(key, [])
        if have[: len(history)] != history:
            at = next(
                (index for index, (a, b) in enumerate(zip(have, history, strict=False)) if a != b),
                len(have),
            )
            told.append(
                f"{key} at {at}\n  recorded {_line(history, at)}\n  said     {_line(have, at)}"
            )
    return "\n".join(told)


def _line(history: list[Any], at: int) -> str:
    return json.dumps(history[at]) if at < len(history) else "nothing"


def _in_stream(row: Row) -> bool:
    """A refusal inside a watch, which was answered 200."""
    return isinstance(row.get("body"), dict) and row["body"].get("type") == "ERROR"


def _shape(body: Any) -> Any:
    """An object without what differs in each run: uids, versions, times, the names of pods and of
    their token's volume.
    """
    text = json.dumps(body)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    text = re.sub(r"(gpu-job|low|high|kube-api-access)-[a-z0-9]{5}\b", r"\1-<made>", text)
    return json.loads(re.sub(r'"resourceVersion": "\d+"', '"resourceVersion": "N"', text))


@pytest.mark.parametrize(
    "name", ["success", "exit_1_pod_failure_policy", "suspend_resume", "node_lost_then_back"]
)
def test_a_new_job_and_its_pod_are_as_the_server_fills_them_in(name: str, tmp_path: Path) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    truth = recorded(name)
    with Cluster(
        tmp_path, nodes=scenario.nodes, images=IMAGES, namespace=namespace_of(truth)
    ) as cluster:
        cluster.faults.stall("scheduler")  # what comes later is compared above
        recorder = Recorder(cluster, cluster.namespace)
        sent = next(row["object"] for row in truth if row.get("watch") == "jobs")
        job = _as_sent(sent)
        recorder.ask("POST", recorder.jobs, job)
        for kind in ("jobs", "pods"):
            if kind == "pods" and job["spec"].get("suspend"):
                continue
            wanted = next(row for row in truth if row.get("watch") == kind)
            said = recorder.until(partial(_is_of, kind))
            assert _shape(said["object"]) == _shape(wanted["object"])
        recorder.close()


def _as_sent(job: dict[str, Any]) -> dict[str, Any]:
    """A recorded Job without what the server adds to it."""
    spec = {
        name: value
        for name, value in job["spec"].items()
        if name in ("backoffLimit", "podFailurePolicy", "suspend", "template")
    }
    template = {**spec["template"], "metadata": {"labels": job["metadata"]["labels"]}}
    inner = template["spec"]
    container = {
        name: value
        for name, value in inner["containers"][0].items()
        if not name.startswith("terminationMessage")
    }
    kept = {
        name: inner[name]
        for name in ("nodeSelector", "restartPolicy", "tolerations")
        if name in inner
    }
    metadata = {"name": job["metadata"]["name"], "labels": job["metadata"]["labels"]}
    return {
        "metadata": metadata,
        "spec": {**spec, "template": {**template, "spec": {**kept, "containers": [container]}}},
    }


@pytest.mark.parametrize("name", ["success", "exit_1", "command_not_found"])
def test_the_status_of_an_ended_pod_has_the_fields_of_a_real_one(name: str, tmp_path: Path) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    truth = recorded(name)
    with Cluster(tmp_path, images=IMAGES, namespace=namespace_of(truth)) as cluster:
        recorder = Recorder(cluster, cluster.namespace)
        scenario.play(recorder)
        for stage in (running, ended) if name != "command_not_found" else (ended,):
            wanted = next(row for row in truth if stage(row))["object"]["status"]
            said = recorder.until(stage)["object"]["status"]
            assert _fields(said) == _fields(wanted)
        recorder.close()


def _fields(status: dict[str, Any]) -> dict[str, Any]:
    container = status["containerStatuses"][0]
    return {
        # What is given back of resources at the end, and mounts, are not kept here.
        "status": set(status) - {"resources", "allocatedResources"},
        "container": set(container) - {"volumeMounts"},
        "state": {kind: set(detail) for kind, detail in container["state"].items()},
        "conditions": [(item["type"], sorted(item)) for item in status["conditions"]],
    }


#: What is timed, from one row to another of the same kind of object, and by how much a real cluster
#: may be off that (seconds).
CLOCKED: dict[str, list[tuple[Callable[[Row], bool], Callable[[Row], bool], float]]] = {
    "success": [
        (created("pods"), running, 0.25),
        (state("terminated"), ended, 0.2),
        (ended, over, 0.7),
    ],
    "image_pull_back_off": [
        (created("pods"), waiting("ErrImagePull"), 0.4),
        (waiting("ErrImagePull"), waiting("ImagePullBackOff"), 0.5),
        (deleted, gone("pods"), 0.4),
    ],
    "cancel_background": [(deleted, ended, 0.7), (ended, gone("pods"), 0.3)],
    "pod_deleted_pod_failure_policy": [(ended, gone("pods"), 0.6)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOCKED)
def test_at_pace_1_the_double_takes_its_time_as_the_server_did(name: str, tmp_path: Path) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    truth = recorded(name)
    with Cluster(tmp_path, pace=1, images=IMAGES, namespace=namespace_of(truth)) as cluster:
        recorder = Recorder(cluster, cluster.namespace)
        scenario.play(recorder)
        for begin, end, leeway in CLOCKED[name]:
            recorder.until(end)
            wanted, said = _between(truth, begin, end), _between(recorder.rows, begin, end)
            assert said == pytest.approx(wanted, abs=leeway + 0.2), (begin, end)
        recorder.close()


def _is_of(kind: str, row: Row) -> bool:
    return row.get("watch") == kind


def _between(rows: list[Row], begin: Callable[[Row], bool], end: Callable[[Row], bool]) -> float:
    at = [next(row["t"] for row in rows if holds(row)) for holds in (begin, end)]
    return float(at[1] - at[0])
