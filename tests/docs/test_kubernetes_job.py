"""The Job and the pod template of the pages are the ones that dispatchers make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import attempt_manifest
from gpuqueue.launchers.kubernetes.manifest.names import record_of
from gpuqueue.launchers.kubernetes.manifest.pod_template import apply_template
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pages import Page

JOB = Page("docs/operate/kubernetes-job.md")
TEMPLATE = Page("docs/howto/pod-template.md")


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


def test_the_job_of_the_docs_has_only_fields_of_kubernetes() -> None:
    assert client.ApiClient().sanitize_for_serialization(client.V1Job.from_dict(job())) == job()


def test_the_pod_template_of_the_docs_is_valid(tmp_path: Path) -> None:
    text, _ = TEMPLATE.blocks("yaml")
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
    assert known == {"data", "cache", "gpuqueue-shm"}
    assert (
        client.ApiClient().sanitize_for_serialization(client.V1PodTemplateSpec.from_dict(made))
        == made
    )


def test_the_label_of_a_queue_of_the_cluster_is_valid(tmp_path: Path) -> None:
    _, text = TEMPLATE.blocks("yaml")
    file = tmp_path / "template.yaml"
    file.write_text(text)
    assert load_pod_template(file).job_labels == {"kueue.x-k8s.io/queue-name": "gpu-batch"}


def test_the_template_for_a_private_registry_names_the_secret(tmp_path: Path) -> None:
    page = Page("docs/howto/use-a-private-registry.md")
    (text,), (command,) = page.blocks("yaml"), page.blocks("sh")
    file = tmp_path / "template.yaml"
    file.write_text(text)
    made = apply_template(load_pod_template(file), job()["spec"]["template"])
    (secret,) = made["spec"]["imagePullSecrets"]
    assert f"create secret docker-registry {secret['name']} " in command
    assert f"imagePullSecrets: [{secret['name']}]" in page.text.replace(text, "")
