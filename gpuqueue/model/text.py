"""Text of senders, and what a record, a key and an environment variable can hold of it. Pure."""

from __future__ import annotations

from typing import TypeGuard

#: Characters of an id, and of the name of a task or a group.
LONGEST_NAME = 512
#: Characters of the message of an error: a value in it may be a whole body.
LONGEST_ERROR = 2000
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def fits(value: object, longest: int = LONGEST_NAME) -> TypeGuard[str]:
    """Return whether a value is a text that can be kept: not empty, not too long, no NUL, and no
    half of a surrogate pair.
    """
    return isinstance(value, str) and 0 < len(value) <= longest and can_be_kept(value)


def can_be_kept(text: str) -> bool:
    """Return whether a text has no NUL, and no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def fitting(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text for people that can be kept, cut to a length."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(each if _is_kept(each) else _UNKNOWN for each in cut)


def _is_kept(character: str) -> bool:
    return character != "\0" and not "\ud800" <= character <= "\udfff"
