"""The pages of the chart's values, from the descriptions in its schema and the defaults in its
``values.yaml``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from docs.generate.markdown import code, codes, page, table

_CHART = Path(__file__).parents[2] / "charts" / "gpuqueue"
#: A longer default is in values.yaml.
_LONGEST = 40
#: Maps that are one value, although their keys are known.
_WHOLE = {"volume", "podTemplate", "podSecurityContext", "containerSecurityContext", "resources"}
_BESIDE = (
    "[values.yaml](../../charts/gpuqueue/values.yaml) has the defaults with their reasons.\n"
    "The chart rejects unknown values and wrong ones, with the value and the fix."
)


def make() -> str:
    """Make the page of the values that every installation looks at."""
    parts = ("redis", "logSink", "jobs")
    return page(
        "Chart values",
        "The values of the chart `gpuqueue`, for the whole release, Redis, logs and Jobs.\n"
        "Other pages have those of [dispatchers](chart-dispatchers.md), and of"
        " [network, Flower and monitoring](chart-operations.md).",
        _BESIDE,
        _section("The release", lambda name: "." not in name or name.startswith("image.")),
        *(_section(part, _below(part)) for part in parts),
    )


def make_dispatchers() -> str:
    """Make the page of the values of a dispatcher."""
    return page(
        "Chart values of dispatchers",
        "`dispatchers` is a list with one Deployment for each entry.\n"
        "An entry has a `name` and any of these values.\n"
        "The others come from `dispatcherDefaults`, which has the same values.\n"
        "Maps are merged, and lists are replaced.",
        _BESIDE,
        _table(_below("dispatcherDefaults"), "dispatcherDefaults."),
    )


def make_operations() -> str:
    """Make the page of the values around dispatchers."""
    parts = ("rbac", "serviceAccount", "network", "flower", "monitoring", "quota")
    return page(
        "Chart values of operation",
        "The values of the chart `gpuqueue` for rights, network, Flower, monitoring and quota.",
        _BESIDE,
        *(_section(part, _below(part)) for part in parts),
    )


def values() -> dict[str, tuple[dict[str, Any], str, Any]]:
    """Return path → schema, description and default of every value."""
    schema = json.loads((_CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((_CHART / "values.yaml").read_text())
    return {
        path: (found, description, _default(defaults, path))
        for path, found, description in _walk(schema, schema, "")
    }


def _walk(
    root: dict[str, Any], schema: dict[str, Any], at: str
) -> Iterator[tuple[str, dict[str, Any], str]]:
    for name, each in schema["properties"].items():
        found = each
        while "$ref" in found:
            target: Any = root
            for part in found["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            found = target
        path = f"{at}.{name}".lstrip(".")
        if "properties" in found and name not in _WHOLE:
            yield from _walk(root, found, path)
        else:
            yield path, found, each.get("description") or found.get("description", "")


def _default(defaults: Any, path: str) -> Any:
    for part in path.split("."):
        defaults = defaults.get(part) if isinstance(defaults, dict) else None
    return defaults


def _below(part: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(f"{part}.")


def _section(title: str, chosen: Callable[[str], bool]) -> str:
    return f"## {title}\n\n{_table(chosen)}"


def _table(chosen: Callable[[str], bool], prefix: str = "") -> str:
    return table(
        ("value", "default", "type", "meaning"),
        [
            (code(path.removeprefix(prefix)), _shown(default), _type(schema), description)
            for path, (schema, description, default) in values().items()
            if chosen(path)
        ],
    )


def _shown(default: Any) -> str:
    if default in (None, ""):
        return "not set"
    text = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
    return code(text) if len(text) <= _LONGEST else "see values.yaml"


def _type(schema: dict[str, Any]) -> str:
    """Return what a value may be: its choices, or its type with its bounds."""
    if "enum" in schema:
        return codes(each or '""' for each in schema["enum"])
    kind = schema.get("type", "map")
    if not isinstance(kind, str):
        return " or ".join(_NAMES[each] for each in kind)
    name = _NAMES[kind]
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    if kind not in ("integer", "number") or least is None:
        return name
    above = "above" if "exclusiveMinimum" in schema else "from"
    most = f" to {schema['maximum']}" if "maximum" in schema else ""
    return f"{name} {above} {least}{most}"


_NAMES = {
    "string": "text",
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "object": "map",
    "array": "list",
}
