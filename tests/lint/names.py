"""Checks the functions of tests: ``python -m tests.lint.names``.

A test's name has at most 70 characters, and its parameters and answer are typed. Each line of the
output is ``path:line: name: problem``; the exit status is 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LONGEST = 70


def main() -> int:
    """Print the problems; return the exit status."""
    found = [line for path in sorted(TESTS.rglob("test_*.py")) for line in check(path)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


def check(path: Path) -> Iterator[str]:
    """Yield the problems of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for problem in problems(node):
                yield f"{path.relative_to(TESTS.parent)}:{node.lineno}: {node.name}: {problem}"


def problems(function: ast.FunctionDef) -> Iterator[str]:
    """Yield what is wrong with one test."""
    if len(function.name) > LONGEST:
        yield f"{len(function.name)} characters; use at most {LONGEST}"
    if function.returns is None:
        yield "no type of its answer; add -> None"
    for argument in [*function.args.args, *function.args.kwonlyargs]:
        if argument.annotation is None and argument.arg != "self":
            yield f"{argument.arg} has no type; add one"


if __name__ == "__main__":
    raise SystemExit(main())
