"""Bodies are unpacked as kombu does it, and no further than a size."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import pytest
from kombu import Connection
from kombu.compression import compress

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.worker.compression import unpacked
from gpuqueue.glue.worker.envelope import open_envelope

KINDS = ("application/x-gzip", "application/x-bz2", "application/x-lzma", "zlib")
BODY = b'[["' + b"a" * 1000 + b'"], {}, {}]'


def envelope(body: bytes, kind: str) -> bytes:
    made: dict[str, Any] = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "j", "task": "shop.add", "compression": kind},
        "properties": {"body_encoding": "base64"},
    }
    return json.dumps(made).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_is_unpacked_up_to_its_size(kind: str) -> None:
    packed, mime = compress(BODY, kind)
    assert unpacked(packed, mime, len(BODY)) == BODY
    with pytest.raises(MalformedMessage, match=r"has more than 1013 bytes when it is unpacked; "):
        unpacked(packed, mime, len(BODY) - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_incomplete_body_is_an_error(kind: str) -> None:
    packed, mime = compress(BODY, kind)
    with pytest.raises(ValueError, match="incomplete"):
        unpacked(packed[:-1], mime)


@pytest.mark.parametrize("kind", KINDS)
def test_the_envelope_has_the_unpacked_body(kind: str) -> None:
    packed, problem = open_envelope(
        Connection("memory://").channel(), envelope(compress(BODY, kind)[0], kind)
    )
    assert problem is None
    assert packed["body"].encode() == BODY
    assert "compression" not in packed["headers"]


def test_a_body_that_unpacks_to_gigabytes_is_refused_at_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = compress(bytes(3 * 10**7), "bzip2")[0]
    assert len(bomb) < 100
    monkeypatch.setattr("gpuqueue.glue.worker.compression.LARGEST", 10**6)
    tracemalloc.start()
    try:
        packed, problem = open_envelope(
            Connection("memory://").channel(), envelope(bomb, "application/x-bz2")
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10**7
    assert packed["headers"]["id"] == "j"
    assert packed["body"] == ""
    assert "when it is unpacked; pass large data in a volume or by URL" in str(problem)
