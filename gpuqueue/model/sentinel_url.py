"""Addresses of a Redis behind Sentinels: ``sentinel://h1:26379;sentinel://h2:26379``, as in Celery.
Pure: no I/O, no clock.

Celery has the name of the primary and the options of the Sentinels beside the address. Here they
are parameters of the address, so that one text says where a Redis is::

    sentinel://:PASSWORD@h1:26379/0;sentinel://h2:26379?master_name=mymaster

User, password and database are those of the primary. The parameter ``sentinel_kwargs`` is a JSON
object with the options of the connections to the Sentinels themselves. Parameters ``ssl_…`` are the
TLS options of the connections to the primary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

SCHEME = "sentinel://"
PORT = 26379
#: The options of Celery's transports that tell which Redis an address leads to.
OPTIONS = ("master_name", "min_other_sentinels", "sentinel_kwargs")
_EACH = "write the same user, password and database in each of its addresses"


class WrongAddress(ValueError):
    """The address cannot be used: the problem, and the fix."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.problem, self.fix = problem, fix


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """An address, taken apart. ``tls`` has the names of redis-py."""

    sentinels: tuple[tuple[str, int], ...]
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def master_name(self) -> str:
        """The name of the primary; empty if unknown."""
        return str(self.options.get("master_name") or "")

    @property
    def sentinel_kwargs(self) -> dict[str, Any]:
        """The options of the connections to the Sentinels."""
        return dict(self.options.get("sentinel_kwargs") or {})

    def celery(self) -> str:
        """Return the address for Celery. All parts are alike: kombu reads the first one, and after
        a lost connection the next one alone.
        """
        user = "" if self.username is None else quote(self.username, safe="")
        if self.password is not None:
            user += f":{quote(self.password, safe='')}"
        head = f"{SCHEME}{user}{'@' if user else ''}"
        tail = f"/{self.db}" + (f"?{urlencode(self.tls)}" if self.tls else "")
        return ";".join(f"{head}{_host(host)}:{port}{tail}" for host, port in self.sentinels)

    def __str__(self) -> str:
        options = {
            name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
            for name, value in self.options.items()
        }
        if not options:
            return self.celery()
        return f"{self.celery()}{'&' if self.tls else '?'}{urlencode(options)}"

    def identity(self) -> str:
        """Return the Redis without user, password and TLS."""
        hosts = ",".join(sorted(f"{host.lower()}:{port}" for host, port in self.sentinels))
        return f"{hosts}/{self.master_name}/{self.db}"


def is_sentinel(url: str | None) -> bool:
    """Whether an address names Sentinels."""
    return bool(url) and str(url).startswith(SCHEME)


def parse(url: str, options: Mapping[str, Any] | None = None) -> SentinelAddress:
    """Take an address apart. ``options`` are those of Celery's transport: parameters of the address
    outrank them. Raises :class:`WrongAddress`.
    """
    parts = [_split(each) for each in url.split(";") if each]
    first = parts[0]
    query = _query(parts)
    found = {name: (options or {})[name] for name in OPTIONS if name in (options or {})}
    found |= {name: query[name] for name in OPTIONS if name in query}
    address = SentinelAddress(
        tuple((part.hostname or "localhost", part.port or PORT) for part in parts),
        _db(first) or 0,
        unquote(first.username) if first.username else None,
        unquote(first.password) if first.password else None,
        {name: value for name, value in query.items() if name.startswith("ssl_")},
        _checked(found),
    )
    for part in parts[1:]:
        named = unquote(part.username or ""), unquote(part.password or "")
        if any(named) and named != (address.username or "", address.password or ""):
            raise WrongAddress("has addresses of different users or passwords", _EACH)
        if _db(part) not in (None, address.db):
            raise WrongAddress(
                f"names database {_db(part)} and database {address.db}; Celery uses the first"
                " address's",
                _EACH,
            )
    return address


def _split(text: str) -> SplitResult:
    part = urlsplit(text)
    try:
        _ = part.port
    except ValueError as exc:
        raise WrongAddress(f"has a wrong port: {exc}", "use the port of a Sentinel") from None
    if part.scheme != "sentinel":
        raise WrongAddress(
            f"has an address that begins with {part.scheme or text.partition('/')[0]!r}",
            f"begin each of its addresses with {SCHEME}",
        )
    return part


def _query(parts: list[SplitResult]) -> dict[str, str]:
    query: dict[str, str] = {}
    for part in parts:
        for name, value in parse_qsl(part.query, keep_blank_values=True):
            if name not in OPTIONS and not name.startswith("ssl_"):
                known = ", ".join((*OPTIONS, "ssl_…"))
                raise WrongAddress(f"has the unknown parameter {name!r}", f"known are: {known}")
            if query.setdefault(name, value) != value:
                raise WrongAddress(f"has two values of {name}", "keep one")
    return query


def _db(part: SplitResult) -> int | None:
    text = part.path.strip("/")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal():
        raise WrongAddress(f"names the database {text!r}", "end it with a number, such as /0")
    return int(text)


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """Return the options with their types. Raises :class:`WrongAddress` for another type."""
    if "master_name" in found and not (
        isinstance(found["master_name"], str) and found["master_name"]
    ):
        raise WrongAddress(
            f"has master_name={found['master_name']!r}", "use the name in `sentinel monitor`"
        )
    if "min_other_sentinels" in found:
        try:
            found["min_other_sentinels"] = int(found["min_other_sentinels"])
        except (TypeError, ValueError):
            raise WrongAddress(
                f"has min_other_sentinels={found['min_other_sentinels']!r}", "use a whole number"
            ) from None
    if "sentinel_kwargs" in found:
        kwargs = found["sentinel_kwargs"]
        try:
            found["sentinel_kwargs"] = json.loads(kwargs) if isinstance(kwargs, str) else kwargs
        except ValueError:
            found["sentinel_kwargs"] = None
        if not isinstance(found["sentinel_kwargs"], dict):
            raise WrongAddress(
                "has sentinel_kwargs that are no JSON object", 'write e.g. {"password": "…"}'
            )
    return found


def masked(url: str) -> str:
    """Return the address without passwords, also of text that is no valid address."""
    return ";".join(_masked(each) for each in url.split(";"))


def _masked(part: str) -> str:
    scheme, found, rest = part.partition("://")
    credentials, at, host = rest.rpartition("@")
    shown = f"{scheme}{found}{credentials.partition(':')[0]}:**@{host}" if at else part
    head, mark, query = shown.partition("?")
    return head + mark + "&".join(_without_secret(query))


def _without_secret(query: str) -> Iterator[str]:
    for each in query.split("&"):
        name, equals, _ = each.partition("=")
        secret = name in ("sentinel_kwargs", "password") and equals
        yield f"{name}=**" if secret else each


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name
