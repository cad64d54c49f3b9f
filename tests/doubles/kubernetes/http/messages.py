"""An HTTP request as it arrived, and the response to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

#: Sends some bytes of a streamed body; False once the client is gone.
Send = Callable[[bytes], bool]
Stream = Callable[[Send], None]


@dataclass(slots=True)
class Request:
    """One request. ``query`` has the last value of each parameter; names of ``headers`` are in
    lower case.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    path: str = field(init=False)
    query: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))

    def flag(self, name: str) -> bool:
        """Whether a boolean parameter is set."""
        return self.query.get(name, "").lower() in ("true", "1")


@dataclass(slots=True)
class Response:
    """What the client gets: a body, or a ``stream`` that is sent in chunks until it returns."""

    code: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    content_type: str = "application/json"
