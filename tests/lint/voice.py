"""Finds private words in prose and messages: ``python -m tests.lint.voice [PATH …]``.

Looked at: Markdown outside of code blocks, docstrings, comments, string literals and test names of
Python, comments of Lua, YAML, Helm templates, shell scripts and the Makefile. Each line of the
output is ``path:line: word: the line``; the exit status is 1 if there is one.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Words that hide who acts or what is meant. CONTRIBUTING.md says what to write in their place.
PRIVATE = (
    "nobody",
    "somebody",
    "whoever",
    "whatever",
    "anew",
    "of its own",
    "of their own",
    "of our own",
    "of one's own",
    "what is told",
    "has it that",
    "Redis'",
    "Kubernetes'",
)
#: Path → the words that may stand there, and why.
ALLOWED: dict[str, tuple[tuple[str, ...], str]] = {
    "tests/contract/scenarios.py": (("nobody",), "an account in a recording"),
    "tests/lint/voice.py": (PRIVATE, "the list itself"),
    "CONTRIBUTING.md": (PRIVATE, "it tells the list"),
}
_WORDS = re.compile(
    "|".join(rf"(?<![\w']){re.escape(word)}(?!\w)" for word in PRIVATE).replace(r"\ ", r"\s+"),
    re.IGNORECASE,
)
#: ``'redis'`` in quotes is a name, not a possessive.
_QUOTED = re.compile(r"(['\"`])[\w.:/-]+\1")
_HASH_COMMENTS = {".yaml", ".yml", ".toml", ".sh", ".tpl", ".txt", ".acl", ".cfg", ".conf"}

Found = tuple[int, str]


def main(arguments: list[str]) -> int:
    """Print what is found; answers the exit status."""
    found = [line for path in files(arguments) for line in check(path)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    if found:
        sys.stdout.write(f"{len(found)} private words; write around them (CONTRIBUTING.md)\n")
    return 1 if found else 0


def files(arguments: Iterable[str]) -> Iterator[Path]:
    """Yield the tracked files below the paths given, or all."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    yield from (ROOT / name for name in listed.stdout.split("\0") if name)


def check(path: Path) -> Iterator[str]:
    """Yield one line for each private word of a file."""
    name = path.relative_to(ROOT).as_posix()
    allowed, _ = ALLOWED.get(name, ((), ""))
    if not path.is_file():  # removed, and not committed yet
        return
    for number, text in prose(path):
        for word in _WORDS.findall(_QUOTED.sub("", text)):
            if " ".join(word.lower().split()) not in {each.lower() for each in allowed}:
                yield f"{name}:{number}: {word}: {' '.join(text.split())[:100]}"


def prose(path: Path) -> Iterator[Found]:
    """Yield (line, text) of what people read in a file; nothing for files of other kinds."""
    if path.suffix == ".py":
        yield from _python(path.read_text(encoding="utf-8"))
    elif path.suffix == ".md":
        yield from _markdown(path.read_text(encoding="utf-8"))
    elif path.suffix == ".lua":
        yield from _after(path.read_text(encoding="utf-8"), "--")
    elif path.suffix in _HASH_COMMENTS or path.name in ("Makefile", "run", "Dockerfile"):
        yield from _after(path.read_text(encoding="utf-8"), "#")


def _python(text: str) -> Iterator[Found]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.lineno, node.name.replace("_", " ")


def _markdown(text: str) -> Iterator[Found]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _after(text: str, mark: str) -> Iterator[Found]:
    for number, line in enumerate(text.splitlines(), 1):
        _, found, comment = line.partition(mark)
        if found:
            yield number, comment


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
