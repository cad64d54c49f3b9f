"""Signed bodies as Celery's serializer ``auth`` makes them, without registering it in the test's
own process.
"""

from __future__ import annotations

import base64
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from celery.security.certificate import Certificate
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer
from redis import Redis

from tests.support.certificates import Pair

GPU = "gpu.t4.shared"
SIGNED = "application/data"


def keys_of(folder: Path, pair: Pair, *trusted: Pair) -> Path:
    """Lay out keys as the application of the tests wants them: its own pair, and whom it trusts
    beside itself.
    """
    (folder / "store").mkdir(parents=True)
    shutil.copy(pair.key, folder / "key.pem")
    shutil.copy(pair.certificate, folder / "cert.pem")
    for each in (pair, *trusted):
        shutil.copy(each.certificate, folder / "store" / each.certificate.name)
    return folder


def signed(pair: Pair, body: Any, serializer: str = "json") -> str:
    """Return a body signed with a key."""
    maker = SecureSerializer(
        PrivateKey(pair.key.read_text()),
        Certificate(pair.certificate.read_text()),
        serializer=serializer,
        digest="sha256",
    )
    made: str = maker.serialize(body)
    return made


def push(client: Redis, body: str, content_type: str = SIGNED, **headers: Any) -> str:
    """Put a message on the GPU queue as the transport would; answers its id."""
    job = uuid.uuid4().hex
    properties = {
        "body_encoding": "base64",
        "delivery_tag": job,
        "delivery_info": {"exchange": "", "routing_key": GPU},
        "priority": 0,
        "correlation_id": job,
    }
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": {"id": job, "task": "ledger.gpu_note", "lang": "py"} | headers,
        "properties": properties,
    }
    client.lpush(GPU, json.dumps(message))
    return job


def other_content(body: str, content_type: str) -> str:
    """Return a signed body that says it holds something else than what was signed."""
    fields = base64.b64decode(body).split(b"\x00\x01", maxsplit=4)
    fields[2] = content_type.encode()
    return base64.b64encode(b"\x00\x01".join(fields)).decode()


def other_body(body: str, new: Any) -> str:
    """Return a signed body with another in place of what was signed."""
    fields = base64.b64decode(body).split(b"\x00\x01", maxsplit=4)
    fields[4] = json.dumps(new).encode()
    return base64.b64encode(b"\x00\x01".join(fields)).decode()
