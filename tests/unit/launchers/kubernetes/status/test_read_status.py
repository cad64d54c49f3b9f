"""The status of every recorded pod, from its first event to its end."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import pytest

from gpuqueue.launchers.kubernetes.status.read_status import (
    Phase,
    PodStatusSummary,
    overdue,
    read_status,
)
from gpuqueue.model.ends import REJECTION
from gpuqueue.model.reasons import EndReason, WaitReason
from tests.support.pod_objects import RECORDINGS, a_pod, pod_events, waiting

# One row per status: phase, clock, verdict, wait.
NEW = (Phase.UNSCHEDULED, "unschedulable", EndReason.UNSCHEDULABLE, WaitReason.STARTING)
NO_NODE = (Phase.UNSCHEDULED, "unschedulable", EndReason.UNSCHEDULABLE, WaitReason.UNSCHEDULABLE)
BOUND = (Phase.PREPARING, "unanswered", None, WaitReason.STARTING)
PREPARES = (Phase.PREPARING, "sandbox", EndReason.INFRA, WaitReason.STARTING)
PULLS = (Phase.PREPARING, "image_pull", EndReason.IMAGE, WaitReason.PULLING_IMAGE)
BAD_IMAGE = (Phase.PREPARING, "image_error", EndReason.IMAGE, WaitReason.PULLING_IMAGE)
BAD_CONFIG = (Phase.PREPARING, "config_error", EndReason.BAD_SPEC, WaitReason.STARTING)
RUNS = (Phase.RUNNING, None, None, None)
GATED = (Phase.UNSCHEDULED, None, None, WaitReason.SUSPENDED)
KEPT = (Phase.OTHERS_RUN, None, None, None)
STOPS = (Phase.TERMINATING, "terminating", None, None)
ENDS = (Phase.ENDED, None, None, None)
Row = tuple[Phase, str | None, EndReason | None, WaitReason | None]


class Expected(NamedTuple):
    """An end: reason, exit code, parts of the message, and the node to avoid."""

    reason: EndReason
    code: int | None
    words: tuple[str, ...]
    avoid: str = ""


NEVER_STARTED = Expected(
    EndReason.POD_DELETED,
    None,
    ("its pod was deleted", "its container never started, node node-a"),
)
CLEAN = Expected(EndReason.ERROR, 0, ("exit code 0 without a result", "(Completed, node node-a)"))
DELETED = Expected(
    EndReason.POD_DELETED, 143, ("its pod was deleted", "(exit code 143, Error, node node-a)")
)
LOST = Expected(
    EndReason.NODE_LOST,
    143,
    ("its node was lost", "NoExecute taint", "exit code 143, Error, node node-b"),
    "node-b",
)

#: Recording → rows and end of each of its pods.
RECORDED: dict[str, list[tuple[list[Row], Expected | None]]] = {
    "success": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, ENDS],
            CLEAN._replace(words=("exit code 0", 'its termination message:\n{"ok": true}')),
        )
    ],
    "exit_1": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, ENDS],
            Expected(
                EndReason.ERROR,
                1,
                ("exit code 1", "(Error, node node-a)", "; the end of its log:\nTraceback: boom"),
            ),
        )
    ],
    "exit_1_pod_failure_policy": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, ENDS],
            Expected(EndReason.ERROR, 3, ("exit code 3", "node node-a")),
        )
    ],
    "oom_killed": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, ENDS],
            Expected(
                EndReason.HOST_OOM, 137, ("out of host memory", "137, OOMKilled, node node-a")
            ),
        )
    ],
    # Only the Job reports the deadline.
    "deadline_exceeded": [([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], DELETED)],
    "image_pull_back_off": [
        (
            [NEW, BOUND, PREPARES, PULLS, BAD_IMAGE, STOPS, ENDS],
            Expected(
                EndReason.POD_DELETED,
                None,
                ("its pod was deleted", "its container never started, node node-a"),
            ),
        )
    ],
    "image_never_present": [([NEW, BOUND, PREPARES, PULLS, BAD_IMAGE], None)],
    "invalid_image_name": [([NEW, BOUND, PREPARES, PULLS, BAD_IMAGE], None)],
    "secret_missing": [([NEW, BOUND, PREPARES, PULLS, BAD_CONFIG], None)],
    "command_not_found": [
        (
            [NEW, BOUND, PREPARES, PULLS, ENDS],
            Expected(
                EndReason.BAD_SPEC,
                128,
                ("cannot be started", "/no/such/program: no such file", "128, StartError"),
            ),
        )
    ],
    "unschedulable_gpu": [([NEW, NO_NODE], None)],
    "unschedulable_node_selector": [([NEW, NO_NODE], None)],
    "cancel_background": [([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], DELETED)],
    "cancel_foreground": [([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], DELETED)],
    "cancel_ignores_sigterm": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS],
            DELETED._replace(code=137, words=("exit code 137",)),
        )
    ],
    "pod_deleted": [([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], DELETED)],
    "pod_deleted_pod_failure_policy": [([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], DELETED)],
    "evicted": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS],
            Expected(
                EndReason.EVICTED,
                143,
                ("evicted: Eviction API: evicting", "exit code 143, Error, node node-a"),
            ),
        )
    ],
    "preempted": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS],
            Expected(
                EndReason.PREEMPTED,
                143,
                ("preempted", "accommodate a higher priority pod", "exit code 143"),
            ),
        ),
        ([NEW, NO_NODE, BOUND, PREPARES, PULLS, RUNS, ENDS], CLEAN),
    ],
    "rejected_by_node": [
        (
            [BOUND, ENDS],
            Expected(
                EndReason.INFRA,
                None,
                ("its node rejected its pod (OutOfnvidia.com/gpu)", "requested: 64, used: 0"),
                "node-a",
            ),
        )
    ],
    # A silent node is not a failed job, which may still run.
    "kubelet_down_then_back": [([NEW, BOUND, PREPARES, PULLS, RUNS, ENDS], CLEAN)],
    "node_lost_then_back": [([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], LOST)],
    "node_lost_pod_failure_policy": [
        ([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], LOST),
        ([NEW, BOUND, PREPARES, PULLS, RUNS], None),
    ],
    "node_deleted": [
        (
            [NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS],
            Expected(
                EndReason.NODE_LOST,
                None,
                ("its node is gone", "node no longer exists", "(node node-b)"),
                "node-b",
            ),
        )
    ],
    "suspend_resume": [([NEW, BOUND, PREPARES, PULLS, RUNS, ENDS], CLEAN)],
    # It is suspended while it runs: only its Job tells.
    "suspended_while_running": [
        ([NEW, BOUND, PREPARES, PULLS, RUNS, STOPS, ENDS], DELETED),
        ([NEW, BOUND, PREPARES, PULLS, RUNS], None),
    ],
    # Its executor has ended by itself, long before its pod was deleted.
    "sidecar_runs_on": [([NEW, BOUND, PREPARES, PULLS, RUNS, KEPT, STOPS, ENDS], CLEAN)],
    "native_sidecar": [([NEW, BOUND, PREPARES, PULLS, RUNS, KEPT, ENDS], CLEAN)],
    "scheduling_gate": [([GATED, ENDS], DELETED._replace(code=None, words=()))],
    "ttl_after_finished": [([NEW, BOUND, PREPARES, PULLS, RUNS, ENDS], CLEAN)],
    "api_errors": [([NEW, BOUND, PREPARES, PULLS, RUNS, ENDS], CLEAN)],
    "registry_401": [([NEW, BOUND, PREPARES, PULLS, BAD_IMAGE, STOPS, ENDS], NEVER_STARTED)],
    "registry_404": [([NEW, BOUND, PREPARES, PULLS, BAD_IMAGE, STOPS, ENDS], NEVER_STARTED)],
    "registry_429": [([NEW, BOUND, PREPARES, PULLS, BAD_IMAGE, STOPS, ENDS], NEVER_STARTED)],
    "registry_503": [([NEW, BOUND, PREPARES, PULLS, BAD_IMAGE, STOPS, ENDS], NEVER_STARTED)],
    # Why they do not start, only their events tell.
    "volume_missing": [([NEW, BOUND, PREPARES, STOPS, ENDS], NEVER_STARTED)],
    "runtime_class_unknown": [([NEW, BOUND, PREPARES, STOPS, ENDS], NEVER_STARTED)],
    "policy_refuses_job": [],
    "policy_refuses_pod": [],
    "quota_demands_limits": [],
    "quota_refuses_pod": [],
    "quota_refuses_job": [],
    "forbidden": [],
}


def row(summary: PodStatusSummary) -> Row:
    return (summary.phase, summary.clock, summary.verdict, summary.wait)


def test_table_covers_every_recording() -> None:
    assert RECORDED.keys() == {path.stem for path in RECORDINGS.glob("*.jsonl")}


@pytest.mark.parametrize("recording", RECORDED)
def test_recorded_pod_passes_its_phases_to_its_end(recording: str) -> None:
    pods = pod_events(recording)
    assert len(pods) == len(RECORDED[recording])
    for events, (rows, expected) in zip(pods, RECORDED[recording], strict=True):
        summaries = [read_status(event.object, deleted=event.type == "DELETED") for event in events]
        assert [key for key, _ in groupby(map(row, summaries))] == rows
        ends = [each.end for each in summaries if each.end]
        assert bool(ends) == (expected is not None)
        # The end is the same in the first status that has one and in the last.
        for end in ends if expected else []:
            assert expected is not None
            assert (end.reason, end.avoid, end.evidence.get("exit_code")) == (
                expected.reason,
                expected.avoid,
                expected.code,
            )
        if expected:
            place = 0
            for word in expected.words:
                assert word in ends[0].error[place:], ends[0].error
                place = ends[0].error.index(word, place) + len(word)


@pytest.mark.parametrize("recording", ["success", "oom_killed", "kubelet_down_then_back"])
def test_attempt_ends_with_its_container_not_with_the_pod_phase(
    recording: str,
) -> None:
    (events,) = pod_events(recording)
    first = next(event.object for event in events if read_status(event.object).phase is Phase.ENDED)
    assert first.status.phase == "Running"


def test_evidence_of_an_end() -> None:
    (events,) = pod_events("success")
    end = read_status(events[-1].object).end
    assert end is not None
    assert end.evidence == {
        "exit_code": 0,
        "node": "node-a",
        "pod": events[-1].object.metadata.name,
        "container_reason": "Completed",
        "scheduled": 1795450335.0,
        "container_started": 1795450335.0,
        "container_finished": 1795450335.0,
    }


@pytest.mark.parametrize("recording", ["image_never_present", "invalid_image_name"])
def test_image_that_can_never_be_pulled_gets_no_grace(recording: str) -> None:
    (events,) = pod_events(recording)
    assert [key for key, _ in groupby(read_status(event.object).at_once for event in events)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("recording", RECORDED)
def test_clock_has_one_start_for_every_reading(recording: str) -> None:
    for events in pod_events(recording):
        summaries = [read_status(event.object, deleted=event.type == "DELETED") for event in events]
        for clock, group in groupby(summaries, lambda each: each.clock):
            since = {each.since for each in group}
            assert len(since) == 1
            assert (since == {None}) == (clock in (None, "image_error", "config_error"))


def test_an_image_that_a_node_cannot_store_keeps_jobs_from_that_node() -> None:
    pod = a_pod(waiting("ErrImagePull", "write /var/lib/x: no space left on device"))
    end = overdue(read_status(pod), 120)
    assert (end.reason, end.avoid, end.blames) == (EndReason.INFRA, "node-a", REJECTION)
