"""What a dispatcher and a runner say to each other: one JSON object a line. Pure.

A dispatcher says ``start`` (nonce, variables). The runner says ``hello`` once, with what it is,
then ``started`` or ``refused`` for each start, and ``ended``, each with its nonce.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: A line is longer than the longest environment.
LONGEST = 2**22


class Malformed(ValueError):
    """A peer sent what is no message."""


def encode(word: str, **fields: Any) -> bytes:
    """Return one message."""
    return json.dumps({"is": word, **fields}).encode() + b"\n"


class Lines:
    """Puts the bytes of a connection together to messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """Yield the messages that are complete now. Raises :class:`Malformed`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST:
            raise Malformed(f"a line of more than {LONGEST} bytes")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError as exc:
                raise Malformed(str(exc)) from exc
            if not isinstance(message, dict) or not isinstance(message.get("is"), str):
                raise Malformed(f"no message: {line[:100]!r}")
            yield message
