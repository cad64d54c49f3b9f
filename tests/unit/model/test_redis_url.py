"""What an address of Redis says of TLS, and that no password of it is ever shown."""

from __future__ import annotations

import pytest

from gpuqueue.errors import SettingsError
from gpuqueue.model.redis_url import mask, plain, tls_problem, verifies
from gpuqueue.settings.dispatcher import load

PROBLEMS: dict[str, tuple[str, str]] = {
    "TLS without a word on verification": (
        "rediss://r/0",
        "has no ssl_cert_reqs, so the server may be unverified; add ?ssl_cert_reqs=required",
    ),
    "an authority alone": (
        "rediss://r/0?ssl_ca_certs=/ca",
        "has no ssl_cert_reqs, so the server may be unverified",
    ),
    "an unknown word": (
        "rediss://r/0?ssl_cert_reqs=always",
        "has the unknown ssl_cert_reqs='always'; use one of required,",
    ),
    "words of TLS without TLS": (
        "redis://r/0?ssl_cert_reqs=required",
        "has ssl_… options and no encryption; begin it with rediss://",
    ),
    "a certificate without its key": (
        "rediss://r/0?ssl_cert_reqs=required&ssl_certfile=/c",
        "has only one of ssl_certfile and ssl_keyfile; set both or neither",
    ),
}


@pytest.mark.parametrize(("url", "words"), PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize(
    "setting", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "GPUQUEUE_REDIS_URL"]
)
def test_an_address_that_cannot_be_meant_so_is_refused(
    setting: str, url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://r/0")
    monkeypatch.setenv(setting, url.replace("://", "://me:secret@"))
    with pytest.raises(SettingsError) as raised:
        load()
    assert str(raised.value).startswith(f"{setting}='{url.replace('://', '://me:**@')}' {words}")


@pytest.mark.parametrize(
    "url",
    [
        "redis://r/0",
        "redis+socket:///run/redis.sock",
        "rediss://r/0?ssl_cert_reqs=required&ssl_ca_certs=/ca",
        "rediss://r/0?ssl_cert_reqs=CERT_REQUIRED",
        "rediss://r/0?ssl_cert_reqs=none",
        "rediss://r/0?ssl_cert_reqs=required&ssl_certfile=/c&ssl_keyfile=/k",
    ],
)
def test_an_address_that_can_be_meant_so_is_taken(url: str) -> None:
    assert tls_problem(url) is None


def test_celery_names_of_tls_options_become_those_of_redis() -> None:
    assert plain("rediss://r/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca") == (
        "rediss://r/0?ssl_cert_reqs=required&ssl_ca_certs=/ca"
    )
    assert plain("rediss://u:ssl_cert_reqs=CERT_NONE@r/0?ssl_cert_reqs=optional") == (
        "rediss://u:ssl_cert_reqs=CERT_NONE@r/0?ssl_cert_reqs=optional"
    )


@pytest.mark.parametrize("name", ["?virtual_host=3", "?virtual_host=/3", "?virtual_host=%2F3"])
def test_the_database_of_a_socket_is_that_of_celery(name: str) -> None:
    assert plain(f"redis+socket:///run/a%20b.sock{name}") == "unix:///run/a%20b.sock?db=3"


def test_an_address_without_certificate_checks_is_recognized() -> None:
    assert not verifies("rediss://r/0?ssl_cert_reqs=CERT_NONE") and not verifies(
        "rediss://r/0?a=b&ssl_cert_reqs=none"
    )
    assert verifies("rediss://r/0?ssl_cert_reqs=required") and verifies("redis://r/0")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://r:1/0", "redis://r:1/0"),
        ("redis://:pw@r/0", "redis://:**@r/0"),
        (
            "rediss://me:p@w:d@r/0?ssl_cert_reqs=required",
            "rediss://me:**@r/0?ssl_cert_reqs=required",
        ),
        ("redis://r/0?username=me&password=pw&db=2", "redis://r/0?username=me&password=**&db=2"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert mask(url) == shown


def test_a_wrong_address_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://me:secret@r")
    with pytest.raises(SettingsError) as raised:
        load()
    assert "secret" not in str(raised.value)
