"""The log of requests: a count for each verb and resource, and the latest requests one by one."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from threading import Lock


@dataclass(slots=True)
class RequestCount:
    """How many requests, and their bytes with headers. ``codes`` counts the status codes."""

    count: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    codes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request. ``code`` is 0 if its connection was cut before the response."""

    method: str
    target: str
    user: str
    code: int


class RequestLog:
    """Counts requests by (verb, resource), and keeps the latest ones.

    A subresource is named as in RBAC (``pods/log``). A path that is no resource counts as
    ``("get", "/version")``.
    """

    #: Requests kept one by one.
    LATEST = 2000

    def __init__(self) -> None:
        self.latest: deque[LoggedRequest] = deque(maxlen=self.LATEST)
        self._counts: dict[tuple[str, str], RequestCount] = {}
        self._lock = Lock()

    def __getitem__(self, key: tuple[str, str]) -> RequestCount:
        return self._counts.get(key, RequestCount())

    def items(self) -> dict[tuple[str, str], RequestCount]:
        """Return all counts by (verb, resource)."""
        with self._lock:
            return dict(self._counts)

    @property
    def count(self) -> int:
        """The number of all requests."""
        return sum(each.count for each in self.items().values())

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._counts.clear()
            self.latest.clear()

    def add(self, key: tuple[str, str], request: LoggedRequest, received: int, sent: int) -> None:
        """Count a request with the bytes that were ``received`` and ``sent``."""
        with self._lock:
            count = self._counts.setdefault(key, RequestCount())
            count.count += 1
            count.bytes_in += received
            count.bytes_out += sent
            count.codes[request.code] += 1
            self.latest.append(request)

    def streamed(self, key: tuple[str, str], sent: int) -> None:
        """Count bytes that a stream has sent so far."""
        with self._lock:
            self._counts.setdefault(key, RequestCount()).bytes_out += sent
