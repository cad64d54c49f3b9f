"""A server of S3, which may be away for a while and keeps what it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "logs"


class S3Server:
    """A server with one bucket. ``env`` leads clients to it."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        self.env = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        """Refuse connections."""
        self._server.stop()

    def start(self) -> None:
        """Serve again, at the same address."""
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def names(self) -> list[str]:
        """The names of all objects."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def text(self, name: str) -> str:
        """An object."""
        found: bytes = self._client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return found.decode()

    def described(self, name: str) -> dict[str, Any]:
        """The description of a log."""
        found: dict[str, Any] = json.loads(self.text(name.removesuffix(".log") + ".json"))
        return found


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server for a while."""
    made = S3Server()
    try:
        yield made
    finally:
        made.stop()
