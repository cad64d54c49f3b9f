"""Container jobs: any Celery client can send the task ``gpuqueue.run`` to run an image without
Python. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuqueue.errors import InvalidJob
from gpuqueue.model.text import can_be_kept, fits

#: The name of the built-in task.
CONTAINER_TASK = "gpuqueue.run"
#: Its arguments, in positional order.
ARGUMENTS = ("image", "command", "args", "env", "working_dir")
#: Largest size of command, arguments and environment together as JSON, in bytes: they are part of
#: the pod object.
LARGEST = 64 * 1024
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PREFIX = "GPUQUEUE_"


def parse_container(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Parse the call ``gpuqueue.run(image, command, args, env, working_dir)``.

    Returns the image, and the other arguments without empty ones: ``command`` and ``args`` are
    lists of strings, ``env`` maps names to strings. Raises :class:`InvalidJob` with the first
    invalid field.
    """
    if len(args) > len(ARGUMENTS):
        raise _wrong(
            "args",
            list(args),
            f"are more than {len(ARGUMENTS)} arguments",
            f"pass {', '.join(ARGUMENTS)}",
        )
    call = dict(zip(ARGUMENTS, args, strict=False))
    for name, value in kwargs.items():
        if name not in ARGUMENTS:
            raise _wrong(name, value, "is unknown", f"known: {', '.join(ARGUMENTS)}")
        if name in call:
            raise _wrong(name, value, "is given twice", "pass it by position or by name")
        call[name] = value
    image, folder = call.get("image"), call.get("working_dir")
    if not fits(image, LARGEST) or image.split() != [image]:
        raise _wrong("image", image, "is not an image reference", "use e.g. registry/name:tag")
    if folder is not None and not (fits(folder, LARGEST) and folder.startswith("/")):
        raise _wrong("working_dir", folder, "is not an absolute path", "use e.g. /data")
    container = {
        "command": _words("command", call.get("command")),
        "args": _words("args", call.get("args")),
        "env": _environment(call.get("env")),
        "working_dir": folder,
    }
    kept = {name: value for name, value in container.items() if value}
    size = len(json.dumps(kept))
    if size > LARGEST:
        raise _wrong(
            "command, args and env",
            f"{size} bytes",
            f"are more than {LARGEST} bytes",
            "pass large data in a volume or by URL",
        )
    return image, kept


def _wrong(field: str, value: object, problem: str, fix: str) -> InvalidJob:
    return InvalidJob.field(f"{CONTAINER_TASK} {field}", value, problem, fix)


def _words(field: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        raise _wrong(
            field,
            value,
            "is a string",
            f'use a list of words, or for a shell: ["sh", "-c", {json.dumps(value)}]',
        )
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(word, str) and can_be_kept(word) for word in value
    ):
        raise _wrong(field, value, "is not a list of strings", 'use e.g. ["nvidia-smi", "-L"]')
    return list(value)


def _environment(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong("env", value, "is not an object", 'use e.g. {"STEPS": "100"}')
    made = {}
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name) or name.startswith(_PREFIX):
            raise _wrong(
                "env",
                name,
                "is not a valid variable name",
                f"use letters, digits and '_', but not {_PREFIX}…",
            )
        if name == "NVIDIA_VISIBLE_DEVICES":
            raise _wrong(
                "env",
                name,
                "would expose every GPU of the node",
                "leave it out: the device plugin sets it",
            )
        plain = isinstance(text, (str, int, float)) and not isinstance(text, bool)
        if not plain or not can_be_kept(str(text)):
            raise _wrong(f"env.{name}", text, "is not a string or number", "pass a string")
        made[name] = str(text)
    return made
