"""Chart and kustomize create the same objects for the same settings, except for features that only
one of them has.
"""

from __future__ import annotations

import copy
import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import Object, Objects, chart, overlay, values

#: Labels with the chart, release and version of an object.
HELMS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")
_HASH = re.compile(r"-[a-z0-9]{10}$")


def compared(found: Objects, *, hashed: bool) -> dict[tuple[str, str, str], Object]:
    """Return kind, namespace and name → object. It omits the namespace, which Helm does not create;
    labels of Helm; labels of ConfigMaps; and checksums of settings, because kustomize uses
    ConfigMaps with a hash in their name instead.
    """
    names = {each["metadata"]["name"] for each in found.of("ConfigMap")} if hashed else set()
    made = {}
    for each in found:
        if each["kind"] == "Namespace":
            continue
        one = unhashed(copy.deepcopy(each), names)
        metadata = one["metadata"]
        labels = metadata.pop("labels", {})
        if one["kind"] == "ConfigMap":
            one["data"] = {key: parsed(key, text) for key, text in one["data"].items()}
        else:
            metadata["labels"] = {key: text for key, text in labels.items() if key not in HELMS}
        if one["kind"] == "Deployment":
            one["spec"]["template"]["metadata"].pop("annotations", None)
        made[one["kind"], metadata.get("namespace", ""), metadata["name"]] = one
    return made


def unhashed(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: unhashed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [unhashed(each, names) for each in value]
    return _HASH.sub("", value) if value in names else value


def parsed(name: str, text: str) -> Any:
    if name.endswith(".toml"):
        return tomllib.loads(text)
    return yaml.safe_load(text) if name.endswith(".yaml") else text


@pytest.mark.parametrize(
    ("name", "namespace"), [("production", "mlops-saas"), ("dev", "mlops-saas-dev")]
)
def test_chart_and_overlay_give_the_same(name: str, namespace: str) -> None:
    by_chart = compared(chart(values(name), namespace=namespace), hashed=False)
    by_overlay = compared(overlay(name), hashed=True)
    assert by_chart.keys() == by_overlay.keys()
    for key, each in by_chart.items():
        assert each == by_overlay[key], key
    assert len(by_chart) > 15


def test_the_comparison_sees_a_difference() -> None:
    given = copy.deepcopy(values("production"))
    given["metricsPort"] = 9465
    by_chart, by_overlay = (
        compared(chart(given), hashed=False),
        compared(overlay("production"), hashed=True),
    )
    different = {key[0] for key, each in by_chart.items() if each != by_overlay[key]}
    assert different == {"ConfigMap", "Deployment", "Service", "NetworkPolicy"}
