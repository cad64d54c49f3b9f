"""The settings of dispatchers in the manifests are valid: known names, working classes, and queues
of these classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flower.options import options as flower_options

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.environment import SECRET_KEYS
from gpuqueue.launchers.kubernetes.manifest.job import attempt_manifest
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template
from gpuqueue.model.names import CHOOSING, parse_queue
from gpuqueue.model.record import Record
from gpuqueue.settings.classes import configured, rules_of_tenants
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.deploy.rendering import EVERYTHING, Object, Objects, overlay, render, settings_of
from tests.deploy.test_schemas import NEWEST, OLDEST, check
from tests.support.pages import defaults

#: What boto3 reads for the log sink.
SINK = {
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
}
KNOWN = {*defaults(Settings.model_fields), *defaults(ClusterSettings.model_fields)}


def dispatchers(found: Objects) -> Iterator[tuple[str, Object]]:
    for name, pod in found.pods():
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "dispatcher":
            yield name, pod


def files(found: Objects, pod: Object, folder: Path) -> dict[str, str]:
    """Write the ConfigMaps of the pod to files; return the paths in the pod → the files."""
    (container,) = pod["spec"]["containers"]
    maps = {
        each["name"]: each["configMap"]["name"]
        for each in pod["spec"]["volumes"]
        if "configMap" in each
    }
    laid = {}
    for mount in container["volumeMounts"]:
        if mount["name"] in ("pod-template", "classes", "tenants"):
            for name, text in found.one("ConfigMap", maps[mount["name"]])["data"].items():
                file = folder / name
                file.write_text(text)
                laid[f"{mount['mountPath']}/{name}"] = str(file)
    return laid


def read(found: Objects, pod: Object, folder: Path) -> tuple[Settings, ClusterSettings]:
    """Return the settings as a dispatcher of this pod reads them."""
    laid = files(found, pod, folder)
    told: dict[str, Any] = {
        name: laid.get(text, text) for name, text in settings_of(found, pod).items()
    }
    return Settings(**told, CELERY_BROKER_URL="redis://redis.example:6379/0"), ClusterSettings(
        **told
    )


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_every_setting_of_a_dispatcher_is_one_that_the_code_reads(source: str, name: str) -> None:
    found = render(source, name)
    for workload, pod in dispatchers(found):
        (container,) = pod["spec"]["containers"]
        told = {
            *settings_of(found, pod),
            *(each["name"] for each in container["env"] if "valueFrom" in each),
        }
        ours = {each for each in told if each.startswith(("GPU", "T4_", "MIG_", "CELERY"))}
        assert told - ours <= {"HTTPS_PROXY", *SINK}, workload
        assert ours <= KNOWN, workload


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_the_settings_of_a_dispatcher_are_right_and_its_classes_its_own(
    source: str, name: str, tmp_path: Path
) -> None:
    found = render(source, name)
    for workload, pod in dispatchers(found):
        settings, _ = read(found, pod, tmp_path)
        assert settings.execution_mode == "k8s_job"
        classes = configured(settings)
        wanted = {"t4": {"t4"}, "mig": {"mig-1g.5gb"}, "whole": {"a100"}}[
            workload.rpartition("-")[2]
        ]
        assert set(classes) == wanted, workload
        rules, _ = rules_of_tenants(settings, classes)
        assert ("a100" in rules) == (name == "everything" and "a100" in wanted), workload


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_a_dispatcher_serves_the_queues_of_its_classes(
    source: str, name: str, tmp_path: Path
) -> None:
    found = render(source, name)
    for workload, pod in dispatchers(found):
        classes = configured(read(found, pod, tmp_path)[0])
        (container,) = pod["spec"]["containers"]
        said = [
            word.partition("=")[2] for word in container["args"] if word.startswith("--queues=")
        ]
        for queue in said[0].split(",") if said else ():
            assert parse_queue(queue).gpu_class in {*classes, *CHOOSING}, (workload, queue)
        reachable = {queue for each in classes.values() for queue in each.queues}
        assert not said or reachable <= set(said[0].split(",")), workload


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_the_job_that_a_dispatcher_makes_is_one_of_kubernetes(
    source: str, name: str, version: str, tmp_path: Path
) -> None:
    found = render(source, name)
    for _, pod in dispatchers(found):
        settings, cluster = read(found, pod, tmp_path)
        for gpu_class in configured(settings).values():
            check(job(gpu_class, cluster), version)


def job(gpu_class: GpuClass, cluster: ClusterSettings) -> Object:
    record: Record = {
        "delivery": "d",
        "id": "d",
        "task": "shop.train",
        "gpu_class": gpu_class.name,
        "isolation": "exclusive",
        "attempt": 1,
        "token": "t",
    }
    assert cluster.pod_template is not None
    image = cluster.executor_image or gpu_class.image or "registry.example/shop:1"
    common = ManifestContext(
        "mlops-saas", "owner", pod_template=load_pod_template(cluster.pod_template)
    )
    return attempt_manifest({**record, "image": image}, gpu_class, cluster, common)


def test_in_development_a_job_takes_a_core_in_place_of_a_gpu(tmp_path: Path) -> None:
    found = overlay("dev")
    for _, pod in dispatchers(found):
        settings, cluster = read(found, pod, tmp_path)
        (gpu_class,) = configured(settings).values()
        (container,) = job(gpu_class, cluster)["spec"]["template"]["spec"]["containers"]
        assert container["resources"] == {
            "requests": {"cpu": "250m", "memory": "1Gi"},
            "limits": {"cpu": "1"},
        }


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_redis_is_read_from_the_secret_key_by_key(source: str, name: str) -> None:
    for workload, pod in render(source, name).pods():
        (container,) = pod["spec"]["containers"]
        if container["name"] == "redis":
            continue
        keys = {
            each["name"]: each["valueFrom"]["secretKeyRef"]
            for each in container["env"]
            if "secretKeyRef" in each.get("valueFrom", {}) and each["name"] not in SINK
        }
        assert {key: not each["optional"] for key, each in keys.items()} == SECRET_KEYS, workload
        assert all(key == each["key"] for key, each in keys.items())


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_every_setting_of_flower_is_one_that_it_has(source: str, name: str) -> None:
    found = render(source, name)
    secrets = [
        each["stringData"] for each in found.of("Secret") if "flower" in each["metadata"]["name"]
    ]
    for _, pod in found.pods():
        (container,) = pod["spec"]["containers"]
        told = {each["name"] for each in container.get("env", ())} | {
            key for secret in secrets for key in secret
        }
        for setting in told:
            if setting.startswith("FLOWER_"):
                assert (
                    setting.removeprefix("FLOWER_").lower()
                    in flower_options._options | hyphenated()
                ), setting


def hyphenated() -> dict[str, Any]:
    return {name.replace("-", "_"): option for name, option in flower_options._options.items()}
