"""Redis addresses (URLs): their TLS options, their form for redis-py, their form for messages.
Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TypeGuard
from urllib.parse import parse_qs, unquote, urlsplit

from gpuqueue.model import sentinel_url

#: Values of ``ssl_cert_reqs``. Celery also takes them in capitals, after ``CERT_``.
CERT_REQS = ("required", "optional", "none")
_WORDS = re.compile(r"(?<=[?&]ssl_cert_reqs=)(?:CERT_)?(REQUIRED|OPTIONAL|NONE)(?=&|$)")
_DATABASE = re.compile(r"(?<=[?&])virtual_host=(?:/|%2[Ff])?")
#: What the address of the state may say after its question mark, beside options of TLS.
STATE_OPTIONS = (
    "db", "virtual_host", "username", "password", "client_name", "protocol", "socket_timeout",
    "socket_connect_timeout", "socket_keepalive", "health_check_interval", "max_connections",
)  # fmt: skip
_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*")


def tls_problem(url: str) -> tuple[str, str] | None:
    """Return the problem of an address with TLS, and the fix; None if there is none.

    Without ``ssl_cert_reqs`` the libraries disagree: redis-py verifies the server, Celery's result
    backend raises, and Celery's broker connects to any server.
    """
    parts = urlsplit(url)
    if sentinel_url.is_sentinel(url):
        options = {name: [value] for name, value in sentinel_url.parse(url).tls.items()}
        return _verification(options) if options else None
    options = parse_qs(parts.query)
    if parts.scheme == "redis" and any(name.startswith("ssl_") for name in options):
        return "has ssl_… options and no encryption", "begin it with rediss://"
    return _verification(options) if parts.scheme == "rediss" else None


def _verification(options: Mapping[str, list[str]]) -> tuple[str, str] | None:
    if "ssl_cert_reqs" not in options:
        return (
            "has no ssl_cert_reqs, so the server may be unverified",
            "add ?ssl_cert_reqs=required",
        )
    if options["ssl_cert_reqs"][-1].removeprefix("CERT_").lower() not in CERT_REQS:
        return (
            f"has the unknown ssl_cert_reqs={options['ssl_cert_reqs'][-1]!r}",
            f"use one of {', '.join(CERT_REQS)}",
        )
    if ("ssl_certfile" in options) != ("ssl_keyfile" in options):
        return "has only one of ssl_certfile and ssl_keyfile", "set both or neither"
    return None


def tls_problems(urls: Mapping[str, str | None]) -> Iterator[str]:
    """Yield an error text for each setting (name → address) with a TLS problem."""
    for name, url in urls.items():
        if url and (found := tls_problem(url)):
            yield f"{name}={mask(url)!r} {found[0]}; {found[1]}"


def is_redis(url: str | None) -> TypeGuard[str]:
    """Whether an address leads to Redis, directly or through Sentinels."""
    return bool(url) and str(url).startswith(("redis", "unix://", sentinel_url.SCHEME))


def has_wrong_port(url: str) -> bool:
    """Whether an address of one Redis names a port that is no number, or too large."""
    if sentinel_url.is_sentinel(url):
        return False  # of several addresses: sentinel_url tells which is wrong
    try:
        _ = urlsplit(url).port
    except ValueError:
        return True
    return False


def has_wrong_database(url: str) -> bool:
    """Whether an address of one Redis names a database that is no number: Celery refuses it, and
    redis-py takes database 0.
    """
    if not url.startswith(("redis://", "rediss://")):
        return False
    database = unquote(urlsplit(url).path).strip("/")
    return bool(database) and not (database.isascii() and database.isdecimal())


def has_several(url: str) -> bool:
    """Whether an address of one Redis names several servers, as Celery takes them for failover."""
    return not sentinel_url.is_sentinel(url) and re.search(r";\s*[a-z+]+://", url) is not None


def unknown_option(url: str, known: Collection[str] = ()) -> str | None:
    """Return an option in the address of one Redis that is neither ``known`` nor one of TLS.
    Celery's broker takes no other.
    """
    if not url.startswith(("redis://", "rediss://")):
        return None
    options = parse_qs(urlsplit(url).query, keep_blank_values=True)
    unknown = (each for each in options if not each.startswith("ssl_") and each not in known)
    return next(unknown, None)


def uses_tls(url: str) -> bool:
    """Whether a client of this address uses TLS."""
    if sentinel_url.is_sentinel(url):
        return bool(sentinel_url.parse(url).tls)
    return url.startswith("rediss://")


def verifies(url: str) -> bool:
    """Whether a client of this address verifies the server; True without TLS."""
    if sentinel_url.is_sentinel(url):
        given = sentinel_url.parse(url).tls.get("ssl_cert_reqs", "")
        return given.removeprefix("CERT_").lower() != "none"
    return not url.startswith("rediss") or "ssl_cert_reqs=none" not in plain(url)


def unix(url: str) -> str:
    """Return the address with redis-py's names of a socket and of its database in place of those
    of Celery.
    """
    return _DATABASE.sub("db=", url.replace("redis+socket://", "unix://", 1))


def plain(url: str) -> str:
    """Return the address in the form that redis-py takes."""
    return _WORDS.sub(lambda found: found[1].lower(), unix(url))


def mask(url: str) -> str:
    """Return the address without its password."""
    if sentinel_url.is_sentinel(url):
        return sentinel_url.masked(url)
    scheme, found, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    shown = f"{scheme}{found}{credentials.partition(':')[0]}:**@{host}" if at else url
    return _PASSWORD.sub("**", shown)
