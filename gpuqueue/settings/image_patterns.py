"""Patterns of image references: the images that jobs may name (GPU_IMAGE_ALLOW).

A reference is split as container runtimes split it: the first part is a registry if it contains
``.`` or ``:`` or is ``localhost``; otherwise the registry is docker.io. Registries are compared
literally, without wildcards: a pattern must not match a registry with a similar name. In the rest,
``*``, ``?`` and ``[…]`` work as in fnmatch, so ``*`` matches ``/`` too: ``registry.example/team/*``
matches everything below ``team``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

_DOCKER_HUB = "docker.io"
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ImagePattern:
    """One pattern as written. ``*`` alone matches any image of any registry."""

    text: str

    @property
    def problem(self) -> str | None:
        """What is wrong with the pattern; None if it is valid."""
        if self.text.split() != [self.text]:
            return "contains a space"
        if self.text != "*" and _WILDCARD.search(self.text.partition("/")[0]) and "/" in self.text:
            return "has a wildcard in its registry"
        return None

    def matches(self, image: str) -> bool:
        """Whether the pattern allows an image."""
        if self.text == "*":
            return True
        registry, path = _split(self.text)
        image_registry, image_path = _split(image)
        return registry == image_registry and fnmatchcase(image_path, path)


def parse_patterns(text: str) -> tuple[ImagePattern, ...]:
    """Read patterns separated by commas."""
    return tuple(ImagePattern(part.strip()) for part in text.split(",") if part.strip())


def _split(reference: str) -> tuple[str, str]:
    first, slash, rest = reference.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        # docker.io/x is the long form of the short name x.
        return first, rest if first != _DOCKER_HUB or "/" in rest else f"library/{rest}"
    return _DOCKER_HUB, reference if slash else f"library/{reference}"
