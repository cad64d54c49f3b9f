"""The functions that a script reaches. Redis gets its text without the others.

Each call of a script makes all functions of its text again, and Redis looks through all texts that
it has for what is garbage. A function of the library parts is left out if no text that stays has
its name. Its lines stay, empty, so that Redis counts lines as the files do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

_BEGINS = re.compile(r"^( *)(?:local function (\w+)|function (\w+\.\w+))\(")
#: A name, and the field that follows it. No field of something else: `job.domain` names no table.
_NAMES = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(?:\.(\w+))?( = )?")


class OddScript(ValueError):
    """A library part is not formatted as the others, so its functions cannot be told apart."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """Lines of a text: a function, or (no name) what is between functions."""

    name: str
    lines: list[str]

    @cached_property
    def text(self) -> str:
        """All of it."""
        return "".join(self.lines)

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The names that reach it."""
        table, dot, _ = self.name.partition(".")
        return (self.name, f"{table}.") if dot else (self.name,)

    @cached_property
    def names(self) -> set[str]:
        """The names in it, comments excluded: `save`, `domain.key`, and `domain.` for a table whose
        field is not said.
        """
        found = set()
        for line in self.lines:
            if line.lstrip().startswith("--"):
                continue
            for name, field, value in _NAMES.findall(line):
                found.add(name)
                if field or not value:  # else it is given a value, or is the key of one
                    found.add(f"{name}.{field}")
        return found - {self.name}


def only_reached(parts: Iterable[tuple[str, str]], own: str) -> str:
    """Return the text of a script without the functions that it does not reach.

    Args:
        parts: (file, text) in their order. The file of a generated part is empty.
        own: the file of the script, all of whose functions stay.

    Raises OddScript.
    """
    pieces: list[_Piece] = []
    for file, text in parts:
        pieces += _of_part(file, text) if file and file != own else _whole(text)
    waiting = [each for each in pieces if each.name]
    names = set[str]().union(*(each.names for each in pieces if not each.name))
    while reached := [each for each in waiting if not names.isdisjoint(each.called)]:
        waiting = [each for each in waiting if names.isdisjoint(each.called)]
        names |= set[str]().union(*(each.names for each in reached))
    left_out = set(waiting)
    return "".join("\n" * len(each.lines) if each in left_out else each.text for each in pieces)


@cache  # most parts stand in most scripts
def _of_part(file: str, text: str) -> tuple[_Piece, ...]:
    return tuple(_pieces(file, text.splitlines(keepends=True)))


@cache
def _whole(text: str) -> tuple[_Piece]:
    return (_Piece("", text.splitlines(keepends=True)),)


def _pieces(file: str, lines: list[str]) -> Iterator[_Piece]:
    """Yield the pieces of a library part. A function ends with the line `end` that is indented as
    its first line.
    """
    between: list[str] = []
    at = 0
    while at < len(lines):
        begins = _BEGINS.match(lines[at])
        if not begins:
            between.append(lines[at])
            at += 1
            continue
        yield _Piece("", between)
        between, first = [], at
        while lines[at] != f"{begins[1]}end\n":
            at += 1
            again = _BEGINS.match(lines[at]) if at < len(lines) else begins
            if again and len(again[1]) <= len(begins[1]):
                raise OddScript(
                    f"{file}:{first + 1}: the function {begins[2] or begins[3]} needs a line 'end'"
                    " that is indented as its first line"
                )
        at += 1
        yield _Piece(begins[2] or begins[3], lines[first:at])
    yield _Piece("", between)
