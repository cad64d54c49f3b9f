"""The first day on Kubernetes: objects, images and container jobs are valid."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from celery import Celery
from kubernetes import client

from gpuqueue import __version__
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, DOCTOR, Right
from gpuqueue.launchers.kubernetes.manifest.images import check_image
from gpuqueue.model.container import ARGUMENTS, LARGEST, parse_container
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pages import Page, defaults, shown

FIRST_DAY = Page("docs/howto/run-jobs-on-kubernetes.md")
IMAGES = Page("docs/howto/choose-images.md")
CONTAINERS = Page("docs/howto/container-jobs.md")


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
    settings = {each["name"]: each["value"] for each in container["env"]}
    assert Settings(**settings).execution_mode == "k8s_job"
    image = ClusterSettings(**settings).executor_image
    assert image is not None and image in "\n".join(FIRST_DAY.blocks("sh"))
    assert settings.keys() <= {
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
