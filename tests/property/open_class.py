"""The class ``t4`` with an open line and nothing in it, in a Redis that has nothing else."""

from __future__ import annotations

from typing import Any

import redis

from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.property.looks import Looks
from tests.support.model_time import Timed

NOW = 1_000_000.0


class OpenClass(Timed, Looks):
    """``line``: arguments of the line."""

    def __init__(self, client: redis.Redis, **line: Any) -> None:
        client.flushdb()
        self.client, self.now = client, NOW
        self.line, self.reader = Line(client, **line), Reader(client)
        self.line.open("t4")
