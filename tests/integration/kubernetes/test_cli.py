"""The command line beside a cluster: logs, run, doctor, why."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import chord

import gpuqueue
from gpuqueue import gpu
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, DOCTOR, WITH_LISTS_INSTEAD
from tests.support.cluster_stack import ClusterStack
from tests.support.command_line import Running, run_command, running_command
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
GPU = "gpu.t4.shared"


def start(stack: Any, *arguments: str) -> AbstractContextManager[Running]:
    return running_command(arguments, env={**os.environ, **stack.env})


def call(stack: Any, *arguments: str, **env: str) -> tuple[int, str, str]:
    done = run_command(arguments, env={**os.environ, **stack.env, **env})
    return done.returncode, done.stdout, done.stderr


# -- logs ------------------------------------------------------------------------------------------


def test_logs_are_read_from_the_pod_while_it_runs(quick: ClusterStack, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    program = (
        f"import os, time; print('one', flush=True)\nwhile not os.path.exists({str(gate)!r}):"
        " time.sleep(0.05)"
    )
    result = gpuqueue.run("shop:1", ["python3", "-c", program], app=quick.app).apply_async(
        **gpu("t4", isolation="shared")
    )
    quick.in_state(result.id, "running")
    until(lambda: call(quick, "logs", result.id)[:2] == (0, "one\n"), PATIENCE, "it is written")
    status, out, err = call(quick, "logs", result.id, KUBECONFIG="/nowhere")
    assert (status, out) == (2, "")
    assert err.startswith("gpuqueue: KUBECONFIG='/nowhere' cannot be used") and err.count("\n") == 1
    gate.touch()
    assert result.get(PATIENCE)["log"] == "one\n"


def test_logs_are_read_from_redis_when_the_pod_has_ended(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    quick.told(key)
    quick.go(key)
    assert result.get(PATIENCE) == key
    record = quick.in_state(result.id, "ended")
    until(lambda: quick.log_of(record), PATIENCE, "its log is kept")
    status, out, err = call(quick, "logs", result.id, KUBECONFIG="/nowhere")
    assert (status, err) == (0, "")
    assert f"Task shop.hold[{result.id}] succeeded" in out


def test_logs_follow_a_container_to_its_end(quick: ClusterStack) -> None:
    program = "import time; print('one', flush=True); time.sleep(1.5); print('two')"
    call_ = gpuqueue.run("shop:1", ["python3", "-c", program], app=quick.app)
    result = call_.apply_async(**gpu("t4", isolation="shared"))
    status, out, _ = call(
        quick, "logs", "-f", until(lambda: quick.record(result.id), PATIENCE, "it is known")["id"]
    )
    assert (status, out) == (0, "one\ntwo\n")


def test_logs_rejects_an_unknown_job(quick: ClusterStack) -> None:
    status, out, err = call(quick, "logs", "unknown")
    assert (status, out) == (1, "") and "no job 'unknown' is known" in err


def test_following_a_log_bears_an_api_server_that_goes_away(
    quick: ClusterStack, tmp_path: Path
) -> None:
    """Lines written during the outage are shown once, in order."""
    gate = tmp_path / "gate"
    program = (
        f"import os, time; print('one', flush=True)\nwhile not os.path.exists({str(gate)!r}):"
        " time.sleep(0.05)"
    )
    program += (
        "\nprint('two', flush=True); print('three', flush=True); time.sleep(1); print('four')"
    )
    result = gpuqueue.run("shop:1", ["python3", "-c", program], app=quick.app).apply_async(
        **gpu("t4", isolation="shared")
    )
    quick.in_state(result.id, "running")
    with start(quick, "logs", "-f", result.id) as command:
        assert command.stdout.readline() == "one\n"
        quick.cluster.faults.front_down()
        try:
            assert "trying again" in command.stderr.readline()
            gate.touch()
        finally:
            quick.cluster.faults.front_up()
        status, out, err = command.ended(60)
    assert (status, out) == (0, "two\nthree\nfour\n"), err
    assert result.get(PATIENCE)["log"] == "one\ntwo\nthree\nfour\n"


# -- run -------------------------------------------------------------------------------------------


def test_run_prints_the_log_and_exits_with_the_containers_code(quick: ClusterStack) -> None:
    program = (
        "import os, sys; print('steps', os.environ['STEPS']); sys.exit(int(os.environ['CODE']))"
    )
    arguments = ["--class", "t4", "--env", "STEPS=3", "--env"]
    status, out, err = call(
        quick, "run", *arguments, "CODE=0", "shop:1", "--", "python3", "-c", program
    )
    assert (status, out) == (0, "steps 3\n"), err
    status, out, err = call(
        quick, "run", *arguments, "CODE=7", "shop:1", "--", "python3", "-c", program
    )
    assert (status, out) == (7, "steps 3\n") and "exit code 7" in err and "steps 3" not in err


def test_run_prints_the_typed_error_of_a_failed_job(quick: ClusterStack) -> None:
    sleep = [
        "shop:1",
        "--",
        "python3",
        "-c",
        "import time; print('one', flush=True); time.sleep(60)",
    ]
    status, out, err = call(quick, "run", "--class", "t4", "--time-limit", "3", *sleep)
    assert (status, out) == (143, "one\n")
    assert "TIME_LIMIT: it ran longer than its hard time limit" in err


def test_run_refuses_a_class_that_no_dispatcher_has(quick: ClusterStack) -> None:
    status, out, err = call(quick, "run", "--class", "a100", "shop:1")
    assert (status, out) == (2, "") and "--class='a100' is unknown; dispatchers have: " in err


def test_a_detached_run_goes_on_and_a_cancelled_one_is_reported(
    quick: ClusterStack,
) -> None:
    sleep = ["shop:1", "--", "python3", "-c", "import time; time.sleep(60)"]
    status, out, _ = call(quick, "run", "--detach", "--class", "t4", *sleep)
    job_id = out.strip()
    assert status == 0 and quick.in_state(job_id, "running")
    with start(quick, "run", "--class", "t4", *sleep) as waits:
        other = waits.stderr.readline().split()[-1]
        quick.in_state(other, "running")
        status, out, _ = call(quick, "cancel", "--wait", "30", job_id, other)
        assert status == 0 and out.count("has ended: CANCELLED") == 2
        status, _, err = waits.ended(30)
    assert status == 130 and "cancelled" in err


def test_a_misspelt_option_of_run_is_no_command(quick: ClusterStack) -> None:
    status, _, err = call(quick, "run", "shop:1", "--tenat", "vision")
    assert status == 2 and "--tenat" in err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_run_is_cancelled_by_ctrl_c(quick: ClusterStack, how: Any) -> None:
    sleep = ["shop:1", "--", "python3", "-c", "import time; time.sleep(60)"]
    with start(quick, "run", "--class", "t4", *sleep) as command:
        job_id = command.stderr.readline().split()[-1]
        quick.in_state(job_id, "running")
        command.process.send_signal(how)
        status, _, err = command.ended(30)
    assert status == 130 and f"{job_id} is stopping; its result will be REVOKED" in err
    assert quick.in_state(job_id, "ended")["reason"] == "CANCELLED"


def test_a_wrong_run_is_refused_where_it_is_written(quick: ClusterStack) -> None:
    status, _, err = call(quick, "run", "two words", "--", "x")
    assert status == 2 and "gpuqueue.run image='two words' is not an image reference" in err


def test_container_jobs_are_the_header_of_a_chord(quick: ClusterStack, shop: ModuleType) -> None:
    parts = [
        gpuqueue.run("shop:1", ["python3", "-c", f"print({n})"], app=quick.app).set(**gpu("t4"))
        for n in (1, 2)
    ]
    result = chord(parts, app=quick.app)(shop.echo.s().set(queue="celery"))
    assert [each["log"] for each in result.get(PATIENCE)] == ["1\n", "2\n"]


# -- doctor, why -----------------------------------------------------------------------------------


def doctor(stack: Any, **env: str) -> dict[str, list[dict[str, str]]]:
    _, out, err = call(stack, "doctor", "--json", **env)
    checks: dict[str, list[dict[str, str]]] = {}
    for each in json.loads(out)["checks"]:
        checks.setdefault(each["name"], []).append(each)
    return checks


def test_the_doctor_finds_a_good_cluster_good(quick: ClusterStack) -> None:
    checks = doctor(quick)
    names = ("cluster", "owner", "namespace", "rights", "secret", "jobs", "nodes")
    assert {each["level"] for name in names for each in checks[name]} == {"OK"}, checks
    assert len(checks["rights"]) == len(DISPATCHER)
    assert "t4: 4 slots, 8 of nvidia.com/gpu on node-a" in checks["nodes"][0]["saw"]


def test_the_doctor_names_what_is_missing(quick: ClusterStack) -> None:
    checks = doctor(quick, GPU_SECRET_NAME="absent", T4_SHARED_SLOTS="9", GPU_CPU_REQUEST="1")
    assert (
        checks["secret"][0]["level"] == "FAIL"
        and "create secret generic absent" in checks["secret"][0]["fix"]
    )
    assert (
        checks["nodes"][0]["level"] == "WARN"
        and "lower the class to 8 slots" in checks["nodes"][0]["fix"]
    )
    elsewhere = doctor(quick, GPU_NODE_SELECTOR_KEY="zone", GPU_NODE_SELECTOR_VALUE="none")
    assert elsewhere["nodes"][0]["level"] == "FAIL" and "zone=none" in elsewhere["nodes"][0]["fix"]


def rules(rights: Any) -> list[dict[str, list[str]]]:
    return [
        {
            "apiGroups": [right.group],
            "resources": [right.resource + (f"/{right.subresource}" if right.subresource else "")],
            "verbs": [right.verb],
        }
        for right in rights
    ]


REVIEW = {
    "apiGroups": ["authorization.k8s.io"],
    "resources": ["selfsubjectaccessreviews"],
    "verbs": ["create"],
}


def test_the_doctor_names_the_right_that_is_missing(quick: ClusterStack) -> None:
    some = [right for right in DISPATCHER if right.verb != "delete"]
    token = quick.cluster.user("some", rules(some), cluster_rules=[REVIEW])
    checks = doctor(quick, KUBECONFIG=str(quick.cluster.kubeconfig_for(token)))
    wrong = [each["saw"] for each in checks["rights"] if each["level"] == "FAIL"]
    assert len(wrong) == 1 and wrong[0].startswith("may not delete jobs.batch")
    assert {checks[name][0]["level"] for name in ("nodes", "secret", "quota")} == {"WARN"}
    optional = {"namespaces", "secrets", "resourcequotas", "limitranges", "nodes"}
    assert {right.resource for right in DOCTOR} == optional


def test_the_doctor_names_the_right_to_list_nodes_where_it_is_needed(quick: ClusterStack) -> None:
    token = quick.cluster.user("nodeless", rules(DISPATCHER), cluster_rules=[REVIEW])
    env = {"KUBECONFIG": str(quick.cluster.kubeconfig_for(token))}
    for domain, wrong in (("class", []), ("node", ["FAIL"])):
        checks = doctor(quick, **env, T4_DOMAIN=domain)["rights"]
        bad = [each for each in checks if each["level"] != "OK"]
        assert [each["level"] for each in bad] == wrong
    assert bad[0]["saw"].startswith("may not list nodes")
    assert "by a ClusterRole, or name the nodes in the field `nodes` of t4" in bad[0]["fix"]
    nodes = doctor(quick, T4_DOMAIN="node")["nodes"]
    assert [(each["level"], each["saw"]) for each in nodes] == [("OK", "t4: node-a (4 slots)")]


def test_the_doctor_warns_of_the_role_of_an_earlier_version(quick: ClusterStack) -> None:
    older = [right for right in DISPATCHER if right not in WITH_LISTS_INSTEAD]
    token = quick.cluster.user("older", rules(older), cluster_rules=[REVIEW])
    checks = doctor(quick, KUBECONFIG=str(quick.cluster.kubeconfig_for(token)))
    told = {each["saw"]: each["level"] for each in checks["rights"] if each["level"] != "OK"}
    assert told == {"may not watch jobs.batch": "WARN", "may not watch events": "WARN"}


def test_a_dispatcher_needs_no_more_than_its_rights(
    quick: ClusterStack, shop: ModuleType, key: str
) -> None:
    """It launches, follows, cancels and keeps logs with these alone."""
    token = quick.cluster.user("dispatcher", rules(DISPATCHER), cluster_rules=[REVIEW])
    env = {
        "KUBECONFIG": str(quick.cluster.kubeconfig_for(token)),
        "GPU_OWNER": "least",
        "T4_SHARED_SLOTS": "0",
    }
    env |= {"T4_EXCLUSIVE_SLOTS": "0", "GPUQUEUE_CLASSES_FILE": str(quick.directory / "least.toml")}
    (quick.directory / "least.toml").write_text("[classes.least]\nexclusive_slots = 1\n")
    node = quick.dispatcher("least", env=env)
    try:
        result = shop.tell_of.apply_async((key, "ran"), queue="gpu.least")
        assert result.get(PATIENCE) == "ran"
        held = shop.hold.apply_async((key,), queue="gpu.least")
        assert quick.told(key) == "ran"
        quick.told(key)
        held.revoke(terminate=True)
        until(lambda: held.state == "REVOKED", PATIENCE, "it is cancelled")
        assert "Forbidden" not in node.logs()
    finally:
        node.stop()


def test_cancel_why_and_status_show_a_stop_that_the_node_never_confirms(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    quick.told(key)
    quick.cluster.faults.kubelet_down("node-a")
    try:
        assert call(quick, "cancel", result.id)[0] == 0
        until(
            lambda: (quick.record(result.id) or {}).get("wait") == "UNCONFIRMED",
            PATIENCE,
            "its end is not confirmed",
        )
        status, out, _ = call(quick, "cancel", "--wait", "0.3", result.id)
        assert (
            status == 3
            and "(UNCONFIRMED: deletion requested, but node node-a has not confirmed" in out
        )
        _, out, _ = call(quick, "why", result.id)
        assert (
            "reason: UNCONFIRMED: " in out
            and "detail: deletion requested, but node node-a" in out
            and "node: node-a" in out
        )
        _, out, _ = call(quick, "status", "--json")
        (holder,) = (
            each
            for gpus in json.loads(out)["classes"]
            for each in gpus["holders"]
            if each["id"] == result.id
        )
        assert (holder["stands"], holder["where"]) == ("UNCONFIRMED", "node-a") and holder["detail"]
    finally:
        quick.cluster.faults.kubelet_up("node-a")
    assert quick.in_state(result.id, "ended")["reason"] == "CANCELLED"
    quick.idle()


def test_no_word_is_taken_of_a_node_that_may_run_its_attempts(
    shop: ModuleType, quick: ClusterStack, key: str, tmp_path: Path
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    quick.told(key)
    until(lambda: quick.known(result.id).get("node") == "node-a", PATIENCE, "its node is known")
    status, out, err = call(quick, "confirm-gone", "node-a", "--yes", "--json")
    found = json.loads(out)
    assert (status, found["confirmed"], "is Ready" in err) == (1, False, True)
    assert [each["id"] for each in found["attempts"]] == [result.id]
    nothing = {"KUBECONFIG": str(tmp_path / "none")}
    status, _, err = call(quick, "confirm-gone", "node-a", "--yes", **nothing)
    assert status == 1 and "nothing shows that node 'node-a' is silent" in err and result.id in err
    status, _, err = call(quick, "confirm-gone", "node-z", "--yes")
    assert status == 1 and "no attempt holds a slot on node 'node-z'" in err
    quick.go(key)
    assert result.get(PATIENCE) == key
    quick.idle()


def test_why_shows_node_exit_code_and_pod_of_an_ended_job(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    result = shop.add.apply_async((1, 2), queue=GPU)
    assert result.get(PATIENCE) == 3
    quick.in_state(result.id, "ended")
    quick.idle()
    _, out, _ = call(quick, "why", result.id)
    assert "node: node-a" in out and "exit code: 0" in out and "pod: gpu-" in out
