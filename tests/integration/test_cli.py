"""The command line against real processes: what it reads and cancels beside one `gpuqueue dev`."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.dev_command import CLI, Dev, clean_env, end, start_dev
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    running = start_dev(
        tmp_path_factory.mktemp("dev"), "--no-flower", T4_SHARED_SLOTS="2", T4_EXCLUSIVE_SLOTS="1"
    )
    yield running
    assert end(running) == 0, running.log.read_text()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that lets jobs end that a test holds."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def idle(dev: Dev, gate: Path) -> Iterator[Dev]:
    """The running dev; afterwards its jobs are let go, and their slots are free again."""
    yield dev
    gate.touch()
    client = redis.Redis.from_url(dev.env["CELERY_BROKER_URL"], decode_responses=True)
    jobs = "gpuqueue:1:{t4}:jobs"

    def done() -> bool:
        records = [json.loads(raw) for raw in client.hvals(jobs)]
        held = sum(
            client.zcard(f"gpuqueue:1:{{t4}}:holders_{kind}") for kind in ("shared", "exclusive")
        )
        return not held and all(record["state"] == "ended" for record in records)

    until(done)
    client.close()


def test_status_and_why_show_who_holds_a_slot_who_waits_and_what_for(idle: Dev, gate: Path) -> None:
    first = idle.send("hold", str(gate), queue="gpu.t4.shared")
    idle.reaches(first, "running")
    alone = idle.send("hold", str(gate), queue="gpu.t4.exclusive")
    second = idle.send("hold", str(gate), queue="gpu.t4.shared", shadow="second")
    full = idle.send("hold", str(gate), queue="gpu.t4.shared")
    behind = idle.send("hold", str(gate), queue="gpu.t4.shared")
    later = idle.send("hold", str(gate), queue="gpu.t4.shared", countdown=3600)
    for job_id, state in (
        (second, "running"),
        (alone, "waiting"),
        (full, "waiting"),
        (behind, "waiting"),
        (later, "delayed"),
    ):
        idle.reaches(job_id, state)

    found = idle.json("status")
    (t4,) = found["classes"]
    assert t4["slots"] == {"shared": {"used": 2, "total": 2}, "exclusive": {"used": 0, "total": 1}}
    assert [(each["id"], each["name"], each["attempt"]) for each in t4["holders"]] == [
        (first, "cliapp.hold", 1),
        (second, "second", 1),
    ]
    assert all(
        each["worker"].startswith("t4-") and each["since"] <= found["now"] for each in t4["holders"]
    )
    waiting = {
        each["id"]: (each["isolation"], each["place"], each["reason"]) for each in t4["waiting"]
    }
    assert waiting == {
        full: ("shared", 1, "NO_FREE_SLOT"),
        behind: ("shared", 2, "NO_FREE_SLOT"),
        alone: ("exclusive", 1, "SHARED_RUNNING"),
    }
    assert t4["delayed"] == 1
    assert t4["gate"]["closed"] is False
    assert found["leader"] in found["dispatchers"]

    why = idle.json("why", behind)
    assert (why["reason"], why["place"], [each["id"] for each in why["ahead"]]) == (
        "NO_FREE_SLOT",
        2,
        [full],
    )
    assert {each["id"] for each in why["holders"]} == {first, second}
    assert idle.json("why", alone)["reason"] == "SHARED_RUNNING"
    assert idle.json("why", later)["reason"] == "NOT_BEFORE"
    assert idle.json("why", first)["reason"] is None
    told = idle.run("why", full).stdout
    assert "NO_FREE_SLOT" in told
    assert "second" in told
    assert first in idle.run("status").stdout

    # A waiting one is cancelled, and so is one that is delayed: both end as REVOKED.
    done = idle.json("cancel", later, behind, "--wait", "20")
    assert [(each["id"], each["outcome"], each["ended"]) for each in done["jobs"]] == [
        (later, "cancelled", True),
        (behind, "cancelled", True),
    ]
    assert idle.result(later)["status"] == idle.result(behind)["status"] == "REVOKED"
    assert idle.json("why", behind)["reason"] == "CANCELLED"


def test_a_running_job_is_cancelled_and_its_slot_is_free(idle: Dev, gate: Path) -> None:
    alone = idle.send("hold", str(gate), queue="gpu.t4.exclusive")
    idle.reaches(alone, "running")
    shared = idle.send("hold", str(gate), queue="gpu.t4.shared")
    idle.reaches(shared, "waiting")
    assert idle.json("why", shared)["reason"] == "EXCLUSIVE_RUNNING"

    (done,) = idle.json("cancel", alone, "--wait", "20")["jobs"]
    assert (done["outcome"], done["ended"], done["reason"]) == ("stopping", True, "CANCELLED")
    assert idle.result(alone)["status"] == "REVOKED"
    idle.reaches(shared, "running")
    (again,) = idle.json("cancel", alone, status=1)["jobs"]
    assert again["outcome"] == "ended"


def test_why_explains_how_a_job_ended_and_rejects_an_unknown_id(idle: Dev) -> None:
    failed = idle.send("fail", queue="gpu.t4.shared")
    idle.reaches(failed, "ended")
    assert "reason: ERROR" in idle.run("why", failed).stdout
    refused = idle.send("fail", queue="gpu.t4.shared", headers={"gpu": {"memory": "900GiB"}})
    idle.reaches(refused, "ended")
    found = idle.json("why", refused)
    assert found["reason"] == "REJECTED"
    assert "gpu.memory" in found["error"]
    stranger = idle.run("why", "no-such-job")
    assert stranger.returncode == 1
    assert "no job 'no-such-job' is known" in stranger.stderr


def test_run_is_refused_where_processes_are_started(idle: Dev) -> None:
    done = idle.run("run", "--class", "t4", "shop:1", "--", "true")
    assert done.returncode == 2
    assert (
        "'gpuqueue.run' runs a container image, but this dispatcher starts local processes"
        in done.stderr
    )
    unknown = idle.run("run", "--class", "a100", "shop:1", "--", "true")
    assert unknown.returncode == 2
    assert "--class='a100' is unknown; dispatchers have: t4" in unknown.stderr


def test_classes_come_from_the_dispatcher_not_from_this_shell(idle: Dev) -> None:
    (t4,) = idle.json("classes", T4_SHARED_SLOTS="5")
    assert (t4["name"], t4["shared_slots"], t4["exclusive_slots"]) == ("t4", 2, 1)
    assert t4["queues"] == ["gpu.t4.shared", "gpu.t4.exclusive"]
    assert "nvidia.com/gpu" in idle.run("classes").stdout


def levels(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["level"] for each in found["checks"]}


def test_doctor_is_content_then_finds_what_was_broken(idle: Dev) -> None:
    found = idle.json("doctor", "-A", "cliapp")
    assert found["ok"] is True, found
    assert "FAIL" not in levels(found).values()
    assert (
        levels(found)["application"]
        == levels(found)["appendonly"]
        == levels(found)["dispatchers"]
        == "OK"
    )

    long = idle.send("fail", queue="gpu.t4.shared", countdown=3600, time_limit=3 * 86_400)
    idle.reaches(long, "delayed")
    with redis.Redis.from_url(idle.env["CELERY_BROKER_URL"]) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            broken = idle.json(
                "doctor", "-A", "no_such_app", status=1, GPUQUEUE_TOMBSTONE_SECONDS="60"
            )
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert levels(broken)["maxmemory-policy"] == "FAIL"
    assert levels(broken)["application"] == "FAIL"
    assert levels(broken)["tombstones"] == "FAIL"
    assert levels(broken)["result_expires"] == "FAIL"
    assert all(each["fix"] for each in broken["checks"] if each["level"] == "FAIL")
    idle.json("cancel", long)


def test_doctor_and_status_name_a_wrong_setting_and_an_unreachable_redis(tmp_path: Path) -> None:
    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, *arguments],
            cwd=tmp_path,
            env=clean_env(**env),
            capture_output=True,
            text=True,
            timeout=30,
        )

    wrong = run(
        "doctor", "--json", CELERY_BROKER_URL="redis://127.0.0.1:1/0", T4_SHARED_SLOTS="many"
    )
    assert wrong.returncode == 1
    (setting,) = [each for each in json.loads(wrong.stdout)["checks"] if each["name"] == "settings"]
    assert setting["level"] == "FAIL"
    assert "T4_SHARED_SLOTS='many'" in setting["saw"]

    away = run("doctor", "--json", CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert away.returncode == 1
    assert levels(json.loads(away.stdout))["redis"] == "FAIL"
    for arguments in (("status",), ("why", "x"), ("cancel", "x"), ("classes",)):
        done = run(*arguments, CELERY_BROKER_URL="redis://127.0.0.1:1/0")
        assert done.returncode == 2
        assert done.stderr.startswith(
            "gpuqueue: CELERY_BROKER_URL='redis://127.0.0.1:1/0' cannot be used"
        )
        assert "Traceback" not in done.stderr
    unset = run("status")
    assert unset.returncode == 2
    assert "CELERY_BROKER_URL is not set" in unset.stderr


def test_a_redis_that_no_dispatcher_has_seen(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        env = clean_env(CELERY_BROKER_URL=server.url)
        told = subprocess.run([*CLI, "status"], env=env, capture_output=True, text=True, timeout=30)
        assert told.returncode == 0
        assert "no dispatcher has ever announced itself" in told.stdout
        cancelled = subprocess.run(
            [*CLI, "cancel", "x"], env=env, capture_output=True, text=True, timeout=30
        )
        assert cancelled.returncode == 2
        assert "cannot cancel" in cancelled.stderr
        waited = subprocess.run(
            [*CLI, "run", "--timeout", "1", "x:1"],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert waited.returncode == 1
        assert "no dispatcher has ever announced itself" in waited.stderr
        assert "not ended within 1 s; the job continues" in waited.stderr
        assert "follow it with `gpuqueue logs -f" in waited.stderr
        stopped = subprocess.Popen([*CLI, "run", "x:1"], env=env, stderr=subprocess.PIPE, text=True)
        errors = stopped.stderr
        assert errors is not None
        until(lambda: "gpuqueue: job " in errors.readline())
        stopped.send_signal(signal.SIGINT)
        assert (
            "is not cancelled: no dispatcher has ever announced itself"
            in stopped.communicate(timeout=30)[1]
        )
        assert stopped.returncode == 130
