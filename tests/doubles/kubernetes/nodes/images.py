"""The images that the cluster's registry has, and the names that are none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_NAME = re.compile(
    r"(?:(?:[a-zA-Z0-9](?:[-a-zA-Z0-9.]*[a-zA-Z0-9])?)(?::\d+)?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of an image gets; there is no file system of its own.

    Args:
        env: environment that the image sets.
        cwd: its working directory, empty for a fresh one for each container.
        pull_seconds: how long a pull takes, in real seconds. 0: it is on every node already.
        entrypoint: what runs if the container names no command.
        cmd: its arguments, if the container names none.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    pull_seconds: float = 0.0
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()


def name_error(name: str) -> str:
    """What the kubelet says of a name that cannot be an image's, empty if it can be."""
    if _NAME.fullmatch(name):
        return ""
    why = "invalid reference format"
    # A wrong name with capitals is called out for the part that has them.
    last = name.rpartition("/")[2].partition(":")[0]
    if last != last.lower():
        why += f": repository name ({last}) must be lowercase"
    return f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {why}'


def pull_error(name: str) -> str:
    """What the container runtime says when no registry has the image."""
    registry, slash, rest = name.partition("/")
    if not slash or not ({".", ":"} & set(registry) or registry == "localhost"):
        registry, rest = "docker.io", name if slash else f"library/{name}"
    repository, _, tag = rest.partition("@") if "@" in rest else rest.partition(":")
    whole = f"{registry}/{repository}:{tag or 'latest'}"
    scheme, cause = "https", f"lookup {registry}: no such host"
    if registry.startswith(("127.0.0.1", "localhost")):
        scheme, cause = "http", f"dial tcp {registry}: connect: connection refused"
    url = f"{scheme}://{registry}/v2/{repository}/manifests/{tag or 'latest'}"
    failed = (
        f'failed to pull and unpack image "{whole}": failed to resolve reference "{whole}": failed'
        " to do request:"
    )
    return f'{failed} Head "{url}": {cause}'
