"""How a check of a template speaks: problems with a path, a value and a fix; fields and lists of
named items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: where, the value there, what is wrong with it, and what to do."""

    path: str
    value: Any
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}={shown(self.value)} {self.problem}; {self.fix}"


Problems = Iterator[Problem]
#: Field → the type of its value.
Known = Mapping[str, type]
#: Field → the one value that may be said (it is so anyway; NOTHING: none may), and what to do
#: instead.
Fixed = Mapping[str, tuple[Any, str]]
NOTHING = object()

_TYPES = {
    dict: "is not a map",
    list: "is not a list",
    str: "is not a text",
    bool: "is not true or false",
    int: "is not a whole number",
}
_LONGEST_SHOWN = 80


def fields(at: str, found: Mapping[str, Any], known: Known, fixed: Fixed | None = None) -> Problems:
    """Check the fields of a map at the path ``at``: which there may be, and of what type."""
    for name, value in found.items():
        path = f"{at}.{name}" if at else str(name)
        if name in known:
            if type(value) is not known[name]:  # true is an int as well
                yield Problem(
                    path,
                    value,
                    _TYPES[known[name]],
                    "write it as Kubernetes' reference of pods says",
                )
        elif fixed and name in fixed:
            said, fix = fixed[name]
            if value != said:
                yield Problem(path, value, "is not for a template to say", fix)
        else:
            yield Problem(
                path,
                value,
                "is not for a template to say",
                f"it may say {', '.join(sorted(known))}",
            )


def items(at: str, found: object, key: str) -> Problems:
    """Check a list of maps that are told apart by one of their fields."""
    seen = set()
    for number, each in enumerate(found if isinstance(found, list) else ()):
        name = each.get(key) if isinstance(each, dict) else None
        if not isinstance(name, str) or not name:
            yield Problem(f"{at}[{number}]", each, f"has no {key}", f"give each its {key}")
        elif name in seen:
            yield Problem(f"{at}[{number}].{key}", name, "is there twice", "keep one of the two")
        seen.add(name if isinstance(name, str) else None)


def maps(at: str, found: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Go through the maps of a list, each with its path."""
    for number, each in enumerate(found if isinstance(found, list) else ()):
        if isinstance(each, dict):
            yield f"{at}[{number}]", each


def shown(value: object) -> str:
    """Return a value as messages show it."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def without_nulls(value: Any) -> Any:
    """Return a document without its nulls: a key without a value says nothing."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value if each is not None]
    return value
