"""Redis URLs: their TLS options, the form for redis-py, and the form without a password. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, urlsplit

#: The values of ``ssl_cert_reqs``; Celery also accepts them in capitals after ``CERT_``.
CERT_REQS = ("required", "optional", "none")
_WORDS = re.compile(r"(?<=[?&]ssl_cert_reqs=)(?:CERT_)?(REQUIRED|OPTIONAL|NONE)(?=&|$)")
_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*")


def tls_problem(url: str) -> tuple[str, str] | None:
    """Return the problem with the TLS options of an address, and the fix; None if there is none.

    Without ``ssl_cert_reqs`` the libraries differ: redis-py verifies the server, Celery's result
    backend raises an error, and its broker connects to any server.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    if parts.scheme == "redis" and any(name.startswith("ssl_") for name in options):
        return "has ssl_… options but no encryption", "begin it with rediss://"
    if parts.scheme != "rediss":
        return None
    if "ssl_cert_reqs" not in options:
        return "does not state whether to verify the server", "add ?ssl_cert_reqs=required"
    if options["ssl_cert_reqs"][-1].removeprefix("CERT_").lower() not in CERT_REQS:
        return (
            f"has the unknown ssl_cert_reqs={options['ssl_cert_reqs'][-1]!r}",
            f"use one of {', '.join(CERT_REQS)}",
        )
    if ("ssl_certfile" in options) != ("ssl_keyfile" in options):
        return "has only one of ssl_certfile and ssl_keyfile", "give both, or neither"
    return None


def tls_problems(urls: Mapping[str, str | None]) -> Iterator[str]:
    """Yield an error for each setting (name → address) with a problem in its TLS options."""
    for name, url in urls.items():
        if url and (found := tls_problem(url)):
            yield f"{name}={mask(url)!r} {found[0]}; {found[1]}"


def verifies(url: str) -> bool:
    """Return whether clients of this address verify the server; True without TLS."""
    return not url.startswith("rediss") or "ssl_cert_reqs=none" not in plain(url)


def unix(url: str) -> str:
    """Return the address with the scheme of redis-py for a socket instead of Celery's."""
    return url.replace("redis+socket://", "unix://", 1)


def plain(url: str) -> str:
    """Return the address in the form of redis-py."""
    return _WORDS.sub(lambda found: found[1].lower(), unix(url))


def mask(url: str) -> str:
    """Return the address without its password."""
    scheme, found, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    shown = f"{scheme}{found}{credentials.partition(':')[0]}:**@{host}" if at else url
    return _PASSWORD.sub("**", shown)
