"""What the double's nodes do with pods beyond the recordings: environments, images, ends, clocks,
nodes that are lost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contract.scenarios import IMAGE, IMAGES, SIGTERM, job
from tests.doubles.kubernetes import Cluster, Image, Node
from tests.doubles.kubernetes.nodes import processes
from tests.doubles.kubernetes.nodes.runtime import Exit, Task
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, RUNTIME_CLASSES, SECRETS
from tests.support.processes import is_running
from tests.support.waiting import until

Body = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that runs processes."""
    with Cluster(tmp_path, pace=0.02, images=IMAGES) as cluster:
        yield cluster


def run(cluster: Cluster, cmd: str = SIGTERM, name: str = "gpu-job", **how: Any) -> Body:
    """Create a Job; its pod, once it runs and has written a line."""
    cluster.create(JOBS, job(name, cmd, **how))
    pod: Body = cluster.until(
        lambda: (pod := cluster.pod_of(name)) and pod["status"]["phase"] != "Pending" and pod
    )
    cluster.until(lambda: cluster.log(pod))
    return pod


def ended(cluster: Cluster, name: str = "gpu-job") -> Body:
    """The pod of a Job, once its phase is terminal."""

    def look() -> Body | None:
        pod = cluster.pod_of(name)
        return (
            pod
            if pod is not None and pod["status"].get("phase") in ("Succeeded", "Failed")
            else None
        )

    pod = cluster.until(look)
    assert pod is not None
    return pod


def terminated(pod: Body) -> Body:
    """How its first container ended."""
    state: Body = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def alive(pids: list[int]) -> list[int]:
    """Those that still run."""
    return [pid for pid in pids if is_running(pid)]


def printed(cluster: Cluster, code: str, **container: Any) -> Any:
    """What a container prints as JSON."""
    cluster.create(
        JOBS, job(cmd=f"import json, os, sys; print(json.dumps({code}))", container=container)
    )
    pod = ended(cluster)
    assert pod["status"]["phase"] == "Succeeded", cluster.log(pod)
    return json.loads(cluster.log(pod))


# -- what a container gets -------------------------------------------------------------------------


def test_a_container_gets_only_its_own_environment(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAK", "from the test")
    cluster.images[IMAGE] = Image(env={"FROM_IMAGE": "image", "BOTH": "image"})
    cluster.secret("given", {"PASSWORD": "s3cret", "OTHER": "x"})
    cluster.config_map("settings", {"LEVEL": "info"})
    env = [
        {"name": "BOTH", "value": "manifest"},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "given", "key": "PASSWORD"}}},
        {"name": "URL", "value": "redis://:$(WORD)@host/$(LEVEL)/$$(LEVEL)/$(ABSENT)"},
        {
            "name": "ABSENT_KEY",
            "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k", "optional": True}},
        },
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {
            "name": "MEBIBYTES",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
        },
        {
            "name": "LABEL",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app.kubernetes.io/name']"}},
        },
    ]
    env_from = [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "given"}, "prefix": "S_"},
    ]
    limits = {"limits": {"cpu": "1500m", "memory": "2Gi"}}
    got = printed(cluster, "dict(os.environ)", env=env, envFrom=env_from, resources=limits)
    pod = cluster.pod_of("gpu-job")
    assert pod is not None
    assert got.pop("PATH").split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert Path(got.pop("HOME")).name == "executor"
    got.pop("DOUBLE_CONTAINER")
    got.pop("LC_CTYPE", None)  # Python's own
    assert got == {
        "HOSTNAME": pod["metadata"]["name"],
        "FROM_IMAGE": "image",
        "BOTH": "manifest",
        "LEVEL": "info",
        "S_PASSWORD": "s3cret",
        "S_OTHER": "x",
        "WORD": "s3cret",
        "URL": "redis://:s3cret@host/info/$(LEVEL)/$(ABSENT)",
        "POD": pod["metadata"]["name"],
        "UID": pod["metadata"]["uid"],
        "NODE": "node-a",
        "IP": pod["status"]["podIP"],
        "CORES": "2",
        "MEBIBYTES": "2048",
        "LABEL": "gpu-executor",
    }


def test_commands_and_arguments_come_of_the_manifest_or_the_image(
    cluster: Cluster, tmp_path: Path
) -> None:
    show = ["python3", "-c", "import sys, os; print(sys.argv[1:], os.getcwd())"]
    cluster.images[IMAGE] = Image(entrypoint=show, cmd=["of", "image"], cwd=str(tmp_path))
    cases: dict[str, tuple[Body, str]] = {
        "image": ({"command": None}, "['of', 'image']"),
        "arguments": (
            {"command": None, "args": ["$(WHO)"], "env": [{"name": "WHO", "value": "me"}]},
            "['me']",
        ),
        "command": ({"command": [*show, "own"]}, "['own']"),
    }
    for name, (container, told) in cases.items():
        cluster.create(JOBS, job(name, container=container))
        assert cluster.log(ended(cluster, name)) == f"{told} {tmp_path}\n"


def test_a_secret_that_comes_late_lets_the_container_start(cluster: Cluster) -> None:
    variable = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}
    cluster.create(JOBS, job(container={"env": [variable]}))
    cluster.until(lambda: _waits(cluster, "CreateContainerConfigError"))
    cluster.secret("late", {"other": "1"})
    cluster.until(lambda: "couldn't find key k in Secret default/late" in str(cluster.pods()))
    with cluster.store.lock:
        cluster.registry.patch(SECRETS, "default", "late", {"stringData": {"k": "v"}})
    assert ended(cluster)["status"]["phase"] == "Succeeded"


def test_a_volume_that_comes_late_lets_the_pod_start(cluster: Cluster) -> None:
    volumes = [
        {"name": "files", "configMap": {"name": "late"}},
        {"name": "maybe", "secret": {"secretName": "no", "optional": True}},
    ]
    cluster.create(JOBS, job(pod={"volumes": volumes}))
    name = cluster.until(lambda: cluster.pod_of("gpu-job"))["metadata"]["name"]
    told = cluster.until(
        lambda: [event for event in cluster.events_of(name) if event["reason"] == "FailedMount"]
    )
    assert (
        told[0]["message"]
        == 'MountVolume.SetUp failed for volume "files" : configmap "late" not found'
    )
    assert _waits(cluster, "ContainerCreating")
    cluster.config_map("late", {})
    assert ended(cluster)["status"]["phase"] == "Succeeded"


def test_a_runtime_that_the_node_lacks_makes_no_sandbox(cluster: Cluster) -> None:
    for name, handler in (("absent", "none"), ("usual", "runc")):
        cluster.create(RUNTIME_CLASSES, {"metadata": {"name": name}, "handler": handler})
    cluster.create(JOBS, job(pod={"runtimeClassName": "absent"}))
    pod = cluster.until(lambda: cluster.pod_of("gpu-job"))["metadata"]["name"]
    [told, *_] = cluster.until(
        lambda: [
            each for each in cluster.events_of(pod) if each["reason"] == "FailedCreatePodSandBox"
        ]
    )
    assert told["message"] == (
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox"
        ' runtime: no runtime for "none" is configured'
    )
    assert _waits(cluster, "ContainerCreating")
    cluster.create(JOBS, job("other", pod={"runtimeClassName": "usual"}))
    assert ended(cluster, "other")["status"]["phase"] == "Succeeded"


def test_an_image_that_comes_late_is_pulled_in_the_end(cluster: Cluster) -> None:
    cluster.create(JOBS, job(container={"image": "registry.example/app:2"}))
    cluster.until(lambda: _waits(cluster, "ErrImagePull"))
    cluster.images["registry.example/app:2"] = Image(pull_seconds=0.05)
    pod = ended(cluster)
    assert pod["status"]["phase"] == "Succeeded"
    reasons = [event["reason"] for event in cluster.events_of(pod["metadata"]["name"])]
    assert (
        reasons.index("Pulling")
        < reasons.index("Failed")
        < reasons.index("Pulled")
        < reasons.index("Started")
    )


def test_a_slow_pull_is_waited_for_without_an_error(cluster: Cluster) -> None:
    cluster.images["slow:1"] = Image(pull_seconds=0.2)
    cluster.faults.slow_pulls(0.3)
    cluster.create(JOBS, job(container={"image": "slow:1"}))
    name = cluster.until(lambda: cluster.pod_of("gpu-job"))["metadata"]["name"]
    cluster.until(lambda: any(event["reason"] == "Pulling" for event in cluster.events_of(name)))
    assert _waits(cluster, "ContainerCreating")
    assert ended(cluster)["status"]["phase"] == "Succeeded"


def _waits(cluster: Cluster, reason: str) -> bool:
    statuses = [
        status for pod in cluster.pods() for status in pod["status"].get("containerStatuses", ())
    ]
    return any(status["state"].get("waiting", {}).get("reason") == reason for status in statuses)


# -- how containers end ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmd", "code", "reason"),
    [
        ("import sys; sys.exit(7)", 7, "Error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, "Error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "Error"),
        ("pass", 0, "Completed"),
    ],
)
def test_the_exit_code_and_reason_of_a_container_are_reported(
    cluster: Cluster, cmd: str, code: int, reason: str
) -> None:
    cluster.create(JOBS, job(cmd=cmd))
    end = terminated(ended(cluster))
    assert (end["exitCode"], end["reason"]) == (code, reason)


def test_command_arguments_and_environment_may_name_the_termination_log(
    cluster: Cluster,
) -> None:
    env = [{"name": "WHERE", "value": "/run/end"}]
    write = (
        "import os; open(os.environ['WHERE'], 'w').write('x' * 5000); print(open('/run/end').read()"
        " == 'x' * 5000)"
    )
    cluster.create(
        JOBS, job(cmd=write, container={"terminationMessagePath": "/run/end", "env": env})
    )
    pod = ended(cluster)
    assert cluster.log(pod) == "True\n"
    assert terminated(pod)["message"] == "x" * 4096


@pytest.mark.parametrize(
    ("lines", "length"), [("'short'", 6), ("'\\n'.join('y' * 99 for _ in range(99))", 2048)]
)
def test_the_end_of_the_log_stands_in_for_a_missing_termination_message(
    cluster: Cluster, lines: str, length: int
) -> None:
    logs = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    cluster.create(JOBS, job(cmd=f"print({lines}); raise SystemExit(1)", container=logs))
    assert len(terminated(ended(cluster))["message"]) == length


CHILDREN = (
    "import subprocess, sys, time\nwait = [sys.executable, '-c', 'import time;"
    " time.sleep(100)']\nsubprocess.Popen(wait); subprocess.Popen(wait, start_new_session=True,"
    " env={**__import__('os').environ, 'HOME': '/'})\nprint('started', flush=True)\n"
)


def test_what_a_container_started_ends_with_it(cluster: Cluster) -> None:
    pod = run(cluster, CHILDREN + "sys.stdin.read(); time.sleep(0.3)")
    pids = cluster.pids(pod)
    assert len(pids) == 3
    ended(cluster)
    assert alive(pids) == [] and cluster.pids(pod) == []


def test_a_closed_cluster_leaves_no_process(tmp_path: Path) -> None:
    with Cluster(tmp_path, pace=0.02, images=IMAGES) as cluster:
        pids = cluster.pids(run(cluster, CHILDREN + "time.sleep(100)"))
    assert len(pids) == 3
    until(lambda: not alive(pids), what="all of them are gone")


def test_a_container_over_its_memory_limit_ends_as_oom_killed(cluster: Cluster) -> None:
    pod = run(cluster)
    cluster.faults.oom_kill(pod["metadata"]["name"])
    end = terminated(ended(cluster))
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


def test_a_pod_that_outlives_its_deadline_is_failed(cluster: Cluster) -> None:
    run(cluster, pod={"activeDeadlineSeconds": 1})
    status = ended(cluster)["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert status["message"] == "Pod was active on the node longer than the specified deadline"
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143


def test_a_pod_evicted_by_its_kubelet_stays_to_be_read(cluster: Cluster) -> None:
    pod = run(cluster)
    cluster.faults.evict_for_pressure(pod["metadata"]["name"])
    status = ended(cluster)["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    assert [
        item["reason"] for item in status["conditions"] if item["type"] == "DisruptionTarget"
    ] == ["TerminationByKubelet"]
    assert alive(cluster.pids(pod)) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("evict", "EvictionByEvictionAPI"),
        ("preempt", "PreemptionByScheduler"),
        ("delete_pod", None),
    ],
)
def test_a_pod_is_taken_away(cluster: Cluster, fault: str, reason: str | None) -> None:
    pod = run(cluster)
    pids = cluster.pids(pod)
    cluster.faults.stall("kubelet")
    getattr(cluster.faults, fault)(pod["metadata"]["name"])
    marked = cluster.pod(pod["metadata"]["name"])
    assert marked is not None and marked["metadata"]["deletionGracePeriodSeconds"] == 30
    found = [
        item["reason"]
        for item in marked["status"]["conditions"]
        if item["type"] == "DisruptionTarget"
    ]
    assert found == ([reason] if reason else [])
    assert alive(pids) == pids
    cluster.faults.resume("kubelet")
    cluster.until(lambda: not cluster.pods() and not alive(pids))


def test_a_force_deleted_pod_computes_on(cluster: Cluster) -> None:
    pod = run(cluster)
    pids = cluster.pids(pod)
    cluster.faults.force_delete(pod["metadata"]["name"])
    assert cluster.pods() == [] or cluster.pod(pod["metadata"]["name"]) is None
    assert alive(pids) == pids
    cluster.faults.kill(pod["metadata"]["uid"])
    cluster.until(lambda: not alive(pids))


def test_a_shorter_grace_hurries_a_deletion(cluster: Cluster) -> None:
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True);"
        " time.sleep(100)"
    )
    pod = run(cluster, deaf)
    name, pids = pod["metadata"]["name"], cluster.pids(pod)
    cluster.faults.delete_pod(name)
    cluster.until(lambda: any(event["reason"] == "Killing" for event in cluster.events_of(name)))
    assert alive(pids) == pids
    cluster.faults.delete_pod(name, grace=1)
    cluster.until(lambda: cluster.pod(name) is None)
    assert alive(pids) == []


def test_a_pod_deleted_before_its_container_started_never_starts_it(cluster: Cluster) -> None:
    cluster.images["slow:1"] = Image(pull_seconds=100)
    cluster.create(JOBS, job(container={"image": "slow:1"}))
    cluster.until(lambda: _waits(cluster, "ContainerCreating"))
    cluster.faults.delete_pod(cluster.pods()[0]["metadata"]["name"])
    cluster.until(lambda: not cluster.pods())
    assert [path.name for path in cluster.folder.rglob("log")] == []


def test_a_rejected_pod_fails_without_a_container(cluster: Cluster) -> None:
    message = "Allocate failed due to rpc error: maximum request size is 1, which is unexpected"
    cluster.faults.reject_pods(message)
    cluster.create(JOBS, job())
    status = ended(cluster)["status"]
    assert (status["phase"], status["reason"], status["message"]) == (
        "Failed",
        "UnexpectedAdmissionError",
        message,
    )
    assert "containerStatuses" not in status
    cluster.faults.reject_pods(None)
    cluster.create(JOBS, job("next"))
    assert ended(cluster, "next")["status"]["phase"] == "Succeeded"


# -- several containers ----------------------------------------------------------------------------


def _also(name: str, cmd: str, **more: Any) -> Body:
    return {"name": name, "image": IMAGE, "command": ["python3", "-c", cmd], **more}


def test_initial_containers_run_one_after_another_before_the_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    write = "open({!r}, 'a').write({!r})"
    first, second = (
        _also(name, write.format(str(trace), name + " ")) for name in ("first", "second")
    )
    cluster.create(
        JOBS, job(cmd=write.format(str(trace), "main"), pod={"initContainers": [first, second]})
    )
    pod = ended(cluster)
    assert trace.read_text() == "first second main"
    assert [
        status["state"]["terminated"]["exitCode"]
        for status in pod["status"]["initContainerStatuses"]
    ] == [0, 0]


def test_an_initial_container_that_fails_fails_the_pod(cluster: Cluster) -> None:
    cluster.create(JOBS, job(pod={"initContainers": [_also("prepare", "raise SystemExit(4)")]}))
    status = ended(cluster)["status"]
    assert status["phase"] == "Failed"
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_a_sidecar_runs_beside_the_others_and_goes_after_them(cluster: Cluster) -> None:
    sidecar = _also("proxy", SIGTERM, restartPolicy="Always")
    cluster.create(JOBS, job(cmd="import time; time.sleep(0.2)", pod={"initContainers": [sidecar]}))
    pod = ended(cluster)
    assert pod["status"]["phase"] == "Succeeded"
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 143
    assert cluster.log(pod, "proxy") == "working\ngot SIGTERM\n"


def test_a_pod_is_over_when_all_its_containers_are(cluster: Cluster) -> None:
    body = job(cmd="print('quick')")
    body["spec"]["template"]["spec"]["containers"].append(
        _also("second", "import time; time.sleep(0.3); raise SystemExit(2)")
    )
    cluster.create(JOBS, body)
    pod = ended(cluster)
    assert [
        status["state"]["terminated"]["exitCode"] for status in pod["status"]["containerStatuses"]
    ] == [0, 2]
    assert pod["status"]["phase"] == "Failed"


# -- logs ------------------------------------------------------------------------------------------


@pytest.fixture
def ask(cluster: Cluster) -> Callable[[str], tuple[int, str]]:
    """Ask the API server for something in the default namespace."""

    def get(path: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{cluster.url}/api/v1/namespaces/default/{path}")
        request.add_header("Authorization", f"Bearer {cluster.token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return get


def test_logs_are_read_whole_by_their_end_and_while_they_grow(
    cluster: Cluster, ask: Callable[[str], tuple[int, str]]
) -> None:
    count = "import time\nfor n in range(5): print(n, flush=True); time.sleep(0.05)"
    name = run(cluster, count)["metadata"]["name"]
    assert ask(f"pods/{name}/log?follow=true") == (200, "0\n1\n2\n3\n4\n")
    assert ask(f"pods/{name}/log?tailLines=2") == (200, "3\n4\n")
    assert ask(f"pods/{name}/log?limitBytes=3&container=executor") == (200, "0\n1")
    assert ask(f"pods/{name}/log?container=other")[0] == 400


def test_lines_of_a_log_have_their_times_and_older_ones_are_left_out(
    cluster: Cluster, ask: Callable[[str], tuple[int, str]]
) -> None:
    name = run(cluster, "print('one')")["metadata"]["name"]
    began = int(time.time())
    status, text = ask(f"pods/{name}/log?timestamps=true&sinceTime={_second(began)}")
    stamp, rest = text.split(" ")
    assert (status, rest) == (200, "one\n")
    assert began <= datetime.fromisoformat(stamp).timestamp() < began + 20
    later = _second(began + 60)
    assert ask(f"pods/{name}/log?timestamps=true&sinceTime={later}") == (200, "")


def _second(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def test_what_has_not_started_has_no_log(
    cluster: Cluster, ask: Callable[[str], tuple[int, str]]
) -> None:
    cluster.create(JOBS, job("waits", res={"nvidia.com/gpu": "64"}))
    waits = cluster.until(lambda: cluster.pod_of("waits"))["metadata"]["name"]
    status, text = ask(f"pods/{waits}/log")
    assert (status, json.loads(text)["message"]) == (
        400,
        f"pod {waits} does not have a host assigned",
    )
    cluster.create(JOBS, job("pulls", container={"image": "registry.example/absent:1"}))
    cluster.until(lambda: _waits(cluster, "ImagePullBackOff"))
    pulls = cluster.until(lambda: cluster.pod_of("pulls"))["metadata"]["name"]
    status, text = ask(f"pods/{pulls}/log")
    assert "is waiting to start: " in json.loads(text)["message"]


def _with_conditions(cluster: Cluster, name: str) -> Body | None:
    """The pod of a Job, once it has conditions."""
    pod = cluster.pod_of(name)
    return pod if pod is not None and pod["status"].get("conditions") else None


# -- nodes and scheduling --------------------------------------------------------------------------


def test_pods_wait_for_room_and_take_it(cluster: Cluster) -> None:
    first = run(cluster, name="first", res={"nvidia.com/gpu": "6"})
    cluster.create(JOBS, job("second", res={"nvidia.com/gpu": "4"}))
    told = cluster.until(
        lambda: (pod := cluster.pod_of("second")) and pod["status"].get("conditions")
    )
    assert (
        told[0]["message"]
        == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate,"
        " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    cluster.faults.delete_pod(first["metadata"]["name"])
    assert ended(cluster, "second")["status"]["phase"] == "Succeeded"


def test_pods_go_where_labels_taints_and_wishes_send_them(tmp_path: Path) -> None:
    tainted = Node("tainted", taints=[{"key": "gpu", "value": "only", "effect": "NoSchedule"}])
    nodes = [Node("plain", labels={"zone": "a"}), Node("other", labels={"zone": "b"}), tainted]
    with Cluster(tmp_path, nodes=nodes, images=IMAGES, processes=False) as cluster:
        wish = {
            "weight": 5,
            "preference": {
                "matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]
            },
        }
        wishes = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
        need = {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a", "b"]}]}
        needs = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [need]}
            }
        }
        toleration = {"key": "gpu", "operator": "Equal", "value": "only", "effect": "NoSchedule"}
        cases: dict[str, tuple[Body, str | None]] = {
            "wishes": ({"affinity": wishes}, "other"),
            "needs": ({"affinity": needs, "tolerations": [toleration]}, "tainted"),
            "barred": ({"affinity": needs}, None),
        }
        for name, (pod, node) in cases.items():
            cluster.create(JOBS, job(name, pod={"nodeSelector": {}, **pod}))
            body = cluster.until(partial(_with_conditions, cluster, name))
            assert body["spec"].get("nodeName") == node, name
        message = body["status"]["conditions"][0]["message"]
        assert (
            "1 node(s) had untolerated taint {gpu: only}, 2 node(s) didn't match Pod's node"
            " affinity/selector" in message
        )


def test_a_pod_that_was_bound_by_hand_to_a_full_node_is_rejected(cluster: Cluster) -> None:
    run(cluster, res={"nvidia.com/gpu": "8"})
    container = {"name": "c", "image": IMAGE, "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    cluster.create(
        PODS,
        {"metadata": {"name": "forced"}, "spec": {"nodeName": "node-a", "containers": [container]}},
    )
    cluster.until(
        lambda: (
            (pod := cluster.pod("forced")) and pod["status"].get("reason") == "OutOfnvidia.com/gpu"
        )
    )


def test_a_lost_node_computes_on_until_it_is_back(cluster: Cluster) -> None:
    pod = run(cluster)
    name, pids = pod["metadata"]["name"], cluster.pids(pod)
    cluster.faults.node_lost("node-a")
    cluster.until(lambda: (pod := cluster.pod(name)) and "deletionTimestamp" in pod["metadata"])
    assert alive(pids) == pids
    cluster.create(JOBS, job("next"))
    told = cluster.until(
        lambda: (pod := cluster.pod_of("next")) and pod["status"].get("conditions")
    )
    assert (
        "1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }" in told[0]["message"]
    )
    cluster.faults.node_back("node-a")
    cluster.until(lambda: cluster.pod(name) is None and not alive(pids))
    assert ended(cluster, "next")["status"]["phase"] == "Succeeded"


def test_changes_during_an_outage_are_reported_after_it(
    cluster: Cluster,
) -> None:
    pod = run(cluster, "import time; print('working', flush=True); time.sleep(0.3)")
    cluster.faults.front_down()
    cluster.until(lambda: not cluster.pids(pod))
    cluster.create(JOBS, job("next"))
    before = cluster.pod(pod["metadata"]["name"])
    assert (
        before is not None
        and before["status"]["phase"] == "Running"
        and cluster.pod_of("next") is None
    )
    cluster.faults.front_up()
    assert terminated(ended(cluster))["exitCode"] == 0
    assert ended(cluster, "next")["status"]["phase"] == "Succeeded"


def test_a_deletion_that_ends_during_an_outage_is_completed_after_it(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True);"
    with Cluster(tmp_path, pace=0.001, images=IMAGES) as cluster:
        pod = run(cluster, f"{stubborn} time.sleep(60)")
        name = pod["metadata"]["name"]
        cluster.faults.delete_pod(name, grace=1)
        cluster.until(lambda: "Killing" in {event["reason"] for event in cluster.events_of(name)})
        cluster.faults.front_down()
        cluster.until(lambda: all(worker.ended for worker in cluster.fleet.workers()))
        assert cluster.pod(name) is not None, "a kubelet removes no object while it is offline"
        cluster.faults.front_up()
        cluster.until(lambda: cluster.pod(name) is None)


def test_late_pods_and_a_stalled_scheduler_keep_a_job_waiting(cluster: Cluster) -> None:
    cluster.faults.late_pods(0.3)
    cluster.faults.stall("scheduler")
    cluster.create(JOBS, job())
    assert cluster.pods() == []
    pod = cluster.until(lambda: cluster.pod_of("gpu-job"))
    assert "nodeName" not in pod["spec"]
    cluster.faults.resume("scheduler")
    ended(cluster)


# -- timers instead of processes, and the double as a process --------------------------------------


def scripted(name: str, **annotations: str) -> Body:
    """A Job whose container is only a timer."""
    body = job(name)
    named = {
        f"double.gpuqueue.io/{key.replace('_', '-')}": value for key, value in annotations.items()
    }
    body["spec"]["template"]["metadata"]["annotations"] = named
    return body


def test_annotations_decide_how_a_scripted_container_ends(cluster: Cluster) -> None:
    cluster.create(JOBS, scripted("good", seconds="0.1", message="done"))
    cluster.create(JOBS, scripted("bad", seconds="0.1", exit="3"))
    assert terminated(ended(cluster, "good"))["message"] == "done"
    assert terminated(ended(cluster, "bad"))["exitCode"] == 3


def test_a_scripted_container_is_ended_by_signals(tmp_path: Path) -> None:
    with Cluster(tmp_path, pace=0.02, images=IMAGES, processes=False) as cluster:
        cluster.create(JOBS, scripted("polite"))
        cluster.create(JOBS, scripted("deaf", ignores_sigterm="true"))
        cluster.until(
            lambda: [pod["status"]["phase"] for pod in cluster.pods()] == ["Running", "Running"]
        )
        polite, deaf = (pod["metadata"]["name"] for pod in cluster.pods())
        cluster.faults.delete_pod(polite)
        cluster.until(lambda: cluster.pod(polite) is None)
        cluster.faults.delete_pod(deaf, grace=1)
        cluster.until(lambda: cluster.pod(deaf) is None)


def test_preloaded_jobs_run_already_and_end_like_others(tmp_path: Path) -> None:
    with Cluster(tmp_path, pace=0.02, images=IMAGES, processes=False) as cluster:
        names = cluster.preload([scripted("short", seconds="0.2"), scripted("long")])
        assert [pod["status"]["phase"] for pod in cluster.pods()] == ["Running", "Running"]
        assert [pod["metadata"]["name"] for pod in cluster.pods()] == names
        assert terminated(ended(cluster, "short"))["exitCode"] == 0
        cluster.until(
            lambda: any(
                item["type"] == "Complete"
                for item in (cluster.job("short") or {})["status"].get("conditions", ())
            )
        )
        cluster.faults.delete_pod(names[1])
        cluster.until(lambda: cluster.pod(names[1]) is None)


def test_faults_can_be_asked_for_over_http_also_while_the_front_is_down(cluster: Cluster) -> None:
    def call(name: str, **arguments: Any) -> Any:
        data = json.dumps(arguments).encode()
        with urllib.request.urlopen(f"{cluster.control_url}/{name}", data, timeout=20) as answer:
            return json.loads(answer.read())["result"]

    pod = run(cluster)["metadata"]["name"]
    call("front_down")
    assert not cluster.front.is_up
    call("front_up")
    call("oom_kill", pod=pod)
    assert terminated(ended(cluster))["reason"] == "OOMKilled"
    with pytest.raises(urllib.error.HTTPError) as failure:
        call("no_such_fault")
    with failure.value as answer:
        assert "KeyError" in answer.read().decode()
    with urllib.request.urlopen(f"{cluster.control_url}/pods", timeout=20) as answer:
        assert [item["metadata"]["name"] for item in json.loads(answer.read())["result"]] == [pod]


def test_a_fault_of_a_pod_that_is_not_there_is_refused(cluster: Cluster) -> None:
    for fault in ("oom_kill", "evict", "preempt", "delete_pod"):
        with pytest.raises(Refused, match="absent"):
            getattr(cluster.faults, fault)("absent")


def test_the_double_runs_as_a_process_until_a_signal_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    command = [
        sys.executable,
        "-m",
        "tests.doubles.kubernetes",
        "--kubeconfig",
        str(path),
        "--pace",
        "0.02",
        "--image",
        IMAGE,
        "--nodes",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{path}\n"
        control = process.stdout.readline().strip()
        config = json.loads(path.read_text())
        url, token = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]["token"]
        request = urllib.request.Request(
            f"{url}/apis/batch/v1/namespaces/default/jobs", json.dumps(job(cmd=SIGTERM)).encode()
        )
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 201
        pids = _pids_over_http(control)
        data = json.dumps({"jobs": [scripted("ready")]}).encode()
        with urllib.request.urlopen(f"{control}/preload", data, timeout=20) as answer:
            assert json.loads(answer.read())["result"][0].startswith("ready-")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert alive(pids) == []


def _pids_over_http(control: str) -> list[int]:
    for _ in range(200):
        with urllib.request.urlopen(f"{control}/pods", timeout=20) as answer:
            names = [pod["metadata"]["name"] for pod in json.loads(answer.read())["result"]]
        for name in names:
            with urllib.request.urlopen(f"{control}/pids?pod={name}", timeout=20) as answer:
                pids: list[int] = json.loads(answer.read())["result"]
            if pids:
                return pids
    raise AssertionError("no pod came to run")


def test_a_look_at_the_processes_leaves_the_exit_code_to_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the search through /proc the looks are close enough to meet the end of a process.
    monkeypatch.setattr(processes, "_marked", lambda mark: set())
    runtime = processes.ProcessRuntime()
    for number in range(10):
        folder, ended = tmp_path / str(number), threading.Event()
        codes: list[int] = []

        def on_exit(how: Exit, codes: list[int] = codes, ended: threading.Event = ended) -> None:
            codes.append(how.code)
            ended.set()

        task = Task(
            ["sh", "-c", "exit 3"], {}, str(tmp_path), folder, tmp_path / "log", folder / "m", {}
        )
        handle = runtime.start(task, on_exit)
        while handle.pids():
            pass
        assert ended.wait(20)
        assert codes == [3]
    runtime.close()
