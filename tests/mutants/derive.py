"""Derives mutants from the text of the scripts: each is one file with one guard removed.

A guard is an operand of a condition, a removal from a key (ZREM, HDEL, DEL), or NX. Without it, an
operand of ``and`` is true, an operand of ``or`` is false, the condition of a return is false, and
any other condition is true.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lint.lua import SCRIPTS

ROOT = Path(__file__).parents[2]

_RETURNS = re.compile(r"^(\s*if )(.+)( then return\b.* end)$")
_BEGINS = re.compile(r"^(\s*(?:else)?if )(.+)( then)$")
_ONE_LINE = re.compile(r"^(\s*if )(.+?)( then .* end)$")
_NAMES = re.compile(r"^(\s*(?:local \w+ = |return ))(.+)()$")
_REMOVES = re.compile(r"^\s*redis\.call\('(?:ZREM|HDEL|DEL)', .*\)$")
_COMPARES = re.compile(r"==|~=|[<>]|\bnot\b")


@dataclass(frozen=True)
class Mutant:
    """A script, ``file`` in the folder of the scripts, as ``text``."""

    file: str
    number: int
    line: str
    change: str
    text: str
    turn: int = 1
    """Which one of several with the same line and change."""

    @property
    def name(self) -> str:
        """The same after lines have moved."""
        turn = f" ({self.turn})" if self.turn > 1 else ""
        return f"{self.file}: {self.line.strip()} -> {self.change}{turn}"


def mutants(scripts: Iterable[str] | None = None, since: str | None = None) -> list[Mutant]:
    """Return all mutants of some scripts, or of all; ``since``: those that the scripts of a commit
    do not have.
    """
    paths = SCRIPTS.rglob("*.lua") if scripts is None else (SCRIPTS / each for each in scripts)
    found = []
    for path in sorted(paths):
        found += _of(path.relative_to(SCRIPTS).as_posix(), path.read_text())
    known = names_at(since) if since else set()
    return [each for each in found if each.name not in known]


def names_at(commit: str) -> set[str]:
    """Return the names of the mutants of the scripts of a commit."""
    folder = SCRIPTS.relative_to(ROOT).as_posix()
    listed = _git("ls-tree", "-r", "--name-only", commit, "--", folder).splitlines()
    return {
        each.name
        for path in listed
        for each in _of(path.removeprefix(f"{folder}/"), _git("show", f"{commit}:{path}"))
    }


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def _of(file: str, text: str) -> list[Mutant]:
    lines = text.split("\n")
    found: list[Mutant] = []
    turns: Counter[str] = Counter()
    for number, line in enumerate(lines):
        for new, change in _changes(line):
            whole = "\n".join([*lines[:number], new, *lines[number + 1 :]])
            each = Mutant(file, number + 1, line, change, whole)
            turns[each.name] += 1
            found.append(replace(each, turn=turns[each.name]))
    return found


def _changes(line: str) -> Iterator[tuple[str, str]]:
    """Yield (the line without one guard, what was changed)."""
    if line.lstrip().startswith("--"):
        return
    if _REMOVES.match(line):
        yield "", "removed"
    if "'NX', " in line:
        yield line.replace("'NX', ", ""), "without NX"
    for pattern, alone in ((_RETURNS, "false"), (_BEGINS, "true"), (_ONE_LINE, "true")):
        if match := pattern.match(line):
            yield from _operands(match, alone)
            return
    match = _NAMES.match(line)
    if match and _COMPARES.search(match[2]):
        yield from _operands(match, "")


def _operands(match: re.Match[str], alone: str) -> Iterator[tuple[str, str]]:
    """Yield the line without each operand of its condition. ``alone`` replaces a whole condition;
    empty: only operands that compare are guards.
    """
    before, condition, after = match.groups()
    for word, neutral in ((" or ", "false"), (" and ", "true")):
        parts = split(condition, word)
        if len(parts) == 1:
            continue
        for index, part in enumerate(parts):
            inner = split(part, " and ") if word == " or " else [part]
            if len(inner) > 1 and "(" not in part:  # a and b or c: remove a, then b
                for place, each in enumerate(inner):
                    if alone or _COMPARES.search(each):
                        less = " and ".join([*inner[:place], "true", *inner[place + 1 :]])
                        whole = word.join([*parts[:index], less, *parts[index + 1 :]])
                        yield f"{before}{whole}{after}", f"{each} is true"
            elif alone or _COMPARES.search(part):
                whole = word.join([*parts[:index], neutral, *parts[index + 1 :]])
                yield f"{before}{whole}{after}", f"{part} is {neutral}"
        return
    if alone:
        yield f"{before}{alone}{after}", f"{condition} is {alone}"


def split(text: str, word: str) -> list[str]:
    """Split at a word outside of parentheses and quotes."""
    parts, depth, quoted, start, index = [], 0, False, 0, 0
    while index < len(text):
        char = text[index]
        if char == "'":
            quoted = not quoted
        elif not quoted:
            depth += (char in "([{") - (char in ")]}")
            if depth == 0 and text.startswith(word, index):
                parts.append(text[start:index])
                index += len(word)
                start = index
                continue
        index += 1
    return [*parts, text[start:]]
