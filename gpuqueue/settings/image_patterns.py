"""Patterns of image references: which images jobs may name (GPU_IMAGE_ALLOW).

A reference is read as container runtimes read it: its first part is a registry if it holds ``.`` or
``:`` or is ``localhost``; else the registry is docker.io. A registry is compared as it stands and
has no wildcards, so that no pattern lets in a registry of a similar name. In the rest ``*``, ``?``
and ``[…]`` are fnmatch's, and ``*`` matches ``/`` as well: ``registry.example/team/*`` is
everything below ``team``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

_DOCKER_HUB = "docker.io"
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ImagePattern:
    """One pattern, as it is written. ``*`` alone is any image of any registry."""

    text: str

    @property
    def problem(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.text.split() != [self.text]:
            return "holds a space"
        if self.text != "*" and _WILDCARD.search(self.text.partition("/")[0]) and "/" in self.text:
            return "has a wildcard in its registry"
        return None

    def matches(self, image: str) -> bool:
        """Whether it lets an image in."""
        if self.text == "*":
            return True
        registry, path = _split(self.text)
        image_registry, image_path = _split(image)
        return registry == image_registry and fnmatchcase(image_path, path)


def parse_patterns(text: str) -> tuple[ImagePattern, ...]:
    """Read patterns with commas between them."""
    return tuple(ImagePattern(part.strip()) for part in text.split(",") if part.strip())


def _split(reference: str) -> tuple[str, str]:
    first, slash, rest = reference.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        # Docker Hub's short names once more, written in full.
        return first, rest if first != _DOCKER_HUB or "/" in rest else f"library/{rest}"
    return _DOCKER_HUB, reference if slash else f"library/{reference}"
