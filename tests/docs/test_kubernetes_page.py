"""The pages about Kubernetes match the code: YAML, settings, timeouts, ends and images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml
from celery import Celery
from kubernetes import client

from gpuqueue import __version__, errors
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.glue.results.completion import exception_of
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, DOCTOR, Right
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.clocks import PodClocks
from gpuqueue.launchers.kubernetes.manifest.images import check_image
from gpuqueue.launchers.kubernetes.manifest.job import ManifestContext, attempt_manifest
from gpuqueue.launchers.kubernetes.manifest.names import record_of
from gpuqueue.launchers.kubernetes.manifest.pod_template import apply_template
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.model.container import ARGUMENTS, LARGEST, parse_container
from gpuqueue.model.reasons import NEVER_AGAIN, TRY_AGAIN, EndReason
from gpuqueue.model.record import Record
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pages import Page, defaults, shown
from tests.support.pod_objects import DELETION, a_pod, condition, disrupted, ended, running, waiting

FIRST_DAY = Page("docs/howto/run-jobs-on-kubernetes.md")
IMAGES = Page("docs/howto/choose-images.md")
JOB = Page("docs/operate/kubernetes-job.md")
TEMPLATE = Page("docs/howto/pod-template.md")
TIMEOUTS = Page("docs/operate/kubernetes-timeouts.md")
ENDS_PAGE = Page("docs/operate/kubernetes-ends.md")
CONTAINERS = Page("docs/howto/container-jobs.md")


# -- the first day ---------------------------------------------------------------------------------


def objects() -> dict[str, dict[str, Any]]:
    """Return kind → object of the ``gpuqueue.yaml`` on the page."""
    (text,) = FIRST_DAY.blocks("yaml")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize("kind", ["ServiceAccount", "Role", "RoleBinding", "Deployment"])
def test_objects_of_the_first_day_have_only_fields_of_kubernetes(
    kind: str,
) -> None:
    found = objects()[kind]
    model = getattr(client, f"V1{kind}")
    assert client.ApiClient().sanitize_for_serialization(model.from_dict(found)) == found


def test_the_objects_of_the_first_day_refer_to_one_another() -> None:
    found = objects()
    names = {(each["metadata"]["name"], each["metadata"]["namespace"]) for each in found.values()}
    assert names == {("gpuqueue-dispatcher", "gpu-jobs")}
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    pod = found["Deployment"]["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert pod["metadata"]["labels"] == found["Deployment"]["spec"]["selector"]["matchLabels"]
    commands = "\n".join(FIRST_DAY.blocks("sh"))
    assert "create namespace gpu-jobs" in commands
    (container,) = pod["spec"]["containers"]
    (secret,) = (each["secretRef"]["name"] for each in container["envFrom"])
    assert secret == ClusterSettings().secret_name
    assert f"secret generic {secret} --from-literal=CELERY_BROKER_URL=" in commands
    assert f"-t {container['image']} ." in commands
    assert f"docker push {container['image']}" in commands


def test_the_role_of_the_first_day_allows_exactly_what_dispatchers_ask() -> None:
    allowed = []
    for rule in objects()["Role"]["rules"]:
        (group,), (resource,) = rule["apiGroups"], rule["resources"]
        name, _, subresource = resource.partition("/")
        allowed += [Right(verb, name, group, subresource) for verb in rule["verbs"]]
    assert sorted(allowed) == sorted(DISPATCHER)


def test_the_optional_rights_of_the_doctor_are_listed() -> None:
    assert all(f"`{right}`" in FIRST_DAY.text.replace("\n", " ") for right in DOCTOR)


def test_dispatchers_accept_the_settings_of_the_first_day() -> None:
    (container,) = objects()["Deployment"]["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert Settings(**told).execution_mode == "k8s_job"
    assert ClusterSettings(**told).executor_image in "\n".join(FIRST_DAY.blocks("sh"))
    assert told.keys() <= {
        *defaults(Settings.model_fields),
        *defaults(ClusterSettings.model_fields),
    }


def test_a_dispatcher_of_the_first_day_is_fit_for_pod_security_restricted() -> None:
    pod = objects()["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_images_of_the_docs_are_of_this_version() -> None:
    for page in (
        FIRST_DAY,
        Page("docs/howto/build-an-executor-image.md"),
        Page("workers/gpu-runner/README.md"),
        Page("workers/dispatcher/README.md"),
    ):
        tags = re.findall(r"(?:gpu-runner|gpuqueue-dispatcher):([\w.]+)", page.text)
        assert set(tags) == {__version__}, page.path


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", IMAGES.tables("## Allow other images")[0], ids=lambda row: row[0])
def test_image_patterns_allow_and_reject_the_listed_images(row: list[str]) -> None:
    pattern, let_in, kept_out = (re.findall(r"`([^`]+)`", cell) for cell in row)
    cluster = ClusterSettings(
        GPU_IMAGE_ALLOW=pattern[0] if pattern else "", GPU_EXECUTOR_IMAGE="registry.example/own:1"
    )
    for image in [*let_in, "registry.example/own:1"]:
        check_image(image, cluster, GpuClass("t4"))
    for image in kept_out or ([] if pattern else ["python:3.11"]):
        with pytest.raises(InvalidJob):
            check_image(image, cluster, GpuClass("t4"))


# -- manifests -------------------------------------------------------------------------------------


def job() -> dict[str, Any]:
    (text,) = JOB.blocks("yaml")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_job_of_the_docs_is_the_generated_manifest() -> None:
    shown_job = job()
    record = record_of(shown_job["metadata"]["annotations"])
    assert record is not None
    (container,) = shown_job["spec"]["template"]["spec"]["containers"]
    common = ManifestContext(shown_job["metadata"]["namespace"], record["owner"])
    cluster = ClusterSettings(GPU_EXECUTOR_IMAGE=container["image"])
    assert (
        attempt_manifest(record, GpuClass("t4", shared_slots=8, exclusive_slots=1), cluster, common)
        == shown_job
    )


def test_the_job_of_the_docs_has_no_field_that_kubernetes_does_not_know() -> None:
    assert client.ApiClient().sanitize_for_serialization(client.V1Job.from_dict(job())) == job()


def test_the_pod_template_of_the_docs_is_valid(tmp_path: Path) -> None:
    (text,) = TEMPLATE.blocks("yaml")
    file = tmp_path / "template.yaml"
    file.write_text(text)
    pod = job()["spec"]["template"]
    made = apply_template(load_pod_template(file), pod)
    assert made["metadata"]["labels"] == pod["metadata"]["labels"] | {"team": "vision"}
    (container,) = made["spec"]["containers"]
    assert container["image"] == "registry.example/shop:1"
    assert {"name": "HOME", "value": "/cache"} in container["env"]
    known = {volume["name"] for volume in made["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == known
    assert (
        client.ApiClient().sanitize_for_serialization(client.V1PodTemplateSpec.from_dict(made))
        == made
    )


def test_the_template_for_a_private_registry_names_the_secret(tmp_path: Path) -> None:
    page = Page("docs/howto/use-a-private-registry.md")
    (text,), (command,) = page.blocks("yaml"), page.blocks("sh")
    file = tmp_path / "template.yaml"
    file.write_text(text)
    made = apply_template(load_pod_template(file), job()["spec"]["template"])
    (secret,) = made["spec"]["imagePullSecrets"]
    assert f"create secret docker-registry {secret['name']} " in command
    assert f"imagePullSecrets: [{secret['name']}]" in page.text.replace(text, "")


# -- timeouts --------------------------------------------------------------------------------------


CLOCKS = {row[0]: row for row in TIMEOUTS.tables("# Timeouts on Kubernetes")[0]}
#: Timeout → a pod in that state, and the reason with which it ends (None: it does not end).
PODS: dict[str, tuple[Pod, EndReason | None]] = {
    "no node accepts the pod": (
        a_pod(node=None, conditions=[condition("PodScheduled", "False", "Unschedulable")]),
        EndReason.UNSCHEDULABLE,
    ),
    "pulling the image, mounting volumes": (
        a_pod(waiting("ContainerCreating")),
        EndReason.IMAGE,
    ),
    "an init container runs": (a_pod(inits=[running("fetch")]), EndReason.INFRA),
    "pulling the image keeps failing": (a_pod(waiting("ImagePullBackOff")), EndReason.IMAGE),
    "the container cannot be created, e.g. a Secret is missing": (
        a_pod(waiting("CreateContainerConfigError", 'secret "x" not found')),
        EndReason.BAD_SPEC,
    ),
    "a deleted pod has not ended": (a_pod(running(), phase="Running", deletion=DELETION), None),
}


def test_the_timeouts_of_the_docs_have_their_defaults() -> None:
    known = defaults(ClusterSettings.model_fields) | defaults(Settings.model_fields)
    named = {}
    for row in CLOCKS.values():
        for name in re.findall(r"`(GPU\w+)`", row[3]):
            named[name] = row[2]
            assert re.findall(r"\d+|none", row[2])[0] == known[name], row
    clocks = {
        name for name in defaults(ClusterSettings.model_fields) if re.search("TIMEOUT|GRACE", name)
    }
    assert named.keys() == clocks - {"GPU_API_TIMEOUT"} | {"GPUQUEUE_START_TIMEOUT"}


def test_the_reasons_of_the_timeouts_exist() -> None:
    for row in CLOCKS.values():
        for word in re.findall(r"`([A-Z_]+)`", row[4]):
            assert word == "UNCONFIRMED" or word in EndReason.__members__, row


@pytest.mark.parametrize(
    ("what", "pod", "verdict"), [(what, *each) for what, each in PODS.items()], ids=PODS
)
def test_a_pod_has_the_timeout_of_the_docs(what: str, pod: Pod, verdict: EndReason | None) -> None:
    seen, row = read_status(pod), CLOCKS[what]
    assert seen.verdict == verdict
    assert (verdict or "UNCONFIRMED") in row[4]
    # With a different value for each limit, the limit that applies belongs to the named setting.
    names = [
        name for name in defaults(ClusterSettings.model_fields) if re.search("TIMEOUT|GRACE", name)
    ]
    distinct = ClusterSettings(**{name: float(100 + place) for place, name in enumerate(names)})
    clocks = PodClocks(
        create_autospec(Requests), create_autospec(object), distinct, 7, 1000, lambda entry: None
    )
    grace = 1000 if verdict is None else 0
    (name,) = re.findall(r"`(\w+)`", row[3])
    assert clocks.limit(seen) == 100 + names.index(name) + grace
    assert ("*" in row[1]) == (seen.since is None)


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_an_impossible_image_fails_immediately(reason: str) -> None:
    seen, row = (
        read_status(a_pod(waiting(reason))),
        CLOCKS["the image name is invalid, or the image is absent and must not be pulled"],
    )
    assert (seen.at_once, seen.verdict, row[2], row[4]) == (
        True,
        EndReason.IMAGE,
        "immediate",
        "`IMAGE`",
    )


def test_the_deadline_of_the_docs_is_the_sum_of_its_limits() -> None:
    row = CLOCKS["the task runs, and no dispatcher is up"]
    assert row[2] == "its time limit, and the limits of pull, start and grace"
    cluster, settings = ClusterSettings(), Settings()
    allowed = 3600 + cluster.image_pull_timeout + settings.start_timeout + settings.grace_seconds
    assert job()["spec"]["template"]["spec"]["activeDeadlineSeconds"] == allowed


# -- ends ------------------------------------------------------------------------------------------

NODE = "node-a"
DRIVER = (
    "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch:"
    " unknown"
)
MISSING = 'unable to start container process: exec: "train": executable file not found in $PATH'


def failed(reason: str, message: str = "Pod was rejected: because") -> Pod:
    return a_pod(phase="Failed", reason=reason, message=message)


def by(target: str) -> Pod:
    return a_pod(ended(143), phase="Failed", conditions=[disrupted(target)])


#: Pod status in the docs → pods with that status.
ENDS: dict[str, list[Pod]] = {
    "exit code 0 without a report": [a_pod(ended(0, "Completed"), phase="Succeeded")],
    "DisruptionTarget `PreemptionByScheduler`": [by("PreemptionByScheduler")],
    "DisruptionTarget `DeletionByTaintManager`": [by("DeletionByTaintManager")],
    "DisruptionTarget `DeletionByPodGC`": [by("DeletionByPodGC")],
    "DisruptionTarget `EvictionByEvictionAPI` (a drain)": [by("EvictionByEvictionAPI")],
    "DisruptionTarget `TerminationByKubelet`": [by("TerminationByKubelet")],
    "`Evicted` because the pod exceeded its disk limit": [
        failed("Evicted", 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ')
    ],
    "`Evicted` because the node is short of resources": [
        failed("Evicted", "The node was low on resource: memory.")
    ],
    "`NodeLost`": [a_pod(running(), phase="Failed", reason="NodeLost")],
    "`NodeShutdown`, `Terminated`: the node shuts down": [
        failed("NodeShutdown"),
        failed("Terminated"),
    ],
    "`Preempting`: a critical pod needs the node": [failed("Preempting")],
    "`DeadlineExceeded`": [
        failed("DeadlineExceeded"),
        a_pod(ended(0), phase="Failed", reason="DeadlineExceeded"),
    ],
    "rejected by its node: it requests more than one share": [
        failed(
            "UnexpectedAdmissionError", "maximum request size for shared resources is 1; found 2"
        )
    ],
    "rejected by its node: `UnexpectedAdmissionError`, `NodeAffinity`, `OutOf…`": [
        failed("UnexpectedAdmissionError"),
        failed("NodeAffinity"),
        failed("OutOfcpu"),
    ],
    "`OOMKilled`": [a_pod(ended(137, "OOMKilled"))],
    "`StartError`, `ContainerCannotRun`: the image or its command": [
        a_pod(ended(128, "StartError", MISSING)),
        a_pod(ended(127, "ContainerCannotRun", MISSING)),
    ],
    "`StartError`, `ContainerCannotRun`: driver, runtime or disk of the node": [
        a_pod(ended(128, "StartError", DRIVER)),
        a_pod(ended(128, "ContainerCannotRun", "mkdir: no space left on device")),
    ],
    "`ContainerStatusUnknown`": [a_pod(ended(137, "ContainerStatusUnknown"), phase="Failed")],
    "deleted for no reason above: usually by hand": [a_pod(ended(143), deletion=DELETION)],
    "an init container failed": [
        a_pod(waiting("PodInitializing"), phase="Failed", inits=[ended(5, name="fetch")])
    ],
    "executor exit code 75: Redis is unreachable": [a_pod(ended(75))],
    "executor exit code 76: a newer attempt has replaced it": [a_pod(ended(76))],
    "executor exit code 77: the GPU failed": [a_pod(ended(77))],
    "executor exit code 78: its settings are wrong, or Redis rejects it": [a_pod(ended(78))],
    "any other exit code": [a_pod(ended(1)), a_pod(ended(139)), a_pod(ended(137))],
}
(BY_POD,) = ENDS_PAGE.tables("## Ends of a pod")
(BEFORE_A_POD,) = ENDS_PAGE.tables("## Ends without a pod status")


def test_every_row_of_the_table_of_ends_has_pods_here() -> None:
    first, *rows = BY_POD
    assert first[1:] == ["from the task", "from the task", ""]
    assert [row[0] for row in rows] == list(ENDS)


@pytest.mark.parametrize("row", BY_POD[1:], ids=lambda row: row[0])
def test_a_pod_ends_as_in_the_docs(row: list[str]) -> None:
    said, reason, result, again = (
        row[0],
        row[1].strip("`"),
        set(re.findall(r"`(\w+)`", row[2])),
        row[3],
    )
    for pod in ENDS[said]:
        end = read_status(pod).end
        assert end is not None, said
        assert end.reason == reason
        assert again == (
            "no"
            if end.reason not in TRY_AGAIN
            else "yes, elsewhere"
            if end.avoid == NODE
            else "yes"
        )
        assert result <= results(end.reason)


@pytest.mark.parametrize("row", BEFORE_A_POD, ids=lambda row: row[0])
def test_an_end_without_a_pod_has_the_error_of_the_docs(row: list[str]) -> None:
    reason, result = EndReason(row[1].strip("`")), set(re.findall(r"`(\w+)`", row[2]))
    assert result <= results(reason)
    assert (
        row[3] == ("yes" if reason in TRY_AGAIN else "no") or "forbids" in row[0]
    )  # a permanent rejection ends the job
    assert (reason in NEVER_AGAIN) == (row[3] == "no" and reason != EndReason.INFRA)


def results(reason: EndReason) -> set[str]:
    """Return the error types of a job before and after its executor has claimed it."""
    record: Record = {
        "id": "x",
        "task": "shop.train",
        "attempt": 3,
        "reason": reason,
        "error": "",
        "time_limit": 1.0,
    }
    taken: Record = {**record, "started": 1.0}
    return {type(exception_of(each)).__name__ for each in (record, taken)}


def test_every_error_in_the_docs_belongs_to_gpuqueue_or_celery() -> None:
    for row in [*BY_POD[1:], *BEFORE_A_POD]:
        for name in re.findall(r"`(\w+)`", row[2]):
            assert name == "TimeLimitExceeded" or issubclass(
                getattr(errors, name), errors.GpuQueueError
            )


# -- container jobs --------------------------------------------------------------------------------


def test_the_table_lists_the_arguments_of_a_container_job() -> None:
    assert [row[0] for row in CONTAINERS.table("## Arguments")] == list(ARGUMENTS)
    assert f"{LARGEST // 1024} KiB" in CONTAINERS.section("## Arguments")


def test_the_container_job_of_the_docs_is_valid() -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class App:
        send_task: Callable[..., None] = staticmethod(
            lambda name, **options: calls.append((name, options))
        )

    by_name, by_signature = CONTAINERS.blocks("python")
    exec(by_name.replace("from shop import app", ""), {"app": App})
    ((name, options),) = calls
    assert name == "gpuqueue.run"
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        seen: dict[str, Any] = {"app": app}
        exec(by_signature.replace("from shop import app", "").rpartition("result = ")[0], seen)
        assert (seen["job"].task, dict(seen["job"].kwargs)) == (name, options["kwargs"])
    image, container = parse_container((), options["kwargs"])
    assert image == "registry.example/render:2"
    assert container == {"command": ["render", "--frames", "100"], "env": {"SCENE": "7"}}


def test_defaults_are_shown_in_plain_notation() -> None:
    assert [shown(each) for each in (None, "", 60.0, 0.5, "python3 -m x", 16_384)] == [
        *("not set", "not set", "60", "0.5", "python3 -m x", "16384")
    ]
