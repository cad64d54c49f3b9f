"""Every address of Redis on a page is one that the product takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from redis.connection import parse_url

from gpuqueue.model.redis_url import plain, tls_problem
from gpuqueue.settings.dispatcher import Settings
from tests.support.pages import PAGES, Page

#: An address, up to a quote, a space or the end of a code span.
ADDRESS = re.compile(r"(?:rediss?|redis\+socket)://[^\s'\"`|)]*[^\s'\"`|).,…]")
#: Placeholders of pages → a value of their kind.
PLACEHOLDERS = {"PORT": "6379"}


def addresses(page: Page) -> Iterator[str]:
    """Yield the addresses of a page: in commands as a shell passes them on, else as they stand."""
    for block in page.blocks("sh"):
        for word in shlex.split(block, comments=True):
            if found := re.search(r"(?:rediss?|redis\+socket)://.+", word):
                yield found[0]
    text = re.sub(r"^```sh\n.*?^```", "", page.text, flags=re.MULTILINE | re.DOTALL)
    yield from (each for each in ADDRESS.findall(text) if "…" not in each)


FOUND = sorted(
    {
        (address, page)
        for page in [*PAGES, "deploy/k8s/mlops-saas/base/secret.template.yaml"]
        for address in addresses(Page(page))
    }
)


def check_address(address: str) -> None:
    """Read an address as dispatchers do, then as the Redis client does."""
    for word, value in PLACEHOLDERS.items():
        address = address.replace(word, value)
    assert address.count("?") <= 1, "two queries"
    assert tls_problem(address) is None
    settings = Settings(CELERY_BROKER_URL=address, CELERY_RESULT_BACKEND=address)
    parse: Any = parse_url  # redis has no type for it
    parse(plain(settings.redis_url))


@pytest.mark.parametrize(("address", "page"), FOUND, ids=[f"{page}: {a}" for a, page in FOUND])
def test_an_address_on_a_page_is_one_that_settings_take(address: str, page: str) -> None:
    check_address(address)


def test_pages_show_an_address_with_tls() -> None:
    assert any(address.startswith("rediss://") for address, _ in FOUND)


@pytest.mark.parametrize(
    "address",
    [
        "rediss://redis.example:6379/0?ssl_cert_reqs=required?ssl_cert_reqs=required",
        "rediss://redis.example:6379/0",
        "rediss://redis.example:6379/0?ssl_cert_reqs=maybe",
        "redis://redis.example:6379/0?ssl_cert_reqs=required",
        "redis://redis.example:PORTS/0",
    ],
)
def test_a_wrong_address_would_be_found(address: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_address(address)
