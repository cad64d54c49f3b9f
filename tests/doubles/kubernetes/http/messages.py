"""A request as it came over the wire, what it asks for, and what is answered."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from urllib.parse import parse_qsl, urlsplit

from tests.doubles.kubernetes.objects.errors import no_such_path, not_allowed
from tests.doubles.kubernetes.objects.kinds import BY_PATH, NAMESPACES, SUBRESOURCES, Resource

#: Sends some bytes of a body that is streamed; False once the client is gone.
Send = Callable[[bytes], bool]
Stream = Callable[[Send], None]


@dataclass(slots=True)
class Request:
    """One request: ``query`` has the last value of each parameter, ``headers`` have lower-case
    names.
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
        """A parameter that is yes or no."""
        return self.query.get(name, "").lower() in ("true", "1")


@dataclass(slots=True)
class Answer:
    """What is sent back: a body, or a ``stream`` that is sent in chunks until it returns."""

    code: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request is about. ``verb`` as in RBAC: get, list, watch, create, delete, patch,
    update.
    """

    verb: str
    resource: Resource
    namespace: str
    name: str
    sub: str

    @property
    def space(self) -> str:
        """The namespace that the object is kept in: a namespace itself is in none."""
        return self.namespace if self.resource.namespaced else ""


_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def ask_of(request: Request) -> Ask:
    """Read the URL.

    Raises:
        Refused: 404, nothing is served there; 405, not with this method.
    """
    steps = [step for step in request.path.split("/") if step]
    if steps[:2] == ["api", "v1"]:
        group, rest = "", steps[2:]
    elif steps[:1] == ["apis"] and len(steps) > 3:
        group, rest = steps[1], steps[3:]
        if steps[2] != "v1":
            raise no_such_path()
    else:
        raise no_such_path()
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, rest[0])) if rest else None
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_path()
    name, sub = (*rest[1:], "", "")[:2]
    if sub and sub not in SUBRESOURCES.get(resource, ()):
        raise no_such_path()
    verb = _VERBS.get(request.method)
    if verb is None or (verb == "create" and bool(name) is not bool(sub)):
        raise not_allowed()
    if verb == "get" and not name:
        verb = "watch" if request.flag("watch") else "list"
    elif verb == "delete" and not name:
        verb = "deletecollection"
    if resource is NAMESPACES:
        namespace = name
    return Ask(verb, resource, namespace, name, sub)


@dataclass(slots=True)
class Tally:
    """How many requests, and their bytes with headers; ``codes`` counts the answers."""

    count: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    codes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was answered; ``code`` is 0 if it was cut or left without an answer."""

    method: str
    target: str
    user: str
    code: int


class RequestLog:
    """What was asked: a tally for each (verb, resource), and the latest requests one by one.

    A subresource is named as in RBAC (``pods/log``); what is no resource counts as ``("get",
    "/version")``.
    """

    #: Requests kept one by one.
    LATEST = 2000

    def __init__(self) -> None:
        self.latest: deque[Seen] = deque(maxlen=self.LATEST)
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._lock = Lock()

    def __getitem__(self, key: tuple[str, str]) -> Tally:
        return self._tallies.get(key, Tally())

    def items(self) -> dict[tuple[str, str], Tally]:
        """All tallies."""
        with self._lock:
            return dict(self._tallies)

    @property
    def count(self) -> int:
        """All requests."""
        return sum(tally.count for tally in self.items().values())

    def clear(self) -> None:
        """Count from nothing."""
        with self._lock:
            self._tallies.clear()
            self.latest.clear()

    def add(self, key: tuple[str, str], seen: Seen, bytes_in: int, bytes_out: int) -> None:
        """Count a request."""
        with self._lock:
            tally = self._tallies.setdefault(key, Tally())
            tally.count += 1
            tally.bytes_in += bytes_in
            tally.bytes_out += bytes_out
            tally.codes[seen.code] += 1
            self.latest.append(seen)

    def streamed(self, key: tuple[str, str], bytes_out: int) -> None:
        """Count what a stream sends while it lasts."""
        with self._lock:
            self._tallies.setdefault(key, Tally()).bytes_out += bytes_out
