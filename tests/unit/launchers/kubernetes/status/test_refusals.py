"""What a refusal is about: the job that met it, or every job of its class."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.answers import EventEvent
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.status.pod_events import with_problem
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.launchers.kubernetes.status.refusals import (
    is_absent,
    is_own_fault,
    kind_of_refusal,
    of_its_class,
    with_fix,
    without_own_fault,
)
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from tests.support.pod_objects import a_pod, lines, pod_events, waiting

PLAIN = cast(Record, {"task": "shop.add"})
LIMITED = cast(Record, {"task": "shop.add", "time_limit": 60.0})
NAMED = cast(Record, {"task": "shop.add", "image": "far.example/train:7"})
CONTAINER = cast(Record, {"task": "gpuqueue.run", "image": "far.example/train:7"})
POD = "spec.template.spec"


@pytest.mark.parametrize(
    ("record", "status", "fields", "own"),
    [
        (PLAIN, 422, [], False),  # a ValidatingAdmissionPolicy
        (NAMED, 422, [], False),
        (NAMED, 422, [f"{POD}.containers[0].image"], True),
        (PLAIN, 422, [f"{POD}.containers[0].image"], False),  # the image of the class
        (LIMITED, 422, [f"{POD}.activeDeadlineSeconds"], True),
        (PLAIN, 422, [f"{POD}.activeDeadlineSeconds"], False),
        (NAMED, 422, [f"{POD}.containers[0].image", f"{POD}.tolerations[0].effect"], False),
        (CONTAINER, 422, [f"{POD}.containers[0].env[3].name"], True),
        (CONTAINER, 422, [f"{POD}.containers[0].resources.limits"], False),
        (PLAIN, 422, [f"{POD}.containers[0].env[3].name"], False),
        (PLAIN, 422, ["metadata.annotations"], True),  # too long
        (PLAIN, 422, ["spec.template.metadata.labels"], False),  # of the pod template
        (PLAIN, 400, [], False),
        (PLAIN, 403, [], False),
        (PLAIN, 413, [], True),
    ],
)
def test_a_refused_job_is_at_fault_only_for_what_it_has_set(
    record: Record, status: int, fields: list[str], own: bool
) -> None:
    assert is_own_fault(status, fields, record, denied=False) is own


@pytest.mark.parametrize(
    ("status", "message", "fields", "own"),
    [
        # The reason RequestEntityTooLarge of a ValidatingAdmissionPolicy.
        (413, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: big", [], False),
        (413, 'admission webhook "w.io" denied the request: too big', [], False),
        (422, 'admission webhook "w.io" denied the request', ["metadata.labels[team]"], False),
        (422, 'admission webhook "w.io" denied the request', [f"{POD}.containers[0].image"], True),
    ],
)
def test_what_a_policy_demands_of_all_jobs_is_no_fault_of_one(
    status: int, message: str, fields: list[str], own: bool
) -> None:
    error = ApiError(message, status=status, fields=fields)
    assert is_own_fault(error.status, error.fields, NAMED, denied=error.denied) is own


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('jobs.batch "x" is forbidden: exceeded quota: jobs, requested: 1', PlaceKind.QUOTA),
        ('pods "x" is forbidden: failed quota: cpu: must specify limits.cpu', PlaceKind.QUOTA),
        ('jobs.batch is forbidden: User "u" cannot create resource "jobs"', PlaceKind.LAUNCH),
        ("insufficient quota to match these scopes: [{PriorityClass In [gold]}]", PlaceKind.QUOTA),
        ("status unknown for quota: gpus, resources: count/jobs.batch", PlaceKind.QUOTA),
        ('namespaces "x" not found', PlaceKind.LAUNCH),
        ('Internal error occurred: failed calling webhook "w"', PlaceKind.LAUNCH),
        ("no PriorityClass with name gold was found", PlaceKind.LAUNCH),
    ],
)
def test_a_refusal_holds_the_quota_or_the_launch(message: str, kind: PlaceKind) -> None:
    assert kind_of_refusal(message) == kind


WHOLE = 'failed to pull and unpack image "r.io/a:7": failed to resolve reference "r.io/a:7":'


@pytest.mark.parametrize(
    ("message", "absent"),
    [
        (f"rpc error: code = NotFound desc = {WHOLE} r.io/a:7: not found", True),
        (f"{WHOLE} r.io/a:7: not found", True),
        ("reading manifest 7 in r.io/a: manifest unknown", True),
        ("Error response from daemon: manifest for r.io/a:7 not found", True),
        (f"{WHOLE} pulling from host r.io failed with status code [manifests 7]: 404 Not F", True),
        (f"{WHOLE} pulling from host r.io failed with status code [manifests 7]: 401 Una", False),
        (f"{WHOLE} pulling from host r.io failed with status code [manifests 7]: 429 Too", False),
        (f"{WHOLE} pulling from host r.io failed with status code [manifests 7]: 503 Ser", False),
        (f'{WHOLE} failed to do request: Head "https://r.io": lookup r.io: no such host', False),
        (f'{WHOLE} failed to do request: Head "https://r.io": i/o timeout', False),
        (f"{WHOLE} dial tcp 127.0.0.1:1: connect: connection refused", False),
        ("pull access denied, repository may require authorization: unauthorized", False),
        ("code = NotFound desc = failed to prepare snapshot sha256:1: not found", False),
        ("failed open: content at https://r.io/v2/a/blobs/sha256:1: not found", False),
        ('failed to resolve reference "r.io/player:7": r.io/player:7: not found', True),
    ],
)
def test_only_a_registry_that_has_no_such_image_says_that_it_is_absent(
    message: str, absent: bool
) -> None:
    assert is_absent(message) is absent


GONE = f"{WHOLE} r.io/a:7: not found"
#: The words of containerd for a GPU that is gone, and for a hostPath that is: from bug reports.
SPEC = 'failed to generate container "1f" spec: failed to generate spec:'
NO_DEVICE = f"{SPEC} lstat /run/nvidia/driver/dev/nvidiactl: no such file or directory"
NO_FOLDER = f'{SPEC} failed to stat "/data": stat /data: no such file or directory'
AWAY = f"{WHOLE} pulling from host r.io failed with status code [manifests 7]: 503 Service"


@pytest.mark.parametrize(
    ("reason", "message", "record", "holds"),
    [
        ("ErrImagePull", GONE, NAMED, None),
        ("ImagePullBackOff", f"Back-off: ErrImagePull: {GONE}", NAMED, None),
        ("ErrImagePull", GONE, PLAIN, PlaceKind.IMAGE),
        ("ErrImagePull", AWAY, NAMED, PlaceKind.IMAGE),
        ("ErrImagePull", AWAY, CONTAINER, PlaceKind.IMAGE),
        ("InvalidImageName", "couldn't parse image name", NAMED, None),
        ("InvalidImageName", "couldn't parse image name", PLAIN, PlaceKind.IMAGE),
        ("ErrImageNeverPull", "not present with pull policy of Never", NAMED, PlaceKind.IMAGE),
        ("CreateContainerConfigError", 'secret "x" not found', NAMED, PlaceKind.PODS),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will", NAMED, None),
        ("ErrImagePull", "write /var/lib/x: no space left on device", PLAIN, None),  # of the node
        ("CreateContainerError", "failed to reserve container name", CONTAINER, PlaceKind.PODS),
        ("CreateContainerError", "no command specified", CONTAINER, None),
        ("CreateContainerError", "no command specified", PLAIN, PlaceKind.PODS),
        ("CreateContainerError", "no space left on device", PLAIN, None),  # of the node
        ("CreateContainerError", NO_DEVICE, CONTAINER, None),  # of the node
        ("CreateContainerError", NO_FOLDER, CONTAINER, PlaceKind.PODS),
    ],
)
def test_a_container_that_does_not_start_holds_what_others_would_meet(
    reason: str, message: str, record: Record, holds: PlaceKind | None
) -> None:
    seen = read_status(a_pod(waiting(reason, message)))
    assert without_own_fault(seen, record).holds == holds


@pytest.mark.parametrize("record", [PLAIN, NAMED, CONTAINER])
def test_a_device_that_is_missing_on_a_node_is_a_fault_of_the_node(record: Record) -> None:
    seen = without_own_fault(read_status(a_pod(waiting("CreateContainerError", NO_DEVICE))), record)
    assert (seen.verdict, seen.holds) == (EndReason.INFRA, None)


@pytest.mark.parametrize(
    ("reason", "message", "holds"),
    [
        ("CrashLoopBackOff", "back-off 10s restarting failed container", PlaceKind.PODS),
        ("ErrImagePull", "mesh/proxy:9: not found", PlaceKind.IMAGE),
        ("InvalidImageName", "couldn't parse image name", PlaceKind.IMAGE),
    ],
)
def test_an_injected_container_that_does_not_start_is_no_fault_of_the_job(
    reason: str, message: str, holds: PlaceKind
) -> None:
    pod = a_pod(waiting("PodInitializing"), inits=[waiting(reason, message, "mesh-proxy")])
    assert without_own_fault(read_status(pod), NAMED).holds == holds


@pytest.mark.parametrize(
    ("recording", "kind", "fix"),
    [
        ("policy_refuses_pod", PlaceKind.LAUNCH, ""),
        ("quota_refuses_pod", PlaceKind.QUOTA, ""),
        (
            "quota_demands_limits",
            PlaceKind.QUOTA,
            "; set limits.cpu in pod_template.spec.containers of the class, or in"
            " GPUQUEUE_POD_TEMPLATE",
        ),
    ],
)
def test_a_refused_pod_holds_the_class_with_what_helps(
    recording: str, kind: PlaceKind, fix: str
) -> None:
    line = next(line for line in lines(recording, "events") if b"FailedCreate" in line)
    message = msgspec.json.decode(line, type=EventEvent).object.message or ""
    assert (kind_of_refusal(message), with_fix(message)) == (kind, message + fix)


@pytest.mark.parametrize("record", [PLAIN, NAMED, CONTAINER])
@pytest.mark.parametrize("recording", ["volume_missing", "runtime_class_unknown"])
def test_what_a_pod_names_and_is_missing_holds_the_class(recording: str, record: Record) -> None:
    events = [
        msgspec.json.decode(line, type=EventEvent).object for line in lines(recording, "events")
    ]
    (pods,) = pod_events(recording)
    states = [read_status(each.object) for each in pods]
    prepared = next(each for each in states if each.clock == "sandbox")
    found = without_own_fault(with_problem(prepared, events), record)
    assert (found.clock, found.verdict) == ("config_error", EndReason.BAD_SPEC)
    assert found.holds == PlaceKind.PODS and "absent" in found.detail


@pytest.mark.parametrize(
    ("reason", "record", "blames"),
    [
        (EndReason.BAD_SPEC, PLAIN, PlaceKind.PODS),
        (EndReason.BAD_SPEC, NAMED, ""),
        (EndReason.BAD_SPEC, CONTAINER, ""),
        (EndReason.ERROR, PLAIN, ""),
    ],
)
def test_an_image_of_the_class_that_cannot_be_started_holds_the_class(
    reason: EndReason, record: Record, blames: str
) -> None:
    assert of_its_class(End(reason, "x"), record).blames == blames
