"""Addresses of Redis, as URLs: what they say of TLS, as redis-py takes them, and as they are shown.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, urlsplit

#: What ``ssl_cert_reqs`` may say; Celery knows these words in capitals, after ``CERT_``, as well.
CERT_REQS = ("required", "optional", "none")
_WORDS = re.compile(r"(?<=[?&]ssl_cert_reqs=)(?:CERT_)?(REQUIRED|OPTIONAL|NONE)(?=&|$)")
_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*")


def tls_problem(url: str) -> tuple[str, str] | None:
    """Say what is wrong with an address' TLS, and the fix; None if nothing is.

    Where ``ssl_cert_reqs`` is left out the libraries disagree: redis-py verifies the server,
    Celery's result backend raises, and its broker connects to anybody.
    """
    parts = urlsplit(url)
    said = parse_qs(parts.query)
    if parts.scheme == "redis" and any(name.startswith("ssl_") for name in said):
        return "says ssl_… and is not encrypted", "begin it with rediss://"
    if parts.scheme != "rediss":
        return None
    if "ssl_cert_reqs" not in said:
        return "does not say whether the server is verified", "add ?ssl_cert_reqs=required"
    if said["ssl_cert_reqs"][-1].removeprefix("CERT_").lower() not in CERT_REQS:
        return (
            f"has the unknown ssl_cert_reqs={said['ssl_cert_reqs'][-1]!r}",
            f"use one of {', '.join(CERT_REQS)}",
        )
    if ("ssl_certfile" in said) != ("ssl_keyfile" in said):
        return "has one of ssl_certfile and ssl_keyfile", "give both, or neither"
    return None


def tls_problems(urls: Mapping[str, str | None]) -> Iterator[str]:
    """Say of some settings (name → address) what is wrong with their TLS: the setting, its address,
    the problem, the fix.
    """
    for name, url in urls.items():
        if url and (found := tls_problem(url)):
            yield f"{name}={mask(url)!r} {found[0]}; {found[1]}"


def verifies(url: str) -> bool:
    """Whether whoever connects to this address over TLS makes sure whom it speaks with; True
    without TLS.
    """
    return not url.startswith("rediss") or "ssl_cert_reqs=none" not in plain(url)


def unix(url: str) -> str:
    """Return the address with redis-py's word for a socket in place of Celery's."""
    return url.replace("redis+socket://", "unix://", 1)


def plain(url: str) -> str:
    """Return the address as redis-py takes it."""
    return _WORDS.sub(lambda found: found[1].lower(), unix(url))


def mask(url: str) -> str:
    """Return the address without its password."""
    scheme, found, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    shown = f"{scheme}{found}{credentials.partition(':')[0]}:**@{host}" if at else url
    return _PASSWORD.sub("**", shown)
