"""The end of a job is the same in Celery, in the queue's record, and in its counts."""

from __future__ import annotations

import pytest

from gpuqueue.model.ends import EXIT_NO_FILES, explain
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.measures import Measures
from tests.support.celery_series import needs_failed_rejects
from tests.support.hands import Hands

pytestmark = pytest.mark.integration


def ended(hands: Hands) -> dict[tuple[str, str], float]:
    return Measures(hands.client).of("t4").counts.ended


def check(hands: Hands, state: str, reason: str, task: str, *args: object) -> str:
    """Run a task; check its state, its reason and its count. Return its log."""
    return check_attempt(hands, hands.attempt(f"odd_ends.{task}", *args), state, reason)


def check_attempt(hands: Hands, record: Record, state: str, reason: str) -> str:
    """The same for an attempt."""
    before = ended(hands)
    done = hands.run(record)
    assert done.returncode == 0, done.stderr
    kept = hands.kept(record)
    assert hands.app.AsyncResult(record["id"]).state == state
    assert (kept["state"], kept["reason"]) == ("ended", reason)
    after = ended(hands)
    assert {key[1]: n - before.get(key, 0) for key, n in after.items() if n != before.get(key)} == {
        reason: 1
    }
    return done.stderr


@pytest.mark.parametrize("value", ["object", "circular", "deep", "function", "keys", "inner"])
def test_a_value_that_cannot_be_encoded_fails_everywhere(hands: Hands, value: str) -> None:
    assert "EncodeError" in check(hands, "FAILURE", "ERROR", "gives", value)


@pytest.mark.parametrize(
    "value", ["surrogate", "nan", "date", "bytes", "none", "mute", "mute inside"]
)
def test_a_value_that_celery_can_encode_succeeds_everywhere(hands: Hands, value: str) -> None:
    check(hands, "SUCCESS", "SUCCEEDED", "gives", value)


def test_a_result_that_the_backend_refuses_fails_everywhere(hands: Hands) -> None:
    check(hands, "FAILURE", "ERROR", "refused")


def test_output_that_cannot_be_written_fails_no_task(hands: Hands) -> None:
    check(hands, "SUCCESS", "SUCCEEDED", "prints")


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_AS"])
def test_a_limit_that_a_task_lowers_keeps_no_result_back(hands: Hands, limit: str) -> None:
    check(hands, "SUCCESS", "SUCCEEDED", "lowers", limit, False)


@pytest.mark.slow
def test_a_task_that_leaves_no_descriptor_holds_its_slot_for_seconds(hands: Hands) -> None:
    record = hands.attempt("odd_ends.lowers", "RLIMIT_NOFILE", True)
    done = hands.run(record)
    assert (done.returncode, explain(done.returncode).reason) == (EXIT_NO_FILES, EndReason.ERROR)
    assert "Too many open files" in done.stderr


def test_hooks_that_fail_after_a_success_change_nothing(hands: Hands) -> None:
    check(hands, "SUCCESS", "SUCCEEDED", "hooked")


@pytest.mark.parametrize("error", ["unpicklable", "unencodable"])
def test_an_error_that_cannot_be_stored_fails_everywhere(hands: Hands, error: str) -> None:
    check(hands, "FAILURE", "ERROR", "raises", error)


def test_an_error_that_no_except_exception_catches_keeps_its_type(hands: Hands) -> None:
    record = hands.attempt("odd_ends.raises", "panic")
    check_attempt(hands, record, "FAILURE", "ERROR")
    error = hands.app.AsyncResult(record["id"]).result
    assert (type(error).__name__, str(error)) == ("Panic", "index out of bounds")


@pytest.mark.parametrize("task", ["raises", "again_too_late"])
def test_an_ignored_task_is_no_success(hands: Hands, task: str) -> None:
    """Without acks_late, Celery has acknowledged the message before the task rejects it."""
    check(hands, "STARTED", "IGNORED", task, *(["ignore"] if task == "raises" else []))


@needs_failed_rejects
@pytest.mark.parametrize("task", ["never_begins", "unsendable", "unsendable_by_itself", "raises"])
def test_a_rejected_message_fails_everywhere(hands: Hands, task: str) -> None:
    check(hands, "FAILURE", "ERROR", task, *(["reject"] if task == "raises" else []))


@pytest.mark.parametrize("task", ["again", "begins_later"])
def test_a_message_that_is_rejected_with_requeue_is_delivered_again(
    hands: Hands, task: str
) -> None:
    record = hands.attempt(f"odd_ends.{task}")
    assert hands.run(record).returncode == 0
    assert hands.app.AsyncResult(record["id"]).state == "STARTED"
    assert hands.kept(record)["state"] == "reporting"
    again = hands.next_attempt(record, explain(0))
    reason = "later" if task == "again" else "not yet"
    assert again["error"] == f"the task rejected its message: {reason!r}"
    check_attempt(hands, again, "SUCCESS", "SUCCEEDED")


def test_a_custom_state_of_an_ignored_task_stays(hands: Hands) -> None:
    check(hands, "PROGRESS", "IGNORED", "custom")
