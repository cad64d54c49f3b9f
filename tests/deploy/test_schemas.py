"""Every manifest is valid in Kubernetes: strictly, by the schemas of the oldest and the newest
supported version.
"""

from __future__ import annotations

import copy
from functools import cache

import jsonschema
import pytest
import yaml
from kubernetes_validate import ValidationError, utils, validate

from tests.deploy.custom import SCHEMAS
from tests.deploy.rendering import CHART, CUSTOM, EVERYTHING, OVERLAYS, Object, render

OLDEST, NEWEST = "1.31", "1.36"
TEMPLATES = sorted(OVERLAYS.parent.glob("base/**/*.template.yaml"))


#: The validator reloads its files for every object, which takes most of the time.
utils.schema_contents = cache(utils.schema_contents)


def check(each: Object, version: str) -> None:
    validate(each, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_every_object_is_one_of_kubernetes(source: str, name: str, version: str) -> None:
    found = [each for each in render(source, name) if not each["apiVersion"].startswith(CUSTOM)]
    assert len(found) > 10
    for each in found:
        check(each, version)


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_every_object_of_others_has_the_shape_that_they_read(source: str, name: str) -> None:
    found = [each for each in render(source, name) if each["apiVersion"].startswith(CUSTOM)]
    assert bool(found) == (name in ("production", "everything"))
    for each in found:
        jsonschema.validate(each, SCHEMAS[each["apiVersion"], each["kind"]])


def test_every_custom_schema_is_used_and_rejects_an_unknown_field() -> None:
    found = [
        each for each in render("chart", "everything") if each["apiVersion"].startswith(CUSTOM)
    ]
    assert {(each["apiVersion"], each["kind"]) for each in found} == set(SCHEMAS)
    for each in found:
        wrong = copy.deepcopy(each)
        wrong["spec"]["selectors"] = {}
        with pytest.raises(jsonschema.ValidationError, match="'selectors' was unexpected"):
            jsonschema.validate(wrong, SCHEMAS[each["apiVersion"], each["kind"]])


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_templates_of_secrets_are_objects_of_kubernetes(version: str) -> None:
    found = [each for path in TEMPLATES for each in yaml.safe_load_all(path.read_text())]
    assert {each["kind"] for each in found} == {"Secret"}
    for each in found:
        check(each, version)


def test_the_check_sees_a_field_that_kubernetes_does_not_know() -> None:
    wrong = copy.deepcopy(render("overlay", "production").one("Deployment", "gpu-flower"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(ValidationError):
        check(wrong, NEWEST)


def test_the_chart_is_for_the_oldest_version_and_newer_ones() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={OLDEST}.0-0"


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_no_object_is_there_twice(source: str, name: str) -> None:
    found = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in render(source, name)
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_names_are_short_enough_for_what_kubernetes_adds(source: str, name: str) -> None:
    for each in render(source, name):
        assert len(each["metadata"]["name"]) <= 63 - len("-0123456789-01234"), each["metadata"][
            "name"
        ]
