"""The images of the cluster's registry, and the errors about names and pulls."""

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
    """An image. It has no file system: containers see the files of this machine.

    Args:
        env: the environment variables that the image sets.
        cwd: the working directory; empty for a new one for each container.
        pull_seconds: the time of a pull in real seconds. 0: every node has the image already.
        entrypoint: the command of a container without ``command``.
        cmd: the arguments of a container without ``args``.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    pull_seconds: float = 0.0
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()


def name_error(name: str) -> str:
    """Return the kubelet's message about an invalid image name; empty for a valid one."""
    if _NAME.fullmatch(name):
        return ""
    why = "invalid reference format"
    # The message names the part with capital letters.
    last = name.rpartition("/")[2].partition(":")[0]
    if last != last.lower():
        why += f": repository name ({last}) must be lowercase"
    return f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {why}'


#: What a registry answers: status → its line.
ANSWERS = {
    401: "401 Unauthorized",
    429: "429 Too Many Requests",
    503: "503 Service Unavailable",
}


def pull_error(name: str, answer: int = 200) -> str:
    """Return the container runtime's message about an image that it cannot pull.

    ``answer``: the status of the registry; 200: there is no registry of that name.
    """
    registry, slash, rest = name.partition("/")
    if not slash or not ({".", ":"} & set(registry) or registry == "localhost"):
        registry, rest = "docker.io", name if slash else f"library/{name}"
    repository, _, tag = rest.partition("@") if "@" in rest else rest.partition(":")
    whole = f"{registry}/{repository}:{tag or 'latest'}"
    scheme, cause = "https", f"lookup {registry}: no such host"
    if registry.startswith(("127.0.0.1", "localhost")):
        scheme, cause = "http", f"dial tcp {registry}: connect: connection refused"
    url = f"{scheme}://{registry}/v2/{repository}/manifests/{tag or 'latest'}"
    failed = f'failed to pull and unpack image "{whole}": failed to resolve reference "{whole}":'
    if answer == 404:
        return f"rpc error: code = NotFound desc = {failed} {whole}: not found"
    if answer in ANSWERS:
        line = f"[manifests {tag or 'latest'}]: {ANSWERS[answer]}"
        return f"{failed} pulling from host {registry} failed with status code {line}"
    return f'{failed} failed to do request: Head "{url}": {cause}'
