"""The pages of settings, from the fields of the two settings classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from docs.generate.markdown import code, codes, page, table
from docs.generate.source import field_docs
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings

_INTRODUCTION = (
    "Dispatchers and the command line read their settings from the environment.\n"
    "An empty variable counts as unset.\n"
    "A wrong value stops the dispatcher with a message of the form `NAME=value problem; fix`.\n"
    "`gpuqueue doctor` checks all settings, and names those that are misspelt."
)
#: The settings that make classes, or hold for all of them.
_OF_CLASSES = re.compile(
    r"T4_|MIG_|GPU_RESOURCE_NAME|GPUQUEUE_(CLASSES_FILE|WARM_|\w+_PATIENCE|DEVICES)"
)


def make() -> str:
    """Make the page of the settings that every dispatcher reads."""
    return page(
        "Settings",
        _INTRODUCTION,
        "Those of GPU classes are on [another page](class-settings.md)."
        "\nDispatchers of Kubernetes Jobs read [more settings](kubernetes-settings.md).",
        _table(Settings, lambda name: not _OF_CLASSES.match(name)),
    )


def make_classes() -> str:
    """Make the page of the settings that make GPU classes, or hold for all of them."""
    return page(
        "Settings of GPU classes",
        "A dispatcher reads these settings beside [all others](settings.md)."
        "\n[The classes file](classes-file.md) has more classes, and more fields of each.",
        _table(Settings, lambda name: bool(_OF_CLASSES.match(name))),
    )


def make_kubernetes() -> str:
    """Make the page of the settings that only dispatchers of Kubernetes Jobs read."""
    return page(
        "Kubernetes settings",
        "A dispatcher reads these settings where `GPU_EXECUTION_MODE` is `k8s_job`, beside the"
        " [settings of every dispatcher](settings.md).",
        _table(ClusterSettings),
    )


def environment_name(field: FieldInfo) -> str:
    """Return the variable that sets a field."""
    choices: Any = field.validation_alias
    return choices if isinstance(choices, str) else str(choices.choices[0])


def shown_default(default: object) -> str:
    """Return a default as operators write it."""
    if default in (None, ""):
        return "not set"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _table(kind: type[BaseSettings], shows: Callable[[str], bool] = lambda name: True) -> str:
    """Return the table of the settings whose variable is shown."""
    docs = field_docs(kind)
    return table(
        ("setting", "default", "values", "meaning"),
        [
            (
                code(environment_name(field)),
                _default(field.default),
                _values(field),
                docs[name],
            )
            for name, field in kind.model_fields.items()
            if shows(environment_name(field))
        ],
    )


def _default(default: object) -> str:
    text = shown_default(default)
    return text if text == "not set" else code(text)


def _values(field: FieldInfo) -> str:
    """Return what a setting may hold: its choices, or its type with its bounds and its word."""
    extra = field.json_schema_extra
    word = extra.get("or") if isinstance(extra, dict) else None
    return _typed(field) + (f", or {code(word)}" if word else "")


def _typed(field: FieldInfo) -> str:
    kinds = get_args(field.annotation)
    kind = kinds[0] if type(None) in kinds else field.annotation
    if get_origin(kind) is Literal:
        return codes(get_args(kind))
    words = [each for each in kinds if get_origin(each) is Literal]
    metadata = list(field.metadata)
    if words:  # a number, or one of some words
        kind = next(each for each in kinds if each not in words)
        kind, *found = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        metadata += [one for each in found for one in getattr(each, "metadata", ())]
    bounds = {
        key: getattr(each, key)
        for each in metadata
        for key in ("gt", "ge", "le")
        if hasattr(each, key)
    }
    names: dict[object, str] = {int: "whole number", float: "number", Path: "path", str: "text"}
    name = names[kind]
    least, most = bounds.get("ge", bounds.get("gt")), bounds.get("le")
    also = "".join(f", or {codes(get_args(each))}" for each in words)
    if least is None:
        return name + also
    above = "above " if "gt" in bounds else "from "
    return f"{name} {above}{least:g}" + (f" to {most}" if most else "") + also
