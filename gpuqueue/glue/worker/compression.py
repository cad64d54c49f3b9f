"""Compressed bodies, unpacked up to a size: 1 kB of a sender can hold a gigabyte."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu.compression import get_decoder

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.messages.message import LARGEST

#: Bytes of memory for the dictionary of LZMA: its largest preset needs 65 MiB.
_LZMA_MEMORY = 2**28
#: A decoder of kombu → makes what does the same up to a size. Other decoders need a package that a
#: dispatcher has only where it was installed with it.
_BOUNDED: dict[Any, Callable[[], Any]] = {
    zlib.decompress: zlib.decompressobj,
    bz2.decompress: bz2.BZ2Decompressor,
    lzma.decompress: lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
}


def unpacked(body: Any, compression: str, most: int | None = None) -> bytes:
    """Return a body without its compression.

    Raises:
        MalformedMessage: it has more bytes than ``most``, by default than a message may have.
        Exception: it cannot be unpacked; of any codec.
    """
    decoder = get_decoder(compression)
    if decoder not in _BOUNDED:
        return bytes(decoder(body))
    bounded, most = _BOUNDED[decoder](), LARGEST if most is None else most
    found = bytes(bounded.decompress(body, most + 1))
    if len(found) > most:
        raise MalformedMessage.field(
            "body",
            f"{len(body)} bytes of {compression}",
            f"has more than {most} bytes when it is unpacked",
            "pass large data in a volume or by URL",
        )
    if not bounded.eof:
        raise ValueError("the compressed body is incomplete")
    return found
