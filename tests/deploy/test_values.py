"""values.yaml, values.schema.json and the settings in the code agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gpuqueue.launchers.kubernetes.manifest.environment import SECRET_KEYS
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.deploy.rendering import CHART, Object
from tests.support.pages import defaults

SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: Object = yaml.safe_load((CHART / "values.yaml").read_text())
#: Settings that other values of the chart control, or that have no effect in a cluster.
OTHERWISE = {
    *SECRET_KEYS,
    *(
        "GPU_EXECUTION_MODE",
        "T4_SHARED_SLOTS",
        "T4_EXCLUSIVE_SLOTS",
        "MIG_TOTAL_SLOTS",
        "GPU_RESOURCE_NAME",
    ),
    *(
        "GPUQUEUE_CLASSES_FILE",
        "GPUQUEUE_TENANTS_FILE",
        "GPUQUEUE_APP",
        "GPUQUEUE_LOG_LEVEL",
        "GPUQUEUE_POD_TEMPLATE",
        "GPU_SECRET_NAME",
    ),
    *(
        "GPU_JOB_NAMESPACE",
        "GPU_OWNER",
        "GPU_EXECUTOR_IMAGE",
        "GPU_IMAGE_PULL_POLICY",
        "GPU_IMAGE_ALLOW",
    ),
    *("GPUQUEUE_METRICS_PORT", "GPUQUEUE_METRICS_HOST", "GPUQUEUE_LOG_SINK"),
    # Of local mode.
    *("GPUQUEUE_DEVICES", "GPUQUEUE_RUNTIME_DIR"),
}
#: Maps with free keys.
OPEN = {
    "volume",
    "settings",
    "nodeSelector",
    "affinity",
    "podAnnotations",
    "podLabels",
    "annotations",
    "labels",
    "hard",
    "podTemplate",
    "podSecurityContext",
    "containerSecurityContext",
}


def follow(schema: Object) -> Object:
    while "$ref" in schema:
        found: Any = SCHEMA
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def schemas(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Yield every map of the schema by its path."""
    schema = follow(schema)
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from schemas(each, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]")


def every_value(schema: Object, path: str = "") -> Iterator[tuple[str, Object, str]]:
    """Yield path, schema and description of every value that operators set."""
    for name, each in schema.get("properties", {}).items():
        at = f"{path}.{name}".lstrip(".")
        found = follow(each)
        if found.get("properties") and name not in OPEN and name != "resources":
            yield from every_value(found, at)
        else:
            yield at, found, each.get("description") or found.get("description", "")


def leaves(values: Any, path: str = "") -> Iterator[str]:
    if isinstance(values, dict) and values and path.rpartition(".")[2] not in OPEN:
        for name, each in values.items():
            yield from leaves(each, f"{path}.{name}".lstrip("."))
    else:
        yield path


def allowed(schema: Object, path: str = "") -> Iterator[str]:
    schema = follow(schema)
    if schema.get("properties") and path.rpartition(".")[2] not in OPEN:
        for name, each in schema["properties"].items():
            yield from allowed(each, f"{path}.{name}".lstrip("."))
    else:
        yield path


def test_the_schema_and_the_default_values_list_the_same_values() -> None:
    without_requests = {
        path for path in allowed(SCHEMA) if not path.endswith((".requests", ".limits"))
    } - {"global"}
    found = {
        path for path in leaves(DEFAULTS) if ".requests." not in path and ".limits." not in path
    }
    assert found == without_requests


def test_every_map_rejects_an_unknown_key() -> None:
    loose = [
        path
        for path, schema in schemas(SCHEMA)
        if schema.get("properties") and schema.get("additionalProperties") is not False
    ]
    assert loose == []


def test_every_value_has_a_description() -> None:
    """The reference pages are made of them: see docs/generate/chart.py."""
    silent = [name for name, _, described in every_value(SCHEMA) if not described]
    assert silent == []


def test_settings_by_name_are_the_codes_but_those_that_other_values_set() -> None:
    known = {*defaults(Settings.model_fields), *defaults(ClusterSettings.model_fields)}
    assert set(SCHEMA["definitions"]["settings"]["propertyNames"]["enum"]) == known - OTHERWISE


@pytest.mark.parametrize("name", ["jobs", "redis", "network", "flower", "dispatcherDefaults"])
def test_every_part_of_the_values_is_explained(name: str) -> None:
    text = (CHART / "values.yaml").read_text()
    part = text[text.index(f"\n{name}:") :].partition("\n\n")[0]
    assert part.count("#") >= 3
