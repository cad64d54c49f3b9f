"""The command line against real processes: what it reads and cancels beside one `gpuqueue dev`."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.support.command_line import run_command
from tests.support.dev_command import CLI, Dev, clean_env, end, start_dev
from tests.support.terminal import RESTORED, Terminal
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    running = start_dev(
        tmp_path_factory.mktemp("dev"),
        "--no-flower",
        T4_SHARED_SLOTS="2",
        T4_EXCLUSIVE_SLOTS="1",
        GPUQUEUE_PRICE_PER_HOUR="3600",
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

    url = idle.env["CELERY_BROKER_URL"]
    with Celery("task", broker=url, backend=url, set_as_current=False) as app:
        app.backend.store_result(first, {"done": 3, "of": 9}, "PROGRESS")  # as update_state() does
    assert 'the task says: PROGRESS {"done": 3, "of": 9}' in idle.run("why", first).stdout
    (t4,) = idle.json("status")["classes"]
    said = {each["id"]: (each.get("task_state"), each["stands"]) for each in t4["holders"]}
    assert said == {
        first: ("PROGRESS", 'PROGRESS {"done": 3, "of": 9}'),
        second: (None, "running"),
    }

    # A waiting one is cancelled, and so is one that is delayed: both end as REVOKED.
    done = idle.json("cancel", later, behind, "--wait", "20")
    assert [(each["id"], each["outcome"], each["ended"]) for each in done["jobs"]] == [
        (later, "cancelled", True),
        (behind, "cancelled", True),
    ]
    assert idle.result(later)["status"] == idle.result(behind)["status"] == "REVOKED"
    assert idle.json("why", behind)["reason"] == "CANCELLED"


def test_top_shows_a_job_until_it_ends_and_q_leaves_a_clean_terminal(idle: Dev, gate: Path) -> None:
    headers = {"gpu": {"tenant": "speech"}}
    job = idle.send("hold", str(gate), queue="gpu.t4.exclusive", time_limit=90, headers=headers)
    idle.reaches(job, "running")
    behind = idle.send("hold", str(gate), queue="gpu.t4.shared")
    idle.reaches(behind, "waiting")
    once = idle.run("top").stdout.splitlines()  # no terminal: one frame
    assert max(map(len, once)) <= 80
    assert "  [██]" in once and any(f"█ {job}" in line and "/ 1m 30s" in line for line in once)
    found = idle.json("top", "--class", "t4")
    assert [(line["isolation"], line["reason"]) for line in found["next"]] == [
        ("shared", "EXCLUSIVE_RUNNING")
    ]
    assert found["tenants"][0] == {"tenant": "speech", "running": 1, "waiting": 0}
    assert "class='b200' is unknown" in idle.run("top", "--once", "--class", "b200").stderr

    with Terminal([*CLI, "top", "--interval", "0.2"], idle.env) as terminal:
        until(lambda: terminal.shows(f"█ {job}") and terminal.shows(f"1 {behind}"))
        terminal.resize(60, 24)
        until(lambda: terminal.shows(f"█ {job[:20]}"))
        assert terminal.settings != terminal.before, "keys come one by one"
        gate.touch()
        until(lambda: not terminal.shows(job[:20]) and terminal.shows("  [□□]"))
        terminal.type("q")
        assert terminal.process.wait(PATIENCE) == 0
        assert terminal.settings == terminal.before
        assert terminal.output.endswith(RESTORED)


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


def test_usage_shows_who_used_what_and_costs_add_up(idle: Dev, gate: Path) -> None:
    options: dict[str, Any] = {"queue": "gpu.t4.shared", "headers": {"gpu": {"tenant": "vision"}}}
    first, second = (idle.send("hold", str(gate), **options) for _ in range(2))
    idle.reaches(first, "running")
    idle.reaches(second, "running")

    def vision(*more: str) -> dict[str, Any]:
        lines: list[dict[str, Any]] = idle.json("usage", "--since", "1h", *more)["lines"]
        return next((each for each in lines if each["tenant"] == "vision"), {})

    assert (vision()["attempts"], vision()["running"]) == (0, 2)
    gate.touch()
    until(lambda: vision()["attempts"] == 2)
    assert vision("--class", "t4")["running"] == 0
    found = idle.json("usage", "--by", "class")
    parts = [found["total"][name] for name in ("jobs", "waste", "idle", "capacity")]
    for unit in ("gpu_seconds", "cost"):
        *sums, whole = (Decimal(part[unit]) for part in parts)
        assert sum(sums) == whole > 0
    assert parts[0]["gpu_seconds"] == parts[0]["cost"], "a GPU costs 1 a second"
    assert [each["class"] for each in found["lines"]] == ["t4"]
    table = idle.run("usage", "--by", "task").stdout
    assert "cliapp.hold" in table and "COST" in table
    assert max(map(len, table.splitlines())) <= 80
    head, *rows = csv.DictReader(idle.run("usage", "--csv", "--by", "day").stdout.splitlines())
    assert len(head["day"]) == len("2026-11-30") and len(rows) <= 1


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["--since", "yesterday"], 2, "'yesterday' is no time; use a date"),
        (["--since", "1h", "--until", "2h"], 2, "--since must be before --until"),
        (["--class", "b200"], 1, "class='b200' is unknown; see `gpuqueue classes`"),
        (["--json", "--csv"], 2, "use --csv or --json, not both"),
    ],
)
def test_usage_says_what_is_wrong(
    idle: Dev, arguments: list[str], status: int, problem: str
) -> None:
    done = idle.run("usage", *arguments)
    assert done.returncode == status
    assert problem in done.stderr


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
        return run_command(arguments, cwd=tmp_path, env=clean_env(**env), timeout=30)

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


def test_tenants_are_set_listed_and_unset_while_jobs_run(idle: Dev, gate: Path) -> None:
    """A job above ``max_queued`` fails with a typed error, as any other refused one."""

    def send() -> str:
        headers = {"gpu": {"tenant": "a"}}
        return idle.send("hold", str(gate), queue="gpu.t4.shared", headers=headers)

    def tenants(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = idle.run("tenants", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    idle.reaches(send(), "running")
    done = tenants("set", "t4", "a", "--max-running", "1", "--max-queued", "1", "--weight", "2")
    assert done.stdout == "t4: set\n"
    waits = send()
    idle.reaches(waits, "waiting")
    assert idle.json("why", waits)["reason"] == "TENANT_LIMIT"
    refused = send()
    idle.reaches(refused, "ended")
    error = idle.result(refused)["result"]
    assert error["exc_type"] == "TenantLimit"
    assert "gpu.tenant='a' has 1 queued jobs, and max_queued=1" in error["exc_message"][0]
    [t4] = idle.json("tenants")
    own = next(each for each in t4["tenants"] if each["tenant"] == "a")
    assert (own["running"]["shared"], own["waiting"]["shared"], own["at_limit"]) == (1, 1, True)
    rule = {"weight": 2, "max_running": 1, "max_queued": 1, "guaranteed": 0}
    assert t4["rules"] == [{"tenant": "a", **rule, "set_by": "command"}]
    assert " a " in tenants("list").stdout
    for wrong, words in (
        (("h100", "a", "--weight", "1"), "class='h100' is unknown; use one of t4"),
        (("t4", "a", "--weight", "0"), "tenant a.weight=0 is not a weight; use a number"),
        (("t4", "a", "--max-queued", "-1"), "max_queued=-1 is not a number of jobs"),
        (("t4", "a b", "--weight", "1"), "tenant='a b' cannot name a tenant; use up to"),
        (("t4", "b", "--guaranteed", "3"), "t4.guaranteed=3 is more in sum than the 2"),
        (("t4", "--half-life", "soon"), "half_life='soon' is not a half-life in seconds"),
    ):
        assert words in tenants("set", *wrong, status=2).stderr
    assert idle.json("tenants")[0]["epoch"] == t4["epoch"], "half applied"
    assert tenants("unset", "t4", "a").stdout == "t4: unset\n"
    tenants("unset", "t4", "a", status=1)
    idle.reaches(waits, "running")
