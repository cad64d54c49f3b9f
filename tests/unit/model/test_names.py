"""Names that travel: queues, deliveries, holders."""

from __future__ import annotations

import re

import pytest
from celery.utils.nodenames import nodesplit
from hypothesis import given
from hypothesis import strategies as st

from gpuqueue.errors import InvalidJob
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import (
    QueueName,
    delivery_name,
    is_gpu_queue,
    may_lead_to,
    parse_queue,
    worker_name,
)

QUEUES = {
    "a class and its isolation": ("gpu.t4.shared", QueueName("t4", "shared")),
    "exclusive": ("gpu.a100.exclusive", QueueName("a100", "exclusive")),
    "a class without sharing": ("gpu.a100", QueueName("a100", None)),
    "the chosen class": ("gpu.auto", QueueName("auto", None)),
    "the chosen MIG class": ("gpu.mig", QueueName("mig", None)),
    "a MIG profile has another dot": ("gpu.mig-1g.5gb", QueueName("mig-1g.5gb", None)),
    "a MIG profile with media engines": ("gpu.mig-1g.5gb.me", QueueName("mig-1g.5gb.me", None)),
    "a MIG profile and an isolation": (
        "gpu.mig-1g.5gb.exclusive",
        QueueName("mig-1g.5gb", "exclusive"),
    ),
}
NOT_QUEUES = {
    "Celery's default queue": ("celery", "is not the name of a GPU queue"),
    "the prefix alone": ("gpu.", "is not the name of a GPU queue"),
    "no prefix": ("t4.shared", "is not the name of a GPU queue"),
    "an isolation that does not exist": (
        "gpu.t4.exklusive",
        "has the unknown isolation 'exklusive'",
    ),
    "capitals": ("gpu.T4.shared", "has a malformed class"),
    "an empty class": ("gpu..shared", "has a malformed class"),
    "a space": ("gpu.t 4.shared", "has a malformed class"),
}

ids = st.text(min_size=1, max_size=40)


@pytest.mark.parametrize(("queue", "expected"), QUEUES.values(), ids=QUEUES)
def test_a_queue_says(queue: str, expected: QueueName) -> None:
    assert parse_queue(queue) == expected
    assert str(expected) == queue


@pytest.mark.parametrize(("queue", "problem"), NOT_QUEUES.values(), ids=NOT_QUEUES)
def test_no_gpu_queue_is(queue: str, problem: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_queue(queue)
    assert f"queue={queue!r} {problem}; GPU queues are named gpu.<class>.shared" in str(
        caught.value
    )


def test_a_delivery_is_named_by_retries_and_nesting() -> None:
    assert delivery_name("a") == "a"
    assert delivery_name("a", 2) == "a~2"
    assert delivery_name("a", 0, 1) == "a~0.1"
    assert delivery_name("a~1") == "a~1~0", (
        "an id that looks like another job's retry is no other job's retry"
    )


def test_a_delivery_that_was_sent_again_is_named_by_its_tag_too() -> None:
    assert re.fullmatch(r"a~0\+[0-9a-f]{16}", delivery_name("a", tag="x"))
    assert re.fullmatch(r"a~2\.1\+[0-9a-f]{16}", delivery_name("a", 2, 1, "x"))
    looks = delivery_name("a", tag="x")
    assert delivery_name(looks) == f"{looks}~0"


tags = st.sampled_from(["", "", "x", "y"])


@given(job_id=ids, retries=st.integers(0, 50), nesting=st.integers(0, 5), tag=tags)
def test_a_delivery_leads_back_to_its_job(
    job_id: str, retries: int, nesting: int, tag: str
) -> None:
    delivery = delivery_name(job_id, retries, nesting, tag)
    pattern = r"~\d+(\.\d+)?(\+[0-9a-f]{16})?\Z"
    assert re.sub(pattern, "", delivery, flags=re.ASCII) == job_id


near_ids = st.text("a~0.1", min_size=1, max_size=6)
named_ids = st.sampled_from(["a", *(delivery_name("a", 1, 1, tag) for tag in "xy")])
deliveries = st.tuples(near_ids | named_ids, st.integers(0, 2), st.integers(0, 2), tags)


@given(one=deliveries, other=deliveries)
def test_two_deliveries_never_share_a_name(
    one: tuple[str, int, int, str], other: tuple[str, int, int, str]
) -> None:
    assert (delivery_name(*one) == delivery_name(*other)) == (one == other)


@given(job_id=ids, attempt=st.integers(1, 10_000))
def test_a_holder_leads_back_to_its_attempt(job_id: str, attempt: int) -> None:
    one = Attempt("t4", job_id, attempt)
    assert Attempt.parse("t4", one.holder) == one


def test_the_worker_of_an_attempt_names_class_delivery_attempt_and_host() -> None:
    assert Attempt("t4", "a~1", 2).worker("node7") == "t4-a~1-2@node7"


def test_the_worker_of_a_class_names_the_class_on_both_sides() -> None:
    # Some exporters keep the host alone.
    assert worker_name("t4") == "gpu-t4@gpuqueue-t4"
    assert nodesplit(worker_name("mig-1g.5gb"))[1] == "gpuqueue-mig-1g.5gb"


def test_a_gpu_queue_is_known_by_its_name() -> None:
    assert is_gpu_queue("gpu.t4.shared") and is_gpu_queue("gpu.auto")
    assert not any(is_gpu_queue(name) for name in ("celery", "gpu", "gpu.", "gpu.T4", "cpu.t4"))


@pytest.mark.parametrize(
    ("queue", "leads"),
    [
        ("gpu.t4", True),
        ("gpu.t4.exclusive", True),
        ("gpu.auto", True),
        ("gpu.mig", True),
        ("gpu.a100.shared", False),
        ("celery", False),
        ("gpu.", False),
        ("gpu.t4.wrong", False),
    ],
)
def test_the_queues_that_may_lead_to_a_class(queue: str, leads: bool) -> None:
    assert may_lead_to(queue, "t4") == leads
