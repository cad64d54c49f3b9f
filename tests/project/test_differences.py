"""What differs from a worker of Celery is one table of the docs, and each row has tests."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.pages import ROOT, Page

PAGE, SECTION = "docs/reference/limits.md", "Differences from a Celery worker"
PROMISES, ENDS = "integration/test_promises.py", "integration/test_promises_end.py"
SENDINGS, HABITS = "property/test_sendings.py", "integration/test_as_on_a_worker.py"
REQUEUES, PODS = "property/test_requeue_rules.py", "integration/test_pod_runner.py"
#: First cell of a row, without marks and links → file of tests → tests that show it.
SHOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "a task id that is sent again before its job has ended": {
        "integration/test_accept.py": (
            "test_an_id_that_is_sent_again_too_soon_is_dropped_with_a_warning",
            "test_the_event_of_a_known_message_leaves_the_state_in_flower",
        ),
        SENDINGS: (
            "test_a_message_that_is_sent_again_too_soon_is_dropped",
            "test_a_message_is_dropped_while_a_retry_of_the_first_is_under_way",
        ),
    },
    "a task id that is sent again without another delivery_tag": {
        SENDINGS: ("test_a_message_without_a_tag_is_known_by_its_id_alone",),
    },
    "a revoke of an ended job": {ENDS: ("test_a_revoke_of_an_ended_job_is_forgotten",)},
    "Reject(requeue=True)": {
        PROMISES: ("test_a_loop_of_rejections_slows_down_and_can_be_cancelled",),
        REQUEUES: ("test_a_loop_of_rejections_slows_down_and_costs_no_attempt",),
    },
    "the place of a message that is delivered again": {
        REQUEUES: ("test_a_rejected_job_keeps_its_place_in_line",),
    },
    "reject_on_worker_lost": {
        REQUEUES: (
            "test_a_job_goes_back_as_often_as_it_gets_attempts",
            "test_a_job_is_lost_with_a_growing_pause",
        ),
        ENDS: ("test_a_task_that_comes_back_runs_again_when_its_process_is_lost",),
    },
    "the error of a lost process": {
        ENDS: (
            "test_an_executor_killed_from_outside_ends_its_job_exactly_once",
            "test_a_task_whose_process_is_lost_after_its_last_retry_fails",
        ),
    },
    "unacknowledged messages, and their visibility timeout": {
        "integration/test_promises_time.py": (
            "test_a_job_with_an_eta_starts_no_earlier_and_blocks_no_other_job",
        ),
        "property/test_take.py": ("test_a_message_that_is_done_is_gone_and_only_then",),
    },
    "the state before the start": {
        "integration/test_job_states.py": (
            "test_a_waiting_job_shows_queued_and_a_launching_one_dispatched",
        ),
        HABITS: ("test_states_can_be_those_of_a_worker_alone",),
    },
    "STARTED": {HABITS: ("test_states_can_be_those_of_a_worker_alone",)},
    "the worker in events and inspect": {
        "integration/test_class_worker.py": (
            "test_two_dispatchers_and_many_jobs_are_one_worker",
            "test_celery_s_inspect_tells_of_the_jobs_of_the_class",
        ),
    },
    "self.request.hostname": {
        "integration/test_class_worker.py": ("test_a_task_knows_its_attempt_and_where_it_runs",),
    },
    "celeryd_init, worker_init, celeryd_after_setup": {
        HABITS: ("test_hooks_are_called_in_the_order_of_a_worker",),
        PODS: (
            "test_application_is_imported_once_and_its_executor_forked",
            "test_spawned_executor_imports_the_application_and_the_runner_does_not",
        ),
    },
    "worker_ready": {
        HABITS: ("test_hooks_are_called_in_the_order_of_a_worker",),
        "unit/executor/test_application.py": ("test_the_sender_of_worker_ready_has_no_messages",),
    },
    "task_received": {
        PODS: ("test_an_application_is_told_what_its_worker_received_and_of_its_end",),
    },
    "worker_shutting_down": {
        PODS: ("test_an_application_is_told_the_signal_that_stops_its_worker",),
        "integration/test_runners.py": ("test_an_application_is_told_that_its_runner_ends",),
    },
    "hooks of a request class (Task.Request)": {
        HABITS: ("test_the_request_class_of_an_application_is_told",),
        "unit/glue/test_request_class.py": (
            "test_super_in_a_hook_does_nothing_unlike_on_a_worker",
        ),
    },
    "rate_limit": {HABITS: ("test_a_rate_limit_of_a_task_is_ignored",)},
    "celery.chord_unlock of result backends without native chords": {
        "contract/test_celery.py": ("test_chord_unlock_goes_to_the_queue_of_the_chord_s_body",),
    },
}


def rows() -> list[str]:
    """The first cells of the table, without marks and links."""
    section = Page(PAGE).text.partition(f"## {SECTION}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines[1].startswith("|---"), f"{PAGE}: no table in {SECTION!r}"
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines[2:]]
    return [re.sub(r"\[(.*?)\]\([^)]*\)", r"\1", cell).replace("`", "") for cell in cells]


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(each.name for each in tree.body if isinstance(each, ast.FunctionDef))


def test_the_rows_of_the_table_are_those_with_tests() -> None:
    assert rows() == list(SHOWN)


@pytest.mark.parametrize("row", SHOWN)
def test_the_functions_of_a_row_exist(row: str) -> None:
    assert SHOWN[row]
    for file, names in SHOWN[row].items():
        assert names and set(names) <= functions_of(file), f"{row}: tests/{file}"
