"""JSON, times and names as the API server writes them."""

from __future__ import annotations

import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder()

#: What generated names end with: no vowels, and nothing that reads like another.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX = 5
_NAME_LIMIT = 63


def decode(data: bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def stamp(at: float | None = None) -> str:
    """A time in seconds, ``2026-11-23T16:12:15Z``; now unless Unix seconds are given."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() if at is None else at))


def micro_stamp() -> str:
    """Now, in microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_uid() -> str:
    """The uid of a new object."""
    return str(uuid.uuid4())


def generated(prefix: str) -> str:
    """A name made from ``generateName``."""
    suffix = "".join(secrets.choice(_ALPHABET) for _ in range(_SUFFIX))
    return prefix[: _NAME_LIMIT - _SUFFIX] + suffix
