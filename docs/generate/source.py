"""Descriptions that the code holds: docstrings of classes, and the strings below their fields."""

from __future__ import annotations

import ast
import inspect
import re

_MARKUP = re.compile(r"``([^`]+)``|:\w+:`~?([\w.]+)`")
_NAME = re.compile(r"(?<![`\w])((?:CELERY|GPUQUEUE|GPU|MIG|T4)_[A-Z][A-Z_]*[A-Z])(?![`\w])")


def field_docs(kind: type) -> dict[str, str]:
    """Return name → description for each field of a class that has a string below it, fields that
    it inherits within the package included.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("gpuqueue."):
            found |= _own_docs(each)
    return found


def _own_docs(kind: type) -> dict[str, str]:
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        target = (
            field.target
            if isinstance(field, ast.AnnAssign)
            else field.targets[0]
            if isinstance(field, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and isinstance(text, ast.Expr):
            found[target.id] = prose(str(ast.literal_eval(text.value)))
    return found


def class_doc(kind: type) -> str:
    """Return the description of a class."""
    return prose(inspect.getdoc(kind) or "")


def prose(text: str) -> str:
    """Return a docstring as one line of Markdown: code and names of settings are marked."""
    line = " ".join(text.split())
    marked = _MARKUP.sub(lambda found: f"`{found[1] or found[2]}`", line)
    parts = re.split(r"(`[^`]*`)", marked)
    return "".join(part if part.startswith("`") else _NAME.sub(r"`\1`", part) for part in parts)
