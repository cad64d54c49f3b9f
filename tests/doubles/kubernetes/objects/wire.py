"""JSON, times and names as the API server writes them."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from tests.doubles.kubernetes import clock

encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder()

#: Letters of the suffix of generated names: no vowels, and no look-alikes.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX = 5
_NAME_LIMIT = 63
#: Names need not be secret, and this is much faster than the system's random source.
_random = random.Random()


def decode(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def stamp(at: float | None = None) -> str:
    """Return a time in seconds, ``2026-11-23T16:12:15Z``: now, or the given Unix seconds."""
    return _stamp(int(clock.now() if at is None else at))


@lru_cache(maxsize=1024)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def micro_stamp() -> str:
    """Return the current time in microseconds."""
    return datetime.fromtimestamp(clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_uid() -> str:
    """Return the uid of a new object."""
    return str(uuid.UUID(int=_random.getrandbits(128), version=4))


def new_digest() -> str:
    """Return 64 random hexadecimal digits, as the ids of containers and images have them."""
    return f"{_random.getrandbits(256):064x}"


def new_address() -> str:
    """Return the address of a new pod."""
    return f"10.88.{_random.randrange(256)}.{_random.randrange(2, 255)}"


def generated(prefix: str) -> str:
    """Return a name made from ``generateName``."""
    suffix = "".join(_random.choices(_ALPHABET, k=_SUFFIX))
    return prefix[: _NAME_LIMIT - _SUFFIX] + suffix
