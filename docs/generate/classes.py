"""The page of the classes file, from the fields of a class."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields

from docs.generate.markdown import code, page, table
from docs.generate.source import field_docs
from gpuqueue.classes.choose import DRIVER_RESERVE
from gpuqueue.classes.gpu_class import GpuClass

#: Annotation of a field → what TOML has for it.
_TYPES = {
    "str": "text",
    "str | None": "text",
    "int": "whole number",
    "int | None": "whole number",
    "float": "number",
    "float | None": "number",
    "float | str | None": "number, or `never`",
    "tuple[int, ...] | None": "list of whole numbers",
    "Mapping[str, str]": "table of texts",
    "Sequence[str]": "list of texts",
    "Sequence[Mapping[str, Any]]": "list of tables",
    "Mapping[str, Any]": "table",
}
#: Fields that a file may write in one more way than the class keeps them.
_ALSO = {"memory": "whole number, or text such as `15GiB`", "cpu": "text or number"}
_ALSO["price_per_hour"] = "number, or text such as `0.35`"
#: Fields whose default is a setting.
_SETTINGS = {
    "exclusive_patience": "GPUQUEUE_EXCLUSIVE_PATIENCE",
    "shared_patience": "GPUQUEUE_SHARED_PATIENCE",
    "held_timeout": "GPU_HELD_TIMEOUT",
    "warm_seconds": "GPUQUEUE_WARM_SECONDS",
    "warm_jobs": "GPUQUEUE_WARM_JOBS",
    "warm_age": "GPUQUEUE_WARM_AGE_SECONDS",
    "price_per_hour": "GPUQUEUE_PRICE_PER_HOUR",
}


def make() -> str:
    """Make the page."""
    docs = field_docs(GpuClass)
    return page(
        "The classes file",
        "`GPUQUEUE_CLASSES_FILE` names a TOML file with one table `[classes.NAME]` for each GPU"
        " class.\nA class in the file replaces a class of the same name from the environment.\n"
        "[How to describe your GPUs](../howto/gpu-classes.md) shows an example.",
        table(
            ("field", "type", "default", "meaning"),
            [
                (code(field.name), _type(field), _default(field), _meaning(docs[field.name]))
                for field in fields(GpuClass)
                if field.name not in ("name", "domains")
            ],
        ),
        "A class must have at least one slot.\n"
        "Slots are those of one domain: see `domain`.\n"
        f"A job may ask for up to {DRIVER_RESERVE // 2**20} MiB less than `memory`: the driver and"
        " the CUDA context keep the rest.",
    )


def _meaning(text: str) -> str:
    """Return a description in the words of TOML, which has no None."""
    return text.replace("; None: ", "; unset: ").replace("None: ", "Unset: ")


def _type(field: Field[object]) -> str:
    return _ALSO.get(field.name) or _TYPES[str(field.type)]


def _default(field: Field[object]) -> str:
    if field.name in _SETTINGS:
        return code(_SETTINGS[field.name])
    if field.default in (MISSING, None):
        return "not set"
    return code(field.default)
