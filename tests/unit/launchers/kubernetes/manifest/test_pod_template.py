"""The pod template of the operator: how it is merged into a pod, and what it must not contain."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.environment import is_ours
from gpuqueue.launchers.kubernetes.manifest.job import (
    attempt_manifest,
    finisher_manifest,
)
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate, apply_template
from gpuqueue.launchers.kubernetes.manifest.template_rules.pod import parse_pod_template
from gpuqueue.launchers.kubernetes.manifest.template_rules.shape import without_nulls
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings

SECURED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
OURS: dict[str, Any] = {
    "metadata": {
        "labels": {"gpuqueue.io/owner": "prod"},
        "annotations": {"gpuqueue.io/record": "{}"},
    },
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100}]}
        },
        "containers": [
            {
                "name": "executor",
                "image": "x:1",
                "securityContext": SECURED,
                "resources": {
                    "requests": {"cpu": "1", "memory": "1Gi"},
                    "limits": {"nvidia.com/gpu": "1"},
                },
                "env": [{"name": "A", "value": "ours"}],
            }
        ],
    },
}


def over(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of our pod with this template spec merged into it."""
    merged: dict[str, Any] = apply_template(PodTemplate(spec=spec), OURS)["spec"]
    return merged


def executor(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "executor", **fields}]}


#: template spec → changed fields of the pod spec
MERGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a new field is added": ({"priorityClassName": "gpu"}, {"priorityClassName": "gpu"}),
    "a map is merged recursively": (
        {"securityContext": {"runAsUser": 7, "fsGroup": 8}},
        {"securityContext": {"runAsNonRoot": True, "runAsUser": 7, "fsGroup": 8}},
    ),
    "node labels are combined": (
        {"nodeSelector": {"disk": "ssd", "pool": "gpu"}},
        {"nodeSelector": {"pool": "gpu", "disk": "ssd"}},
    ),
    "tolerations are combined, each once": (
        {"tolerations": [{"operator": "Exists"}, {"key": "nvidia.com/gpu", "operator": "Exists"}]},
        {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}, {"operator": "Exists"}]},
    ),
    "preferred nodes are combined, so the faulty node is still avoided": (
        {
            "affinity": {
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
            }
        },
        {
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 100},
                        {"weight": 1},
                    ]
                }
            }
        },
    ),
    "required nodes are added to them": (
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}
                }
            }
        },
        {
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100}],
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]},
                }
            }
        },
    ),
    "volumes and pull secrets are added": (
        {"volumes": [{"name": "data", "emptyDir": {}}], "imagePullSecrets": [{"name": "registry"}]},
        {"volumes": [{"name": "data", "emptyDir": {}}], "imagePullSecrets": [{"name": "registry"}]},
    ),
    "a sidecar gets our security context": (
        {"initContainers": [{"name": "proxy", "image": "p:1", "restartPolicy": "Always"}]},
        {
            "initContainers": [
                {
                    "name": "proxy",
                    "image": "p:1",
                    "restartPolicy": "Always",
                    "securityContext": SECURED,
                }
            ]
        },
    ),
    "the security context of a sidecar is merged into ours": (
        {
            "initContainers": [
                {"name": "proxy", "image": "p:1", "securityContext": {"runAsUser": 7}}
            ]
        },
        {
            "initContainers": [
                {"name": "proxy", "image": "p:1", "securityContext": {**SECURED, "runAsUser": 7}}
            ]
        },
    ),
}
EXECUTOR_MERGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "variables come after ours": (
        {"env": [{"name": "B", "value": "$(A)"}]},
        {"env": [{"name": "A", "value": "ours"}, {"name": "B", "value": "$(A)"}]},
    ),
    "a variable of the same name is merged": (
        {"env": [{"name": "A", "value": "x"}]},
        {"env": [{"name": "A", "value": "x"}]},
    ),
    "sources of variables and mounts are added": (
        {
            "envFrom": [{"secretRef": {"name": "s"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        },
        {
            "envFrom": [{"secretRef": {"name": "s"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        },
    ),
    "resources other than the GPU": (
        {"resources": {"requests": {"memory": "8Gi"}, "limits": {"cpu": "4"}}},
        {
            "resources": {
                "requests": {"cpu": "1", "memory": "8Gi"},
                "limits": {"nvidia.com/gpu": "1", "cpu": "4"},
            }
        },
    ),
    "a read-only root filesystem": (
        {"securityContext": {"readOnlyRootFilesystem": True}},
        {"securityContext": {**SECURED, "readOnlyRootFilesystem": True}},
    ),
}


@pytest.mark.parametrize(("fields", "found"), MERGED.values(), ids=MERGED)
def test_template_is_merged_into_the_pod(fields: dict[str, Any], found: dict[str, Any]) -> None:
    assert over(fields) == {**OURS["spec"], **found}


@pytest.mark.parametrize(("fields", "found"), EXECUTOR_MERGED.values(), ids=EXECUTOR_MERGED)
def test_template_is_merged_into_the_executor(
    fields: dict[str, Any], found: dict[str, Any]
) -> None:
    assert over(executor(**fields)) == {
        **OURS["spec"],
        "containers": [{**OURS["spec"]["containers"][0], **found}],
    }


def test_labels_and_annotations_are_added_to_ours() -> None:
    assert apply_template(PodTemplate({"team": "ml"}, {"note": "x"}), OURS) == {
        "metadata": {
            "labels": {"gpuqueue.io/owner": "prod", "team": "ml"},
            "annotations": {"gpuqueue.io/record": "{}", "note": "x"},
        },
        "spec": OURS["spec"],
    }


def test_empty_template_changes_nothing() -> None:
    assert apply_template(PodTemplate(), OURS) == OURS


def test_lists_of_named_items_are_merged_by_name_in_order() -> None:
    volumes = {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}]}
    ours = {**OURS, "spec": {**OURS["spec"], **volumes}}
    fields = {
        "volumes": [{"name": "c", "emptyDir": {}}, {"name": "a", "emptyDir": {"medium": "Memory"}}]
    }
    assert apply_template(PodTemplate(spec=fields), ours)["spec"]["volumes"] == [
        {"name": "a", "emptyDir": {"medium": "Memory"}},
        {"name": "b", "emptyDir": {}},
        {"name": "c", "emptyDir": {}},
    ]


def test_applying_a_template_changes_neither_argument() -> None:
    template = PodTemplate(
        {"a": "b"},
        {},
        {**executor(env=[{"name": "B", "value": "x"}]), "tolerations": [{"operator": "Exists"}]},
    )
    before = copy.deepcopy((template, OURS))
    apply_template(template, OURS)
    assert before == (template, OURS)


def test_template_that_contradicts_the_node_selector_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"spec\.nodeSelector\.pool='cpu' contradicts 'gpu'"):
        over({"nodeSelector": {"pool": "cpu"}})


# -- foreign images --------------------------------------------------------------------------------


def test_foreign_image_gets_nothing_of_the_application() -> None:
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "key", "secret": {"secretName": "k"}},
        {"name": "token", "projected": {"sources": []}},
        {"name": "vault", "csi": {"driver": "secrets-store.csi.k8s.io"}},
    ]
    mounts = [{"name": each["name"], "mountPath": f"/{each['name']}"} for each in volumes]
    fields = {
        "serviceAccountName": "trainer",
        "volumes": volumes,
        **executor(
            env=[{"name": "A", "value": "x"}],
            envFrom=[{}],
            volumeMounts=mounts,
            resources={"limits": {"cpu": "4"}},
        ),
        "imagePullSecrets": [{"name": "registry"}],
    }
    given = PodTemplate({"team": "ml"}, {"note": "x"}, fields)
    before = copy.deepcopy(given)
    assert given.for_foreign_image() == PodTemplate(
        {"team": "ml"},
        {"note": "x"},
        {
            "volumes": volumes,
            **executor(volumeMounts=mounts[:2], resources={"limits": {"cpu": "4"}}),
            "imagePullSecrets": [{"name": "registry"}],
        },
    )
    assert given == before


def test_template_without_containers_is_unchanged_for_a_foreign_image() -> None:
    assert PodTemplate(spec={"priorityClassName": "gpu"}).for_foreign_image() == PodTemplate(
        spec={"priorityClassName": "gpu"}
    )


# -- allowed and forbidden fields ------------------------------------------------------------------

FULL: dict[str, Any] = {
    "metadata": {
        "labels": {"team": "ml", "empty": ""},
        "annotations": {"example.com/note": "any text: at all"},
    },
    "spec": {
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {
                "name": "token",
                "projected": {
                    "sources": [{"serviceAccountToken": {"path": "token", "audience": "vault"}}]
                },
            },
        ],
        "containers": [
            {
                "name": "executor",
                "env": [
                    {"name": "A", "value": "x"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
                "envFrom": [{"configMapRef": {"name": "c"}}],
                "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                "resources": {
                    "requests": {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "10Gi"},
                    "limits": {"cpu": "4"},
                },
                "imagePullPolicy": "IfNotPresent",
                "securityContext": {
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                    "privileged": False,
                },
            }
        ],
        "initContainers": [
            {
                "name": "proxy",
                "image": "registry.example/proxy:1",
                "restartPolicy": "Always",
                "command": ["x"],
            },
            {
                "name": "fetch",
                "image": "registry.example/fetch:1",
                "resources": {"limits": {"memory": "1Gi"}},
            },
        ],
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"key": "team", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["data"]}],
        "nodeSelector": {"disk": "ssd"},
        "affinity": {"podAffinity": {}},
        "securityContext": {
            "fsGroup": 1000,
            "runAsGroup": 1000,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "Localhost"},
        },
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "dnsPolicy": "ClusterFirst",
        "priorityClassName": "gpu",
        "runtimeClassName": "nvidia",
        "schedulerName": "packing",
        "serviceAccountName": "trainer",
        "shareProcessNamespace": False,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "hostNetwork": False,
    },
}


def test_template_can_set_every_allowed_field() -> None:
    assert parse_pod_template(FULL, "pod.yaml") == PodTemplate(
        FULL["metadata"]["labels"], FULL["metadata"]["annotations"], FULL["spec"]
    )


def test_template_can_be_a_pod_template_object() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "gpu"},
        "template": FULL,
    }
    assert parse_pod_template(document, "pod.yaml") == parse_pod_template(FULL, "pod.yaml")


@pytest.mark.parametrize(
    "document", [{}, {"spec": None}, {"metadata": {"labels": None}, "spec": {"volumes": None}}]
)
def test_key_without_a_value_has_no_effect(document: dict[str, Any]) -> None:
    assert parse_pod_template(document, "pod.yaml") == PodTemplate(
        spec=without_nulls(document.get("spec") or {})
    )


NO_TEMPLATES = {
    "nothing": (
        None,
        "is not a pod template but None; use {metadata: {labels, annotations}, spec: {...}, job: {",
    ),
    "a list": ([FULL], "is not a pod template but [{'metadata'"),
    "a Pod": (
        {"apiVersion": "v1", "kind": "Pod", "spec": {}},
        "is not a pod template but a v1 Pod; use",
    ),
    "a PodTemplate of another version": (
        {"apiVersion": "v2", "kind": "PodTemplate", "template": {}},
        "is not a pod template but a v2 PodTemplate; use",
    ),
    "a PodTemplate with a string": (
        {"apiVersion": "v1", "kind": "PodTemplate", "template": "x"},
        "is not a pod template but a v1",
    ),
}


@pytest.mark.parametrize(("document", "text"), NO_TEMPLATES.values(), ids=NO_TEMPLATES)
def test_document_that_is_not_a_pod_template_is_refused(document: Any, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_pod_template(document, "pod.yaml")
    assert str(caught.value).startswith(f"GPUQUEUE_POD_TEMPLATE='pod.yaml' {text}")


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def of_executor(**fields: Any) -> dict[str, Any]:
    return pod(**executor(**fields))


def sidecar(**fields: Any) -> dict[str, Any]:
    return pod(initContainers=[{"name": "proxy", "image": "p:1", **fields}])


NOT_ALLOWED = "is not allowed in a pod template"
RESTRICTED = 'leave it out: Pod Security "restricted" forbids it'
TOLERATION = "use e.g. {key: team, operator: Exists, effect: NoSchedule}"
AMOUNTS = "cpu, memory, ephemeral-storage; the class sets the GPU"
AT, INIT = "spec.containers[0]", "spec.initContainers[0]"
#: problem → template, and the whole message after the file name
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a field other than metadata and spec": (
        {"status": {}},
        f"status={{}} {NOT_ALLOWED}; allowed: job, metadata, spec",
    ),
    "a pod name": (
        {"metadata": {"name": "x"}},
        f"metadata.name='x' {NOT_ALLOWED}; allowed: annotations, labels",
    ),
    "a field of a Job other than its metadata": (
        {"job": {"spec": {"suspend": True}}},
        f"job.spec={{'suspend': True}} {NOT_ALLOWED}; allowed: metadata",
    ),
    "the name of a Job": (
        {"job": {"metadata": {"name": "x"}}},
        f"job.metadata.name='x' {NOT_ALLOWED}; allowed: annotations, labels",
    ),
    "a label of gpuqueue for the Job": (
        {"job": {"metadata": {"labels": {"gpuqueue.io/owner": "x"}}}},
        f"job.metadata.labels.gpuqueue.io/owner='x' {NOT_ALLOWED}; use another key",
    ),
    "a number for a label of the Job": (
        {"job": {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": 1}}}},
        (
            "job.metadata.labels.kueue.x-k8s.io/queue-name=1 is not a valid value; quote it; a"
            " label value has up to 63 letters, digits, '.', '_', '-'"
        ),
    ),
    "an annotation of gpuqueue for the Job": (
        {"job": {"metadata": {"annotations": {"gpuqueue.io/record": "{}"}}}},
        f"job.metadata.annotations.gpuqueue.io/record='{{}}' {NOT_ALLOWED}; use another key",
    ),
    "a Job that is a list": (
        {"job": []},
        "job=[] is not a map; see the reference of pods of Kubernetes for its type",
    ),
    "a spec that is a list": (
        {"spec": []},
        "spec=[] is not a map; see the reference of pods of Kubernetes for its type",
    ),
    "a label of gpuqueue": (
        {"metadata": {"labels": {"gpuqueue.io/owner": "x"}}},
        f"metadata.labels.gpuqueue.io/owner='x' {NOT_ALLOWED}; use another key",
    ),
    "an annotation of gpuqueue": (
        {"metadata": {"annotations": {"gpuqueue.io/record": "{}"}}},
        f"metadata.annotations.gpuqueue.io/record='{{}}' {NOT_ALLOWED}; use another key",
    ),
    "the managed-by label": (
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}},
        f"metadata.labels.app.kubernetes.io/managed-by='helm' {NOT_ALLOWED}; use another key",
    ),
    "the job-name label": (
        {"metadata": {"labels": {"batch.kubernetes.io/job-name": "x"}}},
        f"metadata.labels.batch.kubernetes.io/job-name='x' {NOT_ALLOWED}; use another key",
    ),
    "a number for a label": (
        {"metadata": {"labels": {"version": 1}}},
        (
            "metadata.labels.version=1 is not a valid value; quote it; a label value has up to 63"
            " letters, digits, '.', '_', '-'"
        ),
    ),
    "a label with an invalid key": (
        {"metadata": {"labels": {"a b": "x"}}},
        "metadata.labels.a b='x' has an invalid key; use name or dns.prefix/name",
    ),
    "a second container": (
        pod(containers=[{"name": "proxy", "image": "p:1"}]),
        (
            "spec.containers[0].name='proxy' is a second container, which would keep"
            " the pod from ending; name it 'executor', or move it to initContainers with"
            " restartPolicy: Always"
        ),
    ),
    "two executors": (
        pod(containers=[{"name": "executor"}, {"name": "executor"}]),
        "spec.containers[1].name='executor' is a duplicate; remove one of the two",
    ),
    "a pod that restarts": (
        pod(restartPolicy="OnFailure"),
        (
            f"spec.restartPolicy='OnFailure' {NOT_ALLOWED}; leave it out: a pod runs once, and"
            " Celery owns retries"
        ),
    ),
    "a service account token": (
        pod(automountServiceAccountToken=True),
        (
            f"spec.automountServiceAccountToken=True {NOT_ALLOWED}; mount a token with a"
            " projected volume (serviceAccountToken)"
        ),
    ),
    "a deadline": (
        pod(activeDeadlineSeconds=60),
        f"spec.activeDeadlineSeconds=60 {NOT_ALLOWED}; leave it out: the time_limit of the job"
        " sets it",
    ),
    "a grace period": (
        pod(terminationGracePeriodSeconds=60),
        f"spec.terminationGracePeriodSeconds=60 {NOT_ALLOWED}; set GPUQUEUE_GRACE_SECONDS",
    ),
    "a node by name": (
        pod(nodeName="n1"),
        (
            f"spec.nodeName='n1' {NOT_ALLOWED}; use nodeSelector or affinity: the scheduler"
            " counts the"
            " GPUs"
        ),
    ),
    "the node's network": (
        pod(hostNetwork=True),
        f"spec.hostNetwork=True {NOT_ALLOWED}; {RESTRICTED}",
    ),
    "the node's processes": (pod(hostPID=True), f"spec.hostPID=True {NOT_ALLOWED}; {RESTRICTED}"),
    "the node's memory": (pod(hostIPC=True), f"spec.hostIPC=True {NOT_ALLOWED}; {RESTRICTED}"),
    "a shared process namespace": (
        pod(shareProcessNamespace=True),
        (
            f"spec.shareProcessNamespace=True {NOT_ALLOWED}; leave it out: the executor must be"
            " the first process of its container"
        ),
    ),
    "a number for a name": (
        pod(priorityClassName=7),
        "spec.priorityClassName=7 is not a string; see the reference of pods of Kubernetes for"
        " its type",
    ),
    "a hostPath volume": (
        pod(volumes=[{"name": "d", "hostPath": {"path": "/"}}]),
        (
            "spec.volumes[0]={'name': 'd', 'hostPath': {'path': '/'}} is not an allowed volume;"
            " use one of configMap, csi, downwardAPI, emptyDir, ephemeral,"
            ' persistentVolumeClaim, projected, secret: Pod Security "restricted" forbids others'
        ),
    ),
    "a volume without a name": (
        pod(volumes=[{"emptyDir": {}}]),
        (
            "spec.volumes[0]={'emptyDir': {}} has no name; set its name; "
            "spec.volumes[0].name=None is not a valid volume name; use lower-case letters,"
            " digits and '-'"
        ),
    ),
    "an invalid toleration": (
        pod(tolerations=[{"key": "a"}, {"key": "a", "operator": "In"}, "all"]),
        (
            "spec.tolerations[1]={'key': 'a', 'operator': 'In'} has the unknown operator 'In';"
            f" {TOLERATION}; spec.tolerations[2]='all' is not a table; {TOLERATION}"
        ),
    ),
    "true for a node label": (
        pod(nodeSelector={"gpu": True}),
        "spec.nodeSelector={'gpu': True} does not map labels to values; quote its values",
    ),
    "an image for the executor": (
        of_executor(image="x:1"),
        f"{AT}.image='x:1' {NOT_ALLOWED}; set GPU_EXECUTOR_IMAGE, or image of a class",
    ),
    "a command for the executor": (
        of_executor(command=["x"]),
        f"{AT}.command=['x'] {NOT_ALLOWED}; set GPU_EXECUTOR_COMMAND",
    ),
    "arguments for the executor": (
        of_executor(args=["x"]),
        f"{AT}.args=['x'] {NOT_ALLOWED}; set GPU_EXECUTOR_COMMAND",
    ),
    "another termination message policy": (
        of_executor(terminationMessagePolicy="File"),
        (
            f"{AT}.terminationMessagePolicy='File' {NOT_ALLOWED}; leave it out: errors of jobs"
            " quote the end of the log"
        ),
    ),
    "a probe of the executor": (
        of_executor(livenessProbe={}),
        (
            f"{AT}.livenessProbe={{}} {NOT_ALLOWED}; allowed: env, envFrom, imagePullPolicy, name,"
            " resources, securityContext, volumeMounts"
        ),
    ),
    "a variable of gpuqueue": (
        of_executor(env=[{"name": "GPUQUEUE_TOKEN", "value": "x"}]),
        (
            f"{AT}.env[0].name='GPUQUEUE_TOKEN' {NOT_ALLOWED}; leave it out: the dispatcher, its"
            " Secret or the device plugin sets it"
        ),
    ),
    "a number for a variable": (
        of_executor(env=[{"name": "A", "value": "1"}, {"name": "PORT", "value": 80}]),
        f"{AT}.env[1].value=80 is not a string; quote it",
    ),
    "a duplicate variable": (
        of_executor(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        f"{AT}.env[1].name='A' is a duplicate; remove one of the two",
    ),
    "a mount without a volume": (
        of_executor(volumeMounts=[{"mountPath": "/x"}]),
        f"{AT}.volumeMounts[0].name=None is not a volume name; use a name from volumes",
    ),
    "a GPU": (
        of_executor(resources={"limits": {"nvidia.com/gpu": "2"}}),
        f"{AT}.resources.limits.nvidia.com/gpu='2' {NOT_ALLOWED}; allowed: {AMOUNTS}",
    ),
    "a claim that the pod does not have": (
        of_executor(resources={"claims": [{"name": "x"}]}),
        f"{AT}.resources.claims[0].name='x' is not a claim; use the name of one of"
        " spec.resourceClaims",
    ),
    "a claim without a source": (
        pod(resourceClaims=[{"name": "gpu"}]),
        (
            "spec.resourceClaims[0]={'name': 'gpu'} does not have one source; set"
            " resourceClaimTemplateName or resourceClaimName: a template gives each pod a claim,"
            " and pods share a named claim"
        ),
    ),
    "a claim of an older API": (
        pod(resourceClaims=[{"name": "gpu", "source": {"resourceClaimName": "x"}}]),
        (
            f"spec.resourceClaims[0].source={{'resourceClaimName': 'x'}} {NOT_ALLOWED}; allowed:"
            " name, resourceClaimName, resourceClaimTemplateName; spec.resourceClaims[0]={'name':"
            " 'gpu', 'source': {'resourceClaimName': 'x'}} does not have one source; set"
            " resourceClaimTemplateName or resourceClaimName: a template gives each pod a claim,"
            " and pods share a named claim"
        ),
    ),
    "a claim with an invalid name": (
        pod(resourceClaims=[{"name": "GPU", "resourceClaimName": "x"}]),
        "spec.resourceClaims[0].name='GPU' is not a valid name of a claim; use lower-case letters,"
        " digits and '-'",
    ),
    "two claims of one name": (
        pod(resourceClaims=[{"name": "a", "resourceClaimName": "x"}] * 2),
        "spec.resourceClaims[1].name='a' is a duplicate; remove one of the two",
    ),
    "a claim of an init container that the pod does not have": (
        sidecar(resources={"claims": [{"name": "x"}]}),
        f"{INIT}.resources.claims[0].name='x' is not a claim; use the name of one of"
        " spec.resourceClaims",
    ),
    "the volume of the shared memory": (
        pod(volumes=[{"name": "gpuqueue-shm", "emptyDir": {}}]),
        f"spec.volumes[0].name='gpuqueue-shm' {NOT_ALLOWED}; use another name; set shm_size of the"
        " class, or GPU_SHM_SIZE",
    ),
    "an invalid quantity": (
        of_executor(resources={"requests": {"cpu": 2, "memory": "8GiB"}}),
        (
            f"{AT}.resources.requests.cpu=2 is not a quantity; quote it, e.g. '500m' or '2Gi';"
            f" {AT}.resources.requests.memory='8GiB' is not a quantity; quote it, e.g. '500m' or"
            " '2Gi'"
        ),
    ),
    "privileges": (
        of_executor(securityContext={"privileged": True}),
        f"{AT}.securityContext.privileged=True {NOT_ALLOWED}; {RESTRICTED}",
    ),
    "privilege escalation": (
        of_executor(securityContext={"allowPrivilegeEscalation": True}),
        f"{AT}.securityContext.allowPrivilegeEscalation=True {NOT_ALLOWED}; {RESTRICTED}",
    ),
    "root": (
        pod(securityContext={"runAsUser": 0}),
        "spec.securityContext.runAsUser=0 is root; use another number, or set GPU_RUN_AS_USER",
    ),
    "a user that may be root": (
        pod(securityContext={"runAsNonRoot": False}),
        f"spec.securityContext.runAsNonRoot=False {NOT_ALLOWED}; {RESTRICTED}",
    ),
    "no seccomp filter": (
        pod(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        (
            "spec.securityContext.seccompProfile.type='Unconfined' is unconfined; use"
            " RuntimeDefault or Localhost"
        ),
    ),
    "a capability": (
        of_executor(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        (
            f"{AT}.securityContext.capabilities.add=['SYS_ADMIN'] adds more than NET_BIND_SERVICE;"
            f" {RESTRICTED}"
        ),
    ),
    "capabilities kept": (
        of_executor(securityContext={"capabilities": {"drop": ["CHOWN"]}}),
        (
            f"{AT}.securityContext.capabilities.drop=['CHOWN'] does not drop ALL; leave it out: all"
            " are dropped"
        ),
    ),
    "an init container named executor": (
        sidecar(name="executor"),
        (
            f"{INIT}.name='executor' is not a valid name of an init container; use lower-case"
            " letters, digits and '-', but not 'executor'"
        ),
    ),
    "an init container without an image": (
        sidecar(image=None),
        f"{INIT}.image=None is not an image reference; use e.g. registry.example/proxy:1",
    ),
    "an init container that restarts on failure": (
        sidecar(restartPolicy="OnFailure"),
        (
            f"{INIT}.restartPolicy='OnFailure' is not allowed for an init container; use Always"
            " for a sidecar, or leave it out if it ends before the executor starts"
        ),
    ),
    "a GPU for a sidecar": (
        sidecar(resources={"limits": {"nvidia.com/gpu": "1"}}),
        f"{INIT}.resources.limits.nvidia.com/gpu='1' {NOT_ALLOWED}; allowed: {AMOUNTS}",
    ),
    "a privileged sidecar": (
        sidecar(securityContext={"privileged": True}),
        f"{INIT}.securityContext.privileged=True {NOT_ALLOWED}; {RESTRICTED}",
    ),
}


@pytest.mark.parametrize(("document", "text"), REFUSED.values(), ids=REFUSED)
def test_forbidden_field_is_refused(document: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_pod_template(document, "pod.yaml")
    assert str(caught.value) == f"GPUQUEUE_POD_TEMPLATE='pod.yaml': {text}"


def test_path_in_a_pod_template_object_starts_at_template() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "template": {"metadata": {"name": "x"}, "spec": {"hostPID": True}},
    }
    with pytest.raises(
        SettingsError,
        match=r"'pod\.yaml': template\.metadata\.name='x' .*; template\.spec\.hostPID=True ",
    ):
        parse_pod_template(document, "pod.yaml")


@pytest.mark.parametrize("kind", [False, True], ids=["a plain template", "a PodTemplate object"])
def test_template_has_labels_and_annotations_for_the_job(kind: bool) -> None:
    job = {
        "metadata": {
            "labels": {"kueue.x-k8s.io/queue-name": "gpu"},
            "annotations": {"note": "x"},
        }
    }
    pods: dict[str, Any] = {"metadata": {"labels": {"team": "ml"}}}
    document = (
        {"apiVersion": "v1", "kind": "PodTemplate", "template": pods, "job": job}
        if kind
        else pods | {"job": job}
    )
    assert parse_pod_template(document, "pod.yaml") == PodTemplate(
        {"team": "ml"},
        job_labels={"kueue.x-k8s.io/queue-name": "gpu"},
        job_annotations={"note": "x"},
    )


def test_section_of_jobs_is_checked_beside_a_pod_template_object() -> None:
    document = {"apiVersion": "v1", "kind": "PodTemplate", "template": {}, "job": "gpu"}
    with pytest.raises(SettingsError, match=r"pod\.yaml': job='gpu' is not a map"):
        parse_pod_template(document, "pod.yaml")


def test_error_for_an_unknown_field_lists_the_allowed_fields() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_pod_template(pod(priorityClass="gpu"), "pod.yaml")
    assert (
        f"spec.priorityClass='gpu' {NOT_ALLOWED}; allowed: affinity, containers, dnsConfig"
        in str(caught.value)
    )
    assert "priorityClassName" in str(caught.value)


def test_error_shows_only_the_start_of_a_long_value() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_pod_template(pod(restartPolicy="x" * 1000), "pod.yaml")
    assert f"spec.restartPolicy='{'x' * 76}... {NOT_ALLOWED}" in str(caught.value)


def test_template_cannot_set_variables_of_the_executor() -> None:
    record: Record = {
        "delivery": "a",
        "id": "a",
        "task": "t",
        "gpu_class": "t4",
        "isolation": "shared",
        "attempt": 1,
        "token": "t",
        "time_limit": 1.0,
        "tenant": "x",
        "retries": 1,
        "nesting": 1,
    }
    common, settings = ManifestContext("n", "o", app="shop"), ClusterSettings(executor_image="x:1")
    made = finisher_manifest(record, "f", 1, GpuClass("t4"), settings, common)
    names = {each["name"] for each in made["spec"]["template"]["spec"]["containers"][0]["env"]}
    # PYTHONUNBUFFERED is harmless, and users may prefer another value.
    assert {name for name in names if not is_ours(name)} == {"PYTHONUNBUFFERED"}


def test_pod_with_a_full_template_stays_restricted() -> None:
    record: Record = {
        "delivery": "a",
        "id": "a",
        "task": "t",
        "gpu_class": "t4",
        "isolation": "shared",
        "attempt": 1,
        "token": "t",
    }
    common = ManifestContext("n", "o", pod_template=parse_pod_template(FULL, "pod.yaml"))
    made = attempt_manifest(record, GpuClass("t4"), ClusterSettings(executor_image="x:1"), common)
    spec = made["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_required_nodes_must_meet_both() -> None:
    """So a pod stays off a node that is set aside, whichever term of the template it meets."""
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    away, name = {"key": "metadata.name", "operator": "NotIn"}, {"key": "metadata.name"}
    terms = [{"matchExpressions": [{"key": "zone"}]}, {"matchFields": [name]}, {}]

    def requiring(*terms: dict[str, Any]) -> dict[str, Any]:
        return {"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": [*terms]}}}}

    ours = {**OURS, "spec": {**OURS["spec"], **requiring({"matchFields": [away]})}}
    merged = apply_template(PodTemplate(spec=requiring(*terms)), ours)["spec"]
    assert merged["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] == [
        {"matchExpressions": [{"key": "zone"}], "matchFields": [away]},
        {"matchFields": [away, name]},
        {},
    ]
