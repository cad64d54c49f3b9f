"""The pages of settings, from the fields of the two settings classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

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
    "`gpuqueue doctor` checks all settings."
)


def make() -> str:
    """Make the page of the settings that every dispatcher reads."""
    return page(
        "Settings",
        _INTRODUCTION,
        "Dispatchers of Kubernetes Jobs read [more settings](kubernetes-settings.md).",
        _table(Settings),
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


def _table(kind: type[BaseSettings]) -> str:
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
        ],
    )


def _default(default: object) -> str:
    text = shown_default(default)
    return text if text == "not set" else code(text)


def _values(field: FieldInfo) -> str:
    """Return what a setting may hold: its choices, or its type with its bounds."""
    kinds = get_args(field.annotation)
    kind = kinds[0] if type(None) in kinds else field.annotation
    if get_origin(kind) is Literal:
        return codes(get_args(kind))
    bounds = {
        key: getattr(each, key)
        for each in field.metadata
        for key in ("gt", "ge", "le")
        if hasattr(each, key)
    }
    names: dict[object, str] = {int: "whole number", float: "number", Path: "path", str: "text"}
    name = names[kind]
    least, most = bounds.get("ge", bounds.get("gt")), bounds.get("le")
    if least is None:
        return name
    above = "above " if "gt" in bounds else "from "
    return f"{name} {above}{least:g}" + (f" to {most}" if most else "")
