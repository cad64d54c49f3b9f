"""The scenarios of ``record.py``, played to the double: the same manifests, the same requests, what
happens to nodes as faults.

Where the outcome depends on which of two controllers is first, the one that was later in the
recording is stalled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.contract.recorder import Recorder, Row
from tests.doubles.kubernetes import Image, Node

IMAGE = "lab.local/base:1"
#: The image of the newer recordings.
SHOP = "lab.local/shop:1"
IMAGES = {IMAGE: Image(), SHOP: Image()}
LABELS = {"app.kubernetes.io/name": "gpu-executor"}

SIGTERM = (
    "import signal,sys,time\n"
    "signal.signal(signal.SIGTERM, lambda *a: (print('got SIGTERM', flush=True), sys.exit(143)))\n"
    "print('working', flush=True); time.sleep(120)"
)
POLICY = {
    "podFailurePolicy": {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
        ]
    }
}
QUICK = [
    {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    for key in ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
]


def job(
    name: str = "gpu-job",
    cmd: str = "print('hello from the gpu job')",
    res: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
    pod: dict[str, Any] | None = None,
    container: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A Job with one GPU, as the scenarios have it."""
    resources = {"limits": {"nvidia.com/gpu": "1", **(res or {})}}
    command = ["python3", "-c", cmd]
    own = {
        "name": "executor",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "resources": resources,
    }
    inner: dict[str, Any] = {
        "restartPolicy": "Never",
        "nodeSelector": {"nvidia.com/device-plugin.config": "tesla-t4"},
    }
    inner |= {"containers": [{**own, **(container or {})}], **(pod or {})}
    template = {"metadata": {"labels": LABELS}, "spec": inner}
    metadata = {"name": name, "labels": LABELS}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"backoffLimit": 0, "template": template, **(spec or {})},
    }


def over(row: Row) -> bool:
    """A Job is Complete or Failed."""
    conditions = (
        row["object"].get("status", {}).get("conditions", []) if row.get("watch") == "jobs" else []
    )
    return any(
        item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions
    )


def running(row: Row) -> bool:
    """A pod runs."""
    return row.get("watch") == "pods" and row["object"]["status"].get("phase") == "Running"


def ended(row: Row) -> bool:
    """A pod's phase is terminal."""
    return row.get("watch") == "pods" and row["object"]["status"].get("phase") in (
        "Succeeded",
        "Failed",
    )


def waiting(reason: str) -> Callable[[Row], bool]:
    """A container waits for a reason."""

    def holds(row: Row) -> bool:
        statuses = (
            row["object"]["status"].get("containerStatuses", [])
            if row.get("watch") == "pods"
            else []
        )
        return any(item["state"].get("waiting", {}).get("reason") == reason for item in statuses)

    return holds


def event(reason: str, count: int = 1) -> Callable[[Row], bool]:
    """An event of this reason was repeated so often."""

    def holds(row: Row) -> bool:
        about = row["object"] if row.get("watch") == "events" else {}
        return about.get("reason") == reason and about["count"] >= count

    return holds


def state(kind: str) -> Callable[[Row], bool]:
    """A container is running, waiting or terminated."""

    def holds(row: Row) -> bool:
        statuses = (
            row["object"]["status"].get("containerStatuses", [])
            if row.get("watch") == "pods"
            else []
        )
        return any(kind in item["state"] for item in statuses)

    return holds


def created(kind: str) -> Callable[[Row], bool]:
    """An object of a kind was made."""
    return lambda row: row.get("watch") == kind and row["type"] == "ADDED"


def unschedulable(row: Row) -> bool:
    """The scheduler has found no node."""
    conditions = row["object"]["status"].get("conditions", []) if row.get("watch") == "pods" else []
    return any(
        item["type"] == "PodScheduled" and item.get("reason") == "Unschedulable"
        for item in conditions
    )


def gone(kind: str) -> Callable[[Row], bool]:
    """An object of a kind was taken away."""
    return lambda row: row.get("watch") == kind and row["type"] == "DELETED"


def deleted(row: Row) -> bool:
    """A pod is being deleted."""
    return row.get("watch") == "pods" and "deletionTimestamp" in row["object"]["metadata"]


def counts(name: str, value: int) -> Callable[[Row], bool]:
    """A Job counts so many."""
    return lambda row: row.get("watch") == "jobs" and row["object"]["status"].get(name) == value


def success(r: Recorder) -> None:
    r.ask(
        "POST",
        r.jobs,
        job(cmd="open('/dev/termination-log','w').write('{\"ok\": true}'); print('done')"),
    )


def exit_1(r: Recorder) -> None:
    logs = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    r.ask(
        "POST",
        r.jobs,
        job(
            cmd="import sys; print('Traceback: boom', file=sys.stderr); sys.exit(1)", container=logs
        ),
    )


def exit_1_pod_failure_policy(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd="import sys; sys.exit(3)", spec={"backoffLimit": 2, **POLICY}))


def oom_killed(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd=SIGTERM, res={"memory": "64Mi"}))
    r.until(running)
    r.cluster.faults.oom_kill(r.pod())


def deadline_exceeded(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd=SIGTERM, spec={"activeDeadlineSeconds": 5}))
    r.until(over)


def image_pull_back_off(r: Recorder) -> None:
    r.ask(
        "POST",
        r.jobs,
        job(container={"image": "127.0.0.1:1/none/cuda:1", "imagePullPolicy": "Always"}),
    )
    r.until(waiting("ImagePullBackOff"))
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def image_never_present(r: Recorder) -> None:
    r.ask(
        "POST", r.jobs, job(container={"image": "lab.local/absent:1", "imagePullPolicy": "Never"})
    )


def invalid_image_name(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(container={"image": "NOT A VALID/Image::name"}))


def secret_missing(r: Recorder) -> None:
    absent = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}
    r.ask("POST", r.jobs, job(container={"env": [absent]}))


def command_not_found(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(container={"command": ["/no/such/program"]}))


def unschedulable_gpu(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(res={"nvidia.com/gpu": "64"}))


def unschedulable_node_selector(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(pod={"nodeSelector": {"nvidia.com/device-plugin.config": "absent"}}))


def cancel_background(r: Recorder) -> None:
    _cancel(r, "Background", job(cmd=SIGTERM))


def cancel_foreground(r: Recorder) -> None:
    _cancel(r, "Foreground", job(cmd=SIGTERM))
    r.until(ended)
    r.cluster.faults.stall("kubelet")
    r.until(lambda row: "startTime" in _job_status(row) and not _job_status(row).get("active"))
    r.cluster.faults.resume("kubelet")


def _job_status(row: Row) -> dict[str, Any]:
    status: dict[str, Any] = row["object"]["status"] if row.get("watch") == "jobs" else {}
    return status


def cancel_ignores_sigterm(r: Recorder) -> None:
    deaf = (
        "import signal,time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True);"
        " time.sleep(120)"
    )
    _cancel(r, "Background", job(cmd=deaf, pod={"terminationGracePeriodSeconds": 5}))


def _cancel(r: Recorder, policy: str, body: dict[str, Any]) -> None:
    r.ask("POST", r.jobs, body)
    _until_it_works(r)
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy={policy}")


def _until_it_works(r: Recorder, prefix: str = "") -> None:
    """A container that runs has not yet set its handlers: it says so by its first line."""
    r.until(running)
    r.cluster.until(lambda: r.cluster.log(r.pod(prefix)))


def pod_deleted(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd=SIGTERM))
    _until_it_works(r)
    r.cluster.faults.stall("kubelet")
    r.ask("DELETE", f"{r.pods}/{r.pod()}")
    r.until(counts("failed", 1))
    r.cluster.faults.resume("kubelet")


def pod_deleted_pod_failure_policy(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd=SIGTERM, spec={"podReplacementPolicy": "Failed", **POLICY}))
    _until_it_works(r)
    r.cluster.faults.stall("jobs")
    r.ask("DELETE", f"{r.pods}/{r.pod()}")
    r.until(ended)
    r.cluster.faults.resume("jobs")


def evicted(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd=SIGTERM))
    _until_it_works(r)
    r.cluster.faults.stall("jobs")
    metadata = {"name": r.pod(), "namespace": r.namespace}
    r.ask(
        "POST",
        f"{r.pods}/{r.pod()}/eviction",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata},
    )
    r.until(ended)
    r.cluster.faults.resume("jobs")


def preempted(r: Recorder) -> None:
    high = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "lab-high"},
        "value": 1000,
    }
    r.client.ask("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", high)
    r.ask("POST", r.jobs, job("low", cmd=SIGTERM, res={"nvidia.com/gpu": "5"}))
    _until_it_works(r)
    r.cluster.faults.stall("kubelet")
    soon = "import time; time.sleep(0.1)"
    r.ask(
        "POST",
        r.jobs,
        job("high", cmd=soon, res={"nvidia.com/gpu": "5"}, pod={"priorityClassName": "lab-high"}),
    )
    r.until(counts("failed", 1))
    r.cluster.faults.resume("kubelet")


def kubelet_down_then_back(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd="import time; print('working', flush=True); time.sleep(0.3)"))
    r.until(running)
    r.cluster.faults.kubelet_down("node-a")
    r.until(lambda row: row.get("watch") == "events" and row["object"]["reason"] == "NodeNotReady")
    r.cluster.until(lambda: not r.cluster.pids(r.pod()))
    r.cluster.faults.kubelet_up("node-a")


def node_lost_then_back(r: Recorder) -> None:
    _lose(r)
    r.until(counts("failed", 1))
    r.cluster.faults.kubelet_up("node-b")


def node_lost_pod_failure_policy(r: Recorder) -> None:
    _lose(r, podReplacementPolicy="Failed", **POLICY)
    r.until(counts("terminating", 1))
    r.cluster.faults.kubelet_up("node-b")


def node_deleted(r: Recorder) -> None:
    _lose(r)
    r.until(counts("failed", 1))
    r.client.ask("DELETE", "/api/v1/nodes/node-b")
    r.until(over)
    r.cluster.faults.kubelet_up("node-b")


def _lose(r: Recorder, **spec: Any) -> None:
    pod = {"tolerations": QUICK, "nodeSelector": {"kubernetes.io/hostname": "node-b"}}
    r.ask("POST", r.jobs, job(cmd=SIGTERM, pod=pod, spec=spec))
    _until_it_works(r)
    r.cluster.faults.kubelet_down("node-b")
    r.until(deleted)


def rejected_by_node(r: Recorder) -> None:
    pod = {"nodeName": "node-a", "nodeSelector": {}}
    r.ask("POST", r.jobs, job(res={"nvidia.com/gpu": "64"}, pod=pod))


def suspend_resume(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(spec={"suspend": True}))
    r.until(lambda row: row.get("watch") == "events" and row["object"]["reason"] == "Suspended")
    r.until(
        lambda row: row.get("watch") == "jobs" and bool(row["object"]["status"].get("conditions"))
    )
    r.ask(
        "PATCH",
        f"{r.jobs}/gpu-job",
        {"spec": {"suspend": False}},
        content="application/merge-patch+json",
    )


def _beside(name: str, **fields: Any) -> dict[str, Any]:
    """A container that runs until SIGTERM, beside the executor."""
    command = ["python3", "-c", SIGTERM]
    own = {"name": name, "image": SHOP, "imagePullPolicy": "IfNotPresent", "command": command}
    return {**own, **fields}


def sidecar_runs_on(r: Recorder) -> None:
    body = job(container={"image": SHOP})
    body["spec"]["template"]["spec"]["containers"].append(_beside("istio-proxy"))
    r.ask("POST", r.jobs, body)
    r.until(state("terminated"))
    r.until(counts("ready", 0))
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def native_sidecar(r: Recorder) -> None:
    proxy = _beside("proxy", restartPolicy="Always")
    r.ask("POST", r.jobs, job(container={"image": SHOP}, pod={"initContainers": [proxy]}))


def suspended_while_running(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(cmd=SIGTERM, container={"image": SHOP}))
    _until_it_works(r)
    r.until(counts("ready", 1))
    first = r.pod()
    _suspend(r, True)
    r.until(gone("pods"))
    r.until(lambda row: _job_status(row).get("terminating") == 0 and _is_suspended(row))
    _suspend(r, False)
    r.until(lambda row: running(row) and row["object"]["metadata"]["name"] != first)
    r.until(_was_resumed)
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def _suspend(r: Recorder, suspend: bool) -> None:
    change = {"spec": {"suspend": suspend}}
    r.ask("PATCH", f"{r.jobs}/gpu-job", change, content="application/merge-patch+json")


def _is_suspended(row: Row) -> bool:
    conditions = _job_status(row).get("conditions", [])
    return any(each["type"] == "Suspended" and each["status"] == "True" for each in conditions)


def _was_resumed(row: Row) -> bool:
    status = _job_status(row)
    reasons = [each["reason"] for each in status.get("conditions", [])]
    return "JobResumed" in reasons and status.get("ready") == 1


def scheduling_gate(r: Recorder) -> None:
    gates = {"schedulingGates": [{"name": "example.com/quota"}]}
    r.ask("POST", r.jobs, job(container={"image": SHOP}, pod=gates))
    r.until(counts("active", 1))
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def ttl_after_finished(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(spec={"ttlSecondsAfterFinished": 3}))


def quota_refuses_pod(r: Recorder) -> None:
    _quota(r, "gpus", "requests.nvidia.com/gpu")
    r.ask("POST", r.jobs, job())


def quota_refuses_job(r: Recorder) -> None:
    _quota(r, "jobs", "count/jobs.batch")
    r.ask("POST", r.jobs, job(), note="POST jobs over the quota")


def policy_refuses_job(r: Recorder) -> None:
    r.cluster.faults.policy("jobs", "cost-center label is required", r.namespace)
    r.ask("POST", r.jobs, job(), note="POST jobs against a policy")
    r.cluster.faults.policy("jobs", None)
    r.cluster.faults.stall("jobs")  # the recording stops here
    r.ask("POST", r.jobs, job("after"), note="POST jobs after the policy is gone")


def policy_refuses_pod(r: Recorder) -> None:
    r.cluster.faults.policy("pods", "cost-center label is required", r.namespace)
    r.ask("POST", r.jobs, job(container={"image": SHOP}))
    r.wait(lambda: len([row for row in r.rows if event("FailedCreate")(row)]) >= 2)
    r.cluster.faults.policy("pods", None)


def quota_demands_limits(r: Recorder) -> None:
    _quota(r, "cpu", "limits.cpu", "4")
    r.ask("POST", r.jobs, job(container={"image": SHOP}))


def volume_missing(r: Recorder) -> None:
    volume = {"volumes": [{"name": "v", "configMap": {"name": "absent"}}]}
    mount = {"image": SHOP, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    r.ask("POST", r.jobs, job(pod=volume, container=mount))
    r.until(event("FailedMount", 5))
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def runtime_class_unknown(r: Recorder) -> None:
    why = 'failed to get sandbox runtime: no runtime for "absent" is configured'
    r.cluster.faults.no_sandboxes(why)
    r.ask("POST", r.jobs, job(container={"image": SHOP}, pod={"runtimeClassName": "rec-absent"}))
    r.until(event("FailedCreatePodSandBox", 2))
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def registry_401(r: Recorder) -> None:
    _registry(r, 401, 45133)


def registry_404(r: Recorder) -> None:
    _registry(r, 404, 36147)


def registry_429(r: Recorder) -> None:
    _registry(r, 429, 45831)


def registry_503(r: Recorder) -> None:
    _registry(r, 503, 38009)


def _registry(r: Recorder, answer: int, port: int) -> None:
    r.cluster.faults.registries_answer(answer)
    image = {"image": f"127.0.0.1:{port}/team/train:7", "imagePullPolicy": "Always"}
    r.ask("POST", r.jobs, job(container=image))
    r.until(waiting("ImagePullBackOff"))
    r.ask("DELETE", f"{r.jobs}/gpu-job?propagationPolicy=Background")


def _quota(r: Recorder, name: str, resource: str, most: str = "0") -> None:
    spec = {"hard": {resource: most}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}
    r.ask("POST", f"/api/v1/namespaces/{r.namespace}/resourcequotas", quota)


def api_errors(r: Recorder) -> None:
    r.ask("POST", r.jobs, job(), note="POST jobs")
    r.until(over)
    r.ask("POST", r.jobs, job(), note="POST jobs, same name again")
    r.ask("POST", r.jobs, job("Not_A_Name"), note="POST jobs, bad name")
    body = job("bad-spec")
    body["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    r.ask("POST", r.jobs, body, note="POST jobs, restartPolicy Always")
    body = job("unknown-field")
    body["spec"]["noSuchField"] = 1
    r.ask("POST", f"{r.jobs}?fieldValidation=Strict", body, note="POST jobs, unknown field, strict")
    r.ask(
        "POST",
        r.jobs,
        job("half-gpu", res={"nvidia.com/gpu": "0.5"}),
        note="POST jobs, fractional gpu",
    )
    r.ask("GET", f"{r.jobs}/absent", note="GET job, absent")
    r.ask("DELETE", f"{r.jobs}/absent", note="DELETE job, absent")
    r.ask("GET", f"{r.pods}/absent/log", note="GET log, absent pod")
    r.ask(
        "POST",
        "/apis/batch/v1/namespaces/no-such-ns/jobs",
        job(),
        note="POST jobs, absent namespace",
    )
    r.cluster.faults.compact()
    old = f"{r.jobs}?watch=true&resourceVersion=1&timeoutSeconds=2"
    r.ask("GET", old, note="WATCH jobs from a compacted or too old resourceVersion")
    r.ask(
        "GET",
        f"{r.pods}?labelSelector=batch.kubernetes.io/job-name%3Dgpu-job",
        note="LIST pods of the job",
    )
    initial = (
        "watch=true&allowWatchBookmarks=true&sendInitialEvents=true"
        "&resourceVersionMatch=NotOlderThan&timeoutSeconds=2"
    )
    r.ask("GET", f"{r.jobs}?{initial}", note="WATCH jobs with sendInitialEvents")


def forbidden(r: Recorder) -> None:
    accounts = f"/api/v1/namespaces/{r.namespace}/serviceaccounts"
    r.ask(
        "POST",
        accounts,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}},
    )
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    _, made = r.ask("POST", f"{accounts}/nobody/token", token)
    keep, r.client.token = r.client.token, made["status"]["token"]
    r.ask("POST", r.jobs, job(), note="POST jobs without RBAC")
    r.ask("GET", r.pods, note="LIST pods without RBAC")
    r.client.token = "not-a-token"
    r.ask("GET", r.pods, note="LIST pods with a bad token")
    r.client.token = keep


@dataclass(frozen=True)
class Scenario:
    """How a recording is played: at which pace, on which nodes."""

    play: Callable[[Recorder], None]
    pace: float = 0.05
    manifest_pace: float = 0.1
    nodes: list[Node] = field(default_factory=lambda: [Node()])

    @property
    def name(self) -> str:
        """Of the recording."""
        return self.play.__name__


_TWO = [Node("node-a"), Node("node-b")]

SCENARIOS = [
    *map(
        Scenario,
        (
            success,
            exit_1,
            exit_1_pod_failure_policy,
            oom_killed,
            image_pull_back_off,
            image_never_present,
            invalid_image_name,
            secret_missing,
            command_not_found,
            unschedulable_gpu,
            unschedulable_node_selector,
            cancel_background,
            cancel_ignores_sigterm,
            pod_deleted,
            pod_deleted_pod_failure_policy,
            evicted,
            preempted,
            rejected_by_node,
            suspend_resume,
            suspended_while_running,
            scheduling_gate,
            sidecar_runs_on,
            native_sidecar,
            ttl_after_finished,
            quota_refuses_pod,
            quota_refuses_job,
            policy_refuses_job,
            policy_refuses_pod,
            quota_demands_limits,
            volume_missing,
            runtime_class_unknown,
            registry_401,
            registry_404,
            registry_429,
            registry_503,
            api_errors,
            forbidden,
        ),
    ),
    # The container starts within the deadline, on a busy machine, too.
    Scenario(deadline_exceeded, manifest_pace=0.6),
    # The container ends within the second after which the controller looks again.
    Scenario(cancel_foreground, pace=0.4),
    Scenario(kubelet_down_then_back, pace=0.02),
    *(
        Scenario(play, pace=0.02, nodes=_TWO)
        for play in (node_lost_then_back, node_lost_pod_failure_policy, node_deleted)
    ),
]
