"""Checks of structure: fields of a map, lists of named items, and problems with path and fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One problem: path, value, problem and fix."""

    path: str
    value: Any
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}={shown(self.value)} {self.problem}; {self.fix}"


Problems = Iterator[Problem]
#: Field → the type of its value.
Known = Mapping[str, type]
#: Field → its only allowed value, which is also its default (NOTHING: not even that), and the fix.
Fixed = Mapping[str, tuple[Any, str]]
NOTHING = object()
NOT_ALLOWED = "is not allowed in a pod template"

_TYPES = {
    dict: "is not a map",
    list: "is not a list",
    str: "is not a string",
    bool: "is not a boolean",
    int: "is not an integer",
}
_LONGEST_SHOWN = 80


def fields(at: str, found: Mapping[str, Any], known: Known, fixed: Fixed | None = None) -> Problems:
    """Check the fields of a map at the path ``at``: which are allowed, and their types."""
    for name, value in found.items():
        path = f"{at}.{name}" if at else str(name)
        if name in known:
            if type(value) is not known[name]:  # isinstance would accept True as an int
                yield Problem(
                    path,
                    value,
                    _TYPES[known[name]],
                    "see the reference of pods of Kubernetes for its type",
                )
        elif fixed and name in fixed:
            only, fix = fixed[name]
            if value != only:
                yield Problem(path, value, NOT_ALLOWED, fix)
        else:
            yield Problem(
                path,
                value,
                NOT_ALLOWED,
                f"allowed: {', '.join(sorted(known))}",
            )


def items(at: str, found: object, key: str) -> Problems:
    """Check a list of maps that one field identifies."""
    seen = set()
    for number, each in enumerate(found if isinstance(found, list) else ()):
        name = each.get(key) if isinstance(each, dict) else None
        if not isinstance(name, str) or not name:
            yield Problem(f"{at}[{number}]", each, f"has no {key}", f"set its {key}")
        elif name in seen:
            yield Problem(f"{at}[{number}].{key}", name, "is a duplicate", "remove one of the two")
        seen.add(name if isinstance(name, str) else None)


def maps(at: str, found: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the maps of a list, each with its path."""
    for number, each in enumerate(found if isinstance(found, list) else ()):
        if isinstance(each, dict):
            yield f"{at}[{number}]", each


def shown(value: object) -> str:
    """Return a value in the form for messages."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def without_nulls(value: Any) -> Any:
    """Return a document without nulls: a key without a value has no effect."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value if each is not None]
    return value
