"""Container jobs: the task ``gpuqueue.run`` that any Celery client may send to run an image without
Python. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuqueue.errors import InvalidJob

#: The name of the built-in task.
CONTAINER_TASK = "gpuqueue.run"
#: Its arguments, in the order that positional ones have.
ARGUMENTS = ("image", "command", "args", "env", "working_dir")
#: Bytes that command, arguments and environment may take as JSON together: they travel in the pod's
#: own object.
LARGEST = 64 * 1024
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]*$")
_OURS = "GPUQUEUE_"


def parse_container(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read the call ``gpuqueue.run(image, command, args, env, working_dir)``.

    Answers the image and what is said of the container, without what is empty: ``command`` and
    ``args`` are lists of text, ``env`` is name → text. Raises :class:`InvalidJob` that names the
    first wrong field.
    """
    if len(args) > len(ARGUMENTS):
        raise _wrong(
            "args",
            list(args),
            f"are more than {len(ARGUMENTS)} arguments",
            f"give {', '.join(ARGUMENTS)}",
        )
    said = dict(zip(ARGUMENTS, args, strict=False))
    for name, value in kwargs.items():
        if name not in ARGUMENTS:
            raise _wrong(name, value, "is unknown", f"known: {', '.join(ARGUMENTS)}")
        if name in said:
            raise _wrong(name, value, "is given twice", "give it by position or by name")
        said[name] = value
    image, folder = said.get("image"), said.get("working_dir")
    if not isinstance(image, str) or not image or image.split() != [image]:
        raise _wrong("image", image, "is not an image reference", "use e.g. registry/name:tag")
    if folder is not None and (not isinstance(folder, str) or not folder.startswith("/")):
        raise _wrong("working_dir", folder, "is not an absolute path", "use e.g. /data")
    container = {
        "command": _words("command", said.get("command")),
        "args": _words("args", said.get("args")),
        "env": _environment(said.get("env")),
        "working_dir": folder,
    }
    kept = {name: value for name, value in container.items() if value}
    size = len(json.dumps(kept))
    if size > LARGEST:
        raise _wrong(
            "command, args and env",
            f"{size} bytes",
            f"are more than {LARGEST} bytes",
            "pass large data by a volume or URL",
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
            "is one text",
            f'give a list of words: ["sh", "-c", {json.dumps(value)}] has a shell read it',
        )
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(word, str) and "\0" not in word for word in value
    ):
        raise _wrong(field, value, "is not a list of texts", 'use e.g. ["nvidia-smi", "-L"]')
    return list(value)


def _environment(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong("env", value, "is not an object", 'use e.g. {"STEPS": "100"}')
    made = {}
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.match(name) or name.startswith(_OURS):
            raise _wrong(
                "env",
                name,
                "cannot name a variable",
                f"use letters, digits and '_', and not {_OURS}…",
            )
        if name == "NVIDIA_VISIBLE_DEVICES":
            raise _wrong(
                "env",
                name,
                "would open every GPU of the node",
                "leave it out: the device plugin sets it",
            )
        if isinstance(text, bool) or not isinstance(text, (str, int, float)) or "\0" in str(text):
            raise _wrong(f"env.{name}", text, "is not a text or number", "give it as text")
        made[name] = str(text)
    return made
