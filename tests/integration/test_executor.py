"""The executor as a pod starts it: by hand, with an environment that holds what a manifest says and
nothing else.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_DEVICE
from gpuqueue.store.attempts import ExecutorAttempt
from tests.support.hands import INSTANCE, Hands
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.integration


def test_the_brokers_address_is_all_that_an_executor_must_know_of_redis(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    done = hands.run(record)
    assert done.returncode == 0, done.stderr
    assert (
        hands.app.AsyncResult(record["id"])
        .get(PATIENCE)["hostname"]
        .startswith(f"t4-{record['id']}-1@")
    )


def test_the_state_and_the_results_may_live_elsewhere(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    done = hands.run(
        record,
        {
            "CELERY_BROKER_URL": hands.url.replace("/0", "/1"),
            "CELERY_RESULT_BACKEND": hands.url.replace("/0", "/2"),
            "GPUQUEUE_REDIS_URL": hands.url,
        },
    )
    assert done.returncode == 0, done.stderr
    assert hands.kept(record)["reason"] == "SUCCEEDED"
    assert hands.app.AsyncResult(record["id"]).state == "PENDING"
    with Celery("elsewhere", backend=hands.url.replace("/0", "/2")) as elsewhere:
        assert elsewhere.AsyncResult(record["id"]).get(PATIENCE)["hostname"]


def test_an_attempt_in_a_pod_is_the_pods_and_shows_its_name(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    done = hands.run(record, {"GPUQUEUE_POD": "gpu-where-1-x7k", "GPUQUEUE_POD_UID": "8a0b-77"})
    assert done.returncode == 0, done.stderr
    worker = f"t4-{record['id']}-1@gpu-where-1-x7k"
    assert hands.app.AsyncResult(record["id"]).get(PATIENCE)["hostname"] == worker
    assert (hands.kept(record)["instance"], hands.kept(record)["worker"]) == (
        f"{INSTANCE}/8a0b-77",
        worker,
    )


def test_an_attempt_outside_a_pod_is_its_processs(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    assert hands.run(record).returncode == 0
    start, _, pid = hands.kept(record)["instance"].rpartition(":")
    assert (start, pid.isdecimal()) == (INSTANCE, True)


def no_file() -> None:
    """Refuse this process every byte that it would write to a file; pipes and sockets are left to
    it.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize(
    "home", [None, "/nonexistent"], ids=["no home", "a home that is not there"]
)
def test_an_executor_wants_no_home_and_writes_no_file(
    hands: Hands, tmp_path: Path, home: str | None
) -> None:
    record = hands.attempt("bare.where")
    env = {"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"} | (
        {"HOME": home} if home else {}
    )
    with hands.start(record, env, cwd=tmp_path, preexec_fn=no_file) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert hands.app.AsyncResult(record["id"]).get(PATIENCE)["home"] == home
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["a.pt", "caf\udce9.pt"], ids=["text", "half a pair"])
def test_an_executor_with_a_failed_gpu_writes_nothing_and_exits_at_once(
    hands: Hands, file: str
) -> None:
    problem = "CUDA error: uncorrectable ECC error encountered"
    # It leaves a thread that would keep the process for a minute.
    record = hands.attempt("shop.wear_out", "worn", 1, f"{problem}: {file}")
    done = hands.run(record)
    assert done.returncode == EXIT_DEVICE
    assert f"RuntimeError: {problem}" in done.stderr
    kept, shown = hands.kept(record), file.replace("\udce9", "\N{REPLACEMENT CHARACTER}")
    assert (kept["state"], kept["gpu_error"]) == ("running", f"RuntimeError: {problem}: {shown}")
    assert hands.app.AsyncResult(record["id"]).state == "STARTED"


def test_figures_of_the_gpu_that_come_late_lower_none(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    executor = ExecutorAttempt(hands.client, Attempt.of(record), record["token"])
    executor.claim(INSTANCE, "worker")
    assert executor.sampled({"gpu": "GPU-1", "gpu_memory_peak": 5})
    executor.report(
        "SUCCEEDED",
        {"gpu": "GPU-1", "gpu_memory_peak": 15_032_385_536, "gpu_memory_own": 3},
    )
    assert executor.sampled({"gpu": "GPU-1", "gpu_memory_peak": 6, "gpu_memory_own": 4})
    assert executor.sampled({})
    executor.reported(1000)
    kept = hands.kept(record)
    assert (kept["gpu"], kept["gpu_memory_peak"], kept["gpu_memory_own"]) == (
        "GPU-1",
        15_032_385_536,
        4,
    )


def test_a_stale_attempt_reports_no_gpu(hands: Hands) -> None:
    record, seen = hands.attempt("bare.where"), {"gpu": "GPU-1"}
    attempt = Attempt.of(record)
    executor = ExecutorAttempt(hands.client, attempt, record["token"])
    assert not executor.sampled(seen)  # not claimed yet
    executor.claim(INSTANCE, "worker")
    assert not ExecutorAttempt(hands.client, attempt, "another's").sampled(seen)
    assert not ExecutorAttempt(hands.client, replace(attempt, number=2), record["token"]).sampled(
        seen
    )
    executor.report("SUCCEEDED")
    executor.reported(1000)
    assert not executor.sampled(seen)
    assert "gpu" not in hands.kept(record)
