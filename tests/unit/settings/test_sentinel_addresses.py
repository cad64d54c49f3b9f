"""Addresses of Sentinels, as Celery has them and as the queue's state has them."""

from __future__ import annotations

import json

import pytest
from kombu import Connection

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.manifest.names import identity_of
from gpuqueue.model.celery_redis import NAMES, CeleryRedis, for_celery, read
from gpuqueue.model.redis_url import mask, tls_problem, uses_tls, verifies
from gpuqueue.model.sentinel_url import parse
from gpuqueue.settings.dispatcher import load
from tests.unit.settings.conftest import SetAll

BROKER = "sentinel://:pw@h1:26379/1;sentinel://h2"
MASTER = '{"master_name": "m"}'
COMPLETE = "sentinel://:pw@h1:26379/1;sentinel://:pw@h2:26379/1?master_name=m"

#: settings → what their error says
WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no name of the primary": (
        {"CELERY_BROKER_URL": "sentinel://:pw@h/0"},
        "CELERY_BROKER_URL='sentinel://:**@h/0' has no master_name; set"
        " GPUQUEUE_BROKER_TRANSPORT_OPTIONS to",
    ),
    "a backend with no name of the primary": (
        {"CELERY_BROKER_URL": "redis://h/0", "CELERY_RESULT_BACKEND": "sentinel://h"},
        "CELERY_RESULT_BACKEND='sentinel://h' has no master_name; set"
        " GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS to",
    ),
    "a state with no name of the primary": (
        {"CELERY_BROKER_URL": "redis://h/0", "GPUQUEUE_REDIS_URL": "sentinel://h"},
        "GPUQUEUE_REDIS_URL='sentinel://h' has no master_name; set",
    ),
    "an empty name of the primary": (
        {"CELERY_BROKER_URL": "sentinel://h?master_name="},
        "has master_name=''; use the name in `sentinel monitor`",
    ),
    "a number as name of the primary": (
        {
            "CELERY_BROKER_URL": "sentinel://h",
            "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": '{"master_name": 1}',
        },
        "has master_name=1; use the name",
    ),
    "options that are no JSON": (
        {
            "CELERY_BROKER_URL": "redis://h",
            "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": "{master_name: m, password: geheim}",
        },
        "GPUQUEUE_BROKER_TRANSPORT_OPTIONS='{master_name: m, password: **}' is no JSON: ",
    ),
    "options that are no object": (
        {"GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS": '["m"]'},
        "GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS='[\"m\"]' is no JSON object; write",
    ),
    "a prefix that is no text": (
        {"GPUQUEUE_BROKER_TRANSPORT_OPTIONS": '{"global_keyprefix": 7}'},
        "global_keyprefix=7 is no text; write it in quotes",
    ),
    "a database of one address alone": (
        {"CELERY_BROKER_URL": "sentinel://h1;sentinel://h2/3?master_name=m"},
        "names database 3 and database 0; Celery uses the first address's; write the same",
    ),
    "a database that is no number": (
        {"CELERY_BROKER_URL": "sentinel://h1/mymaster"},
        "names the database 'mymaster'; end it with a number",
    ),
    "passwords that differ": (
        {"CELERY_BROKER_URL": "sentinel://:a@h1;sentinel://:b@h2?master_name=m"},
        "has addresses of different users or passwords; write the same",
    ),
    "another scheme in the list": (
        {"CELERY_BROKER_URL": "sentinel://h1;redis://h2"},
        "has an address that begins with 'redis'; begin each of its addresses with sentinel://",
    ),
    "a host without scheme in the list": (
        {"CELERY_BROKER_URL": "sentinel://h1;h2:26379"},
        "has an address that begins with 'h2'",
    ),
    "a port that is none": (
        {"CELERY_BROKER_URL": "sentinel://h1:70000"},
        "has a wrong port",
    ),
    "a parameter that no library knows": (
        {"CELERY_BROKER_URL": "sentinel://h1?master=m"},
        "has the unknown parameter 'master'; known are: master_name",
    ),
    "two names of the primary": (
        {"CELERY_BROKER_URL": "sentinel://h1?master_name=a;sentinel://h2?master_name=b"},
        "has two values of master_name; keep one",
    ),
    "options of the Sentinels that are no object": (
        {"CELERY_BROKER_URL": "sentinel://h1?master_name=m&sentinel_kwargs=pw"},
        "has sentinel_kwargs that are no JSON object; write e.g.",
    ),
    "a number of Sentinels that is none": (
        {"CELERY_BROKER_URL": "sentinel://h1?master_name=m&min_other_sentinels=two"},
        "has min_other_sentinels='two'; use a whole number",
    ),
    "TLS without a word on verification": (
        {"CELERY_BROKER_URL": "sentinel://h1?master_name=m&ssl_ca_certs=/ca"},
        "has no ssl_cert_reqs, so the server may be unverified",
    ),
}


@pytest.mark.parametrize(("environ", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_address_is_refused_with_its_fix(
    environ: dict[str, str], text: str, set_all: SetAll
) -> None:
    set_all(environ)
    with pytest.raises(SettingsError) as caught:
        load()
    assert text in str(caught.value)
    assert "geheim" not in str(caught.value) and ":a@" not in str(caught.value)


def made(**options: str) -> CeleryRedis:
    return read({name: options.get(name) for name in NAMES})


def test_all_three_addresses_are_those_of_the_broker_by_default() -> None:
    found = made(CELERY_BROKER_URL=BROKER, GPUQUEUE_BROKER_TRANSPORT_OPTIONS=MASTER)
    assert (found.broker, found.backend, found.state) == (COMPLETE, COMPLETE, COMPLETE)
    assert found.celery() == {
        "broker_url": "sentinel://:pw@h1:26379/1;sentinel://:pw@h2:26379/1",
        "result_backend": "sentinel://:pw@h1:26379/1;sentinel://:pw@h2:26379/1",
        "broker_transport_options": {"master_name": "m"},
        "result_backend_transport_options": {"master_name": "m"},
    }


def test_the_name_of_the_primary_may_be_a_parameter() -> None:
    found = made(CELERY_BROKER_URL="sentinel://h1;sentinel://h2/0?master_name=m")
    assert found.celery()["broker_transport_options"] == {"master_name": "m"}
    assert found.celery()["broker_url"] == "sentinel://h1:26379/0;sentinel://h2:26379/0"
    assert found.state == "sentinel://h1:26379/0;sentinel://h2:26379/0?master_name=m"


def test_a_prefix_of_the_broker_is_not_one_of_the_result_backend() -> None:
    """As in Celery, which has separate options for both."""
    options = '{"master_name": "m", "global_keyprefix": "shop:", "sentinel_kwargs": {"a": 1}}'
    found = made(CELERY_BROKER_URL=BROKER, GPUQUEUE_BROKER_TRANSPORT_OPTIONS=options)
    assert (found.broker_prefix, found.backend_prefix) == ("shop:", "")
    assert found.backend_options == {"master_name": "m", "sentinel_kwargs": {"a": 1}}


@pytest.mark.parametrize(("prefix", "keys"), [("shop", "shop_"), ("shop:", "shop:"), ("", "")])
def test_the_prefix_of_results_ends_with_a_mark(prefix: str, keys: str) -> None:
    options = json.dumps({"global_keyprefix": prefix})
    found = made(CELERY_BROKER_URL="redis://h", GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS=options)
    assert found.backend_prefix == keys


def test_the_state_may_have_another_primary_of_the_same_sentinels() -> None:
    found = made(
        CELERY_BROKER_URL=BROKER,
        GPUQUEUE_BROKER_TRANSPORT_OPTIONS=MASTER,
        GPUQUEUE_REDIS_URL="sentinel://h1/2?master_name=state",
    )
    assert found.state == "sentinel://h1:26379/2?master_name=state"
    assert found.broker == COMPLETE


def test_another_process_makes_the_same_of_the_environment() -> None:
    first = made(
        CELERY_BROKER_URL=BROKER,
        CELERY_RESULT_BACKEND="redis://r/3",
        GPUQUEUE_BROKER_TRANSPORT_OPTIONS='{"master_name": "m", "global_keyprefix": "s:",'
        ' "sentinel_kwargs": {"password": "x&y;z"}}',
        GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS='{"global_keyprefix": "r"}',
    )
    assert read(first.environment()) == first


def test_kombu_finds_user_and_database_in_each_address() -> None:
    """After a lost connection it reads the next one alone."""
    celery = for_celery(BROKER.replace(":pw", "me:p%2Fw"))
    connection = Connection(celery)
    for _ in range(3):
        connection.maybe_switch_next()
        assert (connection.userid, connection.password) == ("me", "p/w")
        assert connection.virtual_host in ("1", "/1")


def test_tls_reaches_broker_and_result_backend() -> None:
    url = "sentinel://h1/0?ssl_cert_reqs=required&ssl_ca_certs=/ca&master_name=m"
    celery = made(CELERY_BROKER_URL=url).celery()
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca"}
    assert (celery["broker_use_ssl"], celery["redis_backend_use_ssl"]) == (tls, tls)
    assert uses_tls(url) and verifies(url) and tls_problem(url) is None
    assert not verifies(url.replace("required", "CERT_NONE"))
    assert not uses_tls(BROKER) and verifies(BROKER)


def test_an_address_with_ipv6_keeps_its_brackets() -> None:
    assert for_celery("sentinel://[::1]:5") == "sentinel://[::1]:5/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (BROKER, "sentinel://:**@h1:26379/1;sentinel://h2"),
        (
            "sentinel://u:a@h;sentinel://u:a@i?sentinel_kwargs=%7B%22password%22&master_name=m",
            "sentinel://u:**@h;sentinel://u:**@i?sentinel_kwargs=**&master_name=m",
        ),
    ],
)
def test_no_password_of_sentinels_is_shown(url: str, shown: str) -> None:
    assert mask(url) == shown


def test_the_owner_of_jobs_does_not_depend_on_the_order_of_sentinels() -> None:
    one = identity_of("sentinel://:a@h1;sentinel://h2?master_name=m")
    assert one == identity_of("sentinel://:b@h2;sentinel://H1/0?master_name=m")
    assert one != identity_of("sentinel://h1;sentinel://h2?master_name=n")
    assert one != identity_of("sentinel://h1/1;sentinel://h2/1?master_name=m")


def test_parameters_of_the_address_outrank_options() -> None:
    assert parse("sentinel://h?master_name=a", {"master_name": "b"}).master_name == "a"
