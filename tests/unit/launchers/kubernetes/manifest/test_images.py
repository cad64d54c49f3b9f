"""Which image an attempt uses, and which images a job may name."""

from __future__ import annotations

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.kubernetes.manifest.images import check_image, image_of
from gpuqueue.settings.image_patterns import ImagePattern, parse_patterns
from gpuqueue.settings.kubernetes import ClusterSettings

PLAIN = GpuClass("t4", shared_slots=1)
OWN = GpuClass("a100", exclusive_slots=1, image="registry.example/a100:1")
SETTINGS = ClusterSettings(executor_image="registry.example/default:1")

MATCHES = {
    "everything below a folder": ("registry.example/team/*", "registry.example/team/train:1"),
    "also in nested folders": ("registry.example/team/*", "registry.example/team/a/b@sha256:00"),
    "any tag": ("registry.example/team/train:*", "registry.example/team/train:1.2"),
    "one exact image": ("registry.example/train:1", "registry.example/train:1"),
    "a registry with a port": ("localhost:5000/*", "localhost:5000/train:1"),
    "a registry without a dot": ("localhost/*", "localhost/train"),
    "an official image by short name": ("python:3.*", "python:3.11"),
    "an official image by full name": ("python:3.*", "docker.io/library/python:3.11"),
    "an official image without library/": ("python:3.*", "docker.io/python:3.11"),
    "a full pattern for a short name": ("docker.io/pytorch/*", "pytorch/pytorch:2"),
    "any image": ("*", "evil.example/x:1"),
    "one of several letters": ("registry.example/v[12]/*", "registry.example/v2/x"),
}
NO_MATCH = {
    "a registry with a longer name": (
        "registry.example/team/*",
        "registry.example.evil/team/train:1",
    ),
    "a registry with the pattern as a folder": (
        "registry.example/team/*",
        "evil.example/registry.example/team/train:1",
    ),
    "a folder with a longer name": ("registry.example/team/*", "registry.example/teams/train:1"),
    "another port": ("registry.example/*", "registry.example:5000/x"),
    "the folder alone": ("registry.example/team/*", "registry.example/team"),
    "another tag": ("registry.example/train:1", "registry.example/train:2"),
    "a digest instead of a tag": ("registry.example/train:*", "registry.example/train@sha256:00"),
    "a registry that looks like a tag": ("python:3*", "python:31/evil/x"),
    "Docker Hub instead of a registry": ("registry.example/*", "team/train"),
    "a user instead of an official image": ("python:*", "evil/python:3"),
    "capitals": ("registry.example/*", "Registry.example/x"),
}


@pytest.mark.parametrize(("pattern", "image"), MATCHES.values(), ids=MATCHES)
def test_pattern_matches_image(pattern: str, image: str) -> None:
    assert ImagePattern(pattern).matches(image)


@pytest.mark.parametrize(("pattern", "image"), NO_MATCH.values(), ids=NO_MATCH)
def test_pattern_does_not_match_image(pattern: str, image: str) -> None:
    assert not ImagePattern(pattern).matches(image)


def test_patterns_are_separated_by_commas() -> None:
    assert parse_patterns(" a/*, b:1 ,,") == (ImagePattern("a/*"), ImagePattern("b:1"))
    assert parse_patterns("") == ()


@pytest.mark.parametrize(
    "pattern", ["*.example/x", "*/x", "registry?/x", "[ab].example/*", "pyt*/pytorch"]
)
def test_wildcard_in_a_registry_is_a_problem(pattern: str) -> None:
    assert ImagePattern(pattern).problem == "has a wildcard in its registry"


@pytest.mark.parametrize(
    "pattern", ["*", "python:3.*", "py*", "registry.example/*", "docker.io/pyt*/pytorch"]
)
def test_wildcard_outside_the_registry_is_allowed(pattern: str) -> None:
    assert ImagePattern(pattern).problem is None


def test_image_comes_from_the_job_then_its_class_then_the_default() -> None:
    allowing = SETTINGS.model_copy(update={"image_allow": "registry.example/*"})
    assert image_of("registry.example/mine:2", OWN, allowing) == "registry.example/mine:2"
    assert image_of(None, OWN, allowing) == "registry.example/a100:1"
    assert image_of(None, PLAIN, allowing) == "registry.example/default:1"


def test_job_can_always_name_a_configured_image() -> None:
    check_image("registry.example/default:1", SETTINGS, OWN)
    check_image("registry.example/a100:1", SETTINGS, OWN)


def test_job_cannot_name_the_image_of_another_class() -> None:
    with pytest.raises(InvalidJob, match="is not an allowed image"):
        check_image("registry.example/a100:1", SETTINGS, PLAIN)


REFUSALS = {
    "only the configured image": (
        "",
        "evil.example/x:1",
        (
            "gpu.image='evil.example/x:1' is not an allowed image (allowed:"
            " registry.example/default:1); use one of those, or set GPU_IMAGE_ALLOW of the"
            " dispatchers to a pattern that matches it, e.g. evil.example/*"
        ),
    ),
    "patterns": (
        "registry.example/team/*,python:*",
        "team/train@sha256:00",
        (
            "gpu.image='team/train@sha256:00' is not an allowed image (allowed:"
            " registry.example/default:1, registry.example/team/*, python:*); use one of those, or"
            " set GPU_IMAGE_ALLOW of the dispatchers to a pattern that matches it, e.g. team/*"
        ),
    ),
    "an official image": (
        "registry.example/*",
        "python:3.11",
        (
            "gpu.image='python:3.11' is not an allowed image (allowed:"
            " registry.example/default:1, registry.example/*); use one of those, or set"
            " GPU_IMAGE_ALLOW of the dispatchers to a pattern that matches it, e.g. python:*"
        ),
    ),
}


@pytest.mark.parametrize(("allow", "image", "text"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_lists_allowed_images_and_how_to_allow_more(
    allow: str, image: str, text: str
) -> None:
    settings = SETTINGS.model_copy(update={"image_allow": allow})
    with pytest.raises(InvalidJob) as caught:
        check_image(image, settings, PLAIN)
    assert str(caught.value) == text
    example = text.rpartition("e.g. ")[2]
    check_image(image, SETTINGS.model_copy(update={"image_allow": example}), PLAIN)


def test_job_without_any_image_is_refused() -> None:
    with pytest.raises(InvalidJob) as caught:
        image_of(None, PLAIN, ClusterSettings())
    assert (
        str(caught.value)
        == "gpu.image=None is not set, and class 't4' has none; set GPU_EXECUTOR_IMAGE of the"
        " dispatchers, or image of the class"
    )
