"""The syntax of names, labels and annotations, and the server's messages about violations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tests.doubles.kubernetes.objects.errors import Cause, bad_value, required

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = rf"({_QUALIFIED})?"
_ENV = re.compile(r"[ -<>-~]+")

LABEL_LIMIT, _NAME_LIMIT, _ANNOTATIONS_LIMIT = 63, 253, 256 * 1024

NOT_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or"
    " '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used"
    f" for validation is '{_SUBDOMAIN}')"
)
NOT_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and"
    " must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used"
    f" for validation is '{_LABEL}')"
)
NOT_QUALIFIED = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end"
    " with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for"
    f" validation is '{_QUALIFIED}')"
)
NOT_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.',"
    " and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or"
    f" '12345', regex used for validation is '{_VALUE}')"
)
NOT_ENV = (
    "a valid environment variable name must consist only of printable ASCII characters other"
    " than '='"
)


def too_long(limit: int) -> str:
    """Return the message about a name that is too long."""
    return f"must be no more than {limit} bytes"


def subdomain(name: str) -> list[str]:
    """Return the problems of an object's name."""
    return _problems(name, _SUBDOMAIN, NOT_SUBDOMAIN, _NAME_LIMIT)


def label_name(name: str) -> list[str]:
    """Return the problems of a container's name."""
    return _problems(name, _LABEL, NOT_LABEL, LABEL_LIMIT)


def qualified(key: str) -> list[str]:
    """Return the problems of the key of a label, an annotation or an extended resource."""
    prefix, slash, name = key.rpartition("/")
    wrong = [f"prefix part {text}" for text in (subdomain(prefix) if slash and prefix else [])]
    if slash and not prefix:
        wrong.append("prefix part must be non-empty")
    if not name:
        wrong.append("name part must be non-empty")
    return wrong + _problems(name, _QUALIFIED, NOT_QUALIFIED, LABEL_LIMIT, "name part ")


def label_value(value: str) -> list[str]:
    """Return the problems of the value of a label."""
    return _problems(value, _VALUE, NOT_VALUE, LABEL_LIMIT)


def env_name(name: str) -> list[str]:
    """Return the problems of the name of an environment variable."""
    return [] if _ENV.fullmatch(name) else [NOT_ENV]


def check_labels(labels: Mapping[str, str], path: str) -> Iterator[Cause]:
    """Check labels or a node selector."""
    for key, value in labels.items():
        yield from (bad_value(path, f'"{key}"', why) for why in qualified(key))
        yield from (bad_value(path, f'"{value}"', why) for why in label_value(value))


def check_annotations(annotations: Mapping[str, str], path: str) -> Iterator[Cause]:
    """Check the keys of annotations and their total size."""
    for key in annotations:
        yield from (bad_value(path, f'"{key}"', why) for why in qualified(key.lower()))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS_LIMIT:
        yield Cause(
            path, "FieldValueTooLong", f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes"
        )


def check_name(name: str, path: str) -> Iterator[Cause]:
    """Check the name of an object."""
    if not name:
        yield required(path, "name or generateName is required")
        return
    yield from (bad_value(path, f'"{name}"', why) for why in subdomain(name))


def _problems(text: str, pattern: str, why: str, limit: int, before: str = "") -> list[str]:
    wrong = [before + too_long(limit)] if len(text) > limit else []
    if not re.fullmatch(pattern, text):
        wrong.append(why)
    return wrong
