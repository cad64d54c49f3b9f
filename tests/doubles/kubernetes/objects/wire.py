"""JSON, times and names as the API server writes them."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder()

#: What generated names end with: no vowels, and nothing that reads like another.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX = 5
_NAME_LIMIT = 63
#: Names need not be secret, and thousands are drawn.
_drawn = random.Random()


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
    return _stamp(int(time.time() if at is None else at))


@lru_cache(maxsize=1024)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def micro_stamp() -> str:
    """Now, in microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_uid() -> str:
    """The uid of a new object."""
    return str(uuid.UUID(int=_drawn.getrandbits(128), version=4))


def new_digest() -> str:
    """An identity of 64 hexadecimal digits, as containers and images have it."""
    return f"{_drawn.getrandbits(256):064x}"


def new_address() -> str:
    """The address of a pod."""
    return f"10.88.{_drawn.randrange(256)}.{_drawn.randrange(2, 255)}"


def generated(prefix: str) -> str:
    """A name made from ``generateName``."""
    suffix = "".join(_drawn.choices(_ALPHABET, k=_SUFFIX))
    return prefix[: _NAME_LIMIT - _SUFFIX] + suffix
