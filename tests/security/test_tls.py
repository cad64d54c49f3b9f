"""TLS to Redis, by addresses alone: jobs run, a server that cannot prove who it is is refused, and
the error says what to do.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.errors import ServerNotTrusted, ServerUnreachable
from gpuqueue.store.client import check, connect
from tests.security.acl_redis import USERS, AclRedis
from tests.security.secured_stack import SecuredStack, fetch
from tests.support.certificates import Authority, Pair
from tests.support.gate import HOST, Gate
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@contextmanager
def gate(
    server: EmbeddedRedis | AclRedis, pair: Pair, clients: Path | None = None
) -> Iterator[int]:
    """A TLS port of a server; with ``clients`` it takes only whom that authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    to = (
        server.port
        if isinstance(server, AclRedis)
        else int(server.url.rpartition(":")[2].partition("/")[0])
    )
    with Gate(to, context=context) as made:
        yield made.port


def broker(url: str) -> None:
    app = Celery("client", broker=url)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            connection.default_channel.client.ping()
    finally:
        app.close()


def backend(url: str) -> None:
    app = Celery("client", backend=url)
    app.backend.client.ping()
    app.close()


def state(url: str) -> None:
    check(connect(url, retries=0), url, "GPUQUEUE_REDIS_URL")


THREE = [pytest.param(each, id=each.__name__) for each in (state, broker, backend)]


@pytest.mark.parametrize("speak", THREE)
@pytest.mark.parametrize("word", ["required", "CERT_REQUIRED"])
def test_a_server_of_the_right_authority_is_spoken_with(
    server: EmbeddedRedis, authority: Authority, speak: Any, word: str
) -> None:
    with gate(server, authority.issue("redis", [HOST])) as port:
        speak(f"rediss://{HOST}:{port}/0?ssl_cert_reqs={word}&ssl_ca_certs={authority.pem}")


@pytest.mark.parametrize("speak", THREE)
@pytest.mark.parametrize("whose", ["another authority's", "another host's"])
def test_wrong_certificate_is_rejected_by_every_client(
    server: EmbeddedRedis, authority: Authority, tmp_path: Path, speak: Any, whose: str
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("redis", [HOST])
    pair = (
        stranger if whose == "another authority's" else authority.issue("other", ["redis.example"])
    )
    with gate(server, pair) as port, pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        speak(f"rediss://{HOST}:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={authority.pem}")


@pytest.mark.parametrize("speak", THREE)
def test_a_server_may_want_certificates_of_its_clients(
    server: EmbeddedRedis, authority: Authority, speak: Any
) -> None:
    me = authority.issue("client")
    with gate(server, authority.issue("redis", [HOST]), authority.pem) as port:
        url = f"rediss://{HOST}:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={authority.pem}"
        speak(f"{url}&ssl_certfile={me.certificate}&ssl_keyfile={me.key}")
        with pytest.raises(
            Exception, match=r"closed by server|TLSV13_ALERT_CERTIFICATE_REQUIRED|Connection reset"
        ):
            speak(url)


def said(server: EmbeddedRedis, pair: Pair, query: str) -> ServerUnreachable:
    with gate(server, pair) as port, pytest.raises(ServerUnreachable) as raised:
        state(f"rediss://me:secret@{HOST}:{port}/0?ssl_cert_reqs=required{query}")
    assert str(raised.value).startswith(f"GPUQUEUE_REDIS_URL='rediss://me:**@{HOST}:")
    assert "secret" not in str(raised.value)
    return raised.value


def test_the_error_names_the_certificate_problem_and_its_fix(
    server: EmbeddedRedis, authority: Authority, tmp_path: Path
) -> None:
    ca = f"&ssl_ca_certs={authority.pem}"
    stranger = said(server, Authority(tmp_path, "stranger").issue("redis", [HOST]), ca)
    other = said(server, authority.issue("other", ["redis.example"]), ca)
    nothing = said(server, authority.issue("redis", [HOST]), "&ssl_ca_certs=/no/such/file")
    assert str(stranger).endswith(
        "; set ssl_ca_certs in GPUQUEUE_REDIS_URL to the certificate of its authority"
    )
    assert str(other).endswith("; use a host in GPUQUEUE_REDIS_URL that its certificate covers")
    assert "check that the files in GPUQUEUE_REDIS_URL" in str(nothing)
    assert {type(each) for each in (stranger, other, nothing)} == {ServerNotTrusted}


def test_an_expired_certificate_is_distinguished_from_an_untrusted_one(
    server: EmbeddedRedis, authority: Authority
) -> None:
    old = authority.issue("old", [HOST], ends=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1))
    assert str(said(server, old, f"&ssl_ca_certs={authority.pem}")).endswith(
        "; renew the certificate of Redis"
    )


def test_a_port_without_tls_is_distinguished_from_an_unreachable_server(
    server: EmbeddedRedis, authority: Authority
) -> None:
    port = server.url.rpartition(":")[2]
    url = f"rediss://{HOST}:{port}?ssl_cert_reqs=required&ssl_ca_certs={authority.pem}"
    with pytest.raises(
        ServerUnreachable,
        match="; start Redis there, check that it uses TLS on this port, or correct",
    ):
        check(connect(url, timeout=1, retries=0), url)


# -- all who take part -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acl_redis_over_tls(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[tuple[AclRedis, int]]:
    """A Redis with users, behind a TLS port that wants a certificate of its clients as well."""
    pair = authority.issue("redis", [HOST])
    with (
        AclRedis(tmp_path_factory.mktemp("redis")) as made,
        gate(made, pair, authority.pem) as port,
    ):
        yield made, port


@pytest.mark.slow
def test_jobs_run_end_to_end_over_tls_and_no_password_is_in_any_log(
    acl_redis_over_tls: tuple[AclRedis, int], authority: Authority, tmp_path: Path
) -> None:
    acl_redis, port = acl_redis_over_tls
    me = authority.issue("client")
    query = (
        f"ssl_cert_reqs=required&ssl_ca_certs={authority.pem}"
        f"&ssl_certfile={me.certificate}&ssl_keyfile={me.key}"
    )
    urls = {
        user: f"rediss://gpuqueue-{user}:{acl_redis.passwords[user]}@{HOST}:{port}/0?{query}"
        for user in USERS
    }
    with SecuredStack(tmp_path, urls, cluster=True) as stack:
        stack.dispatcher()
        stack.worker()
        page = stack.flower()
        client = stack.client()
        job, text = client.do("""
def outcome(result):
    try:
        return result.get(timeout=40)
    except ValueError as exc:
        return str(exc)
first = ledger.gpu_fail.apply_async(("no",), link_error=[ledger.old_errback.s("old")])
answer = first.id, outcome(first)
""")
        assert text == "no"
        assert stack.told("old") == [["old", job]]
        assert (
            client.do(
                "answer = chain(ledger.add.s(1, 2), ledger.gpu_double.s(),"
                " ledger.add.s(4))().get(timeout=40)"
            )
            == 10
        )
        assert (
            client.do(
                "answer = chord([ledger.gpu_double.s(1), ledger.add.s(2, 2)],"
                " ledger.total.s())().get(timeout=40)"
            )
            == 6
        )
        doctor = stack.command("doctor")
        assert "OK    tls: CELERY_BROKER_URL is verified" in doctor.stdout, (
            doctor.stdout + doctor.stderr
        )
        assert "FAIL  redis" not in doctor.stdout
        until(
            lambda: b"FAILURE" in fetch(page, f"/api/task/info/{job}"),
            PATIENCE,
            "Flower saw it",
            stack.logs,
        )
        kept = stack.command("logs", job)
        written = (
            stack.logs()
            + client.log.read_text()
            + doctor.stdout
            + doctor.stderr
            + kept.stdout
            + acl_redis.log()
        )
        assert [user for user in USERS if acl_redis.passwords[user] in written] == []
        assert "PRIVATE KEY" not in written
    assert acl_redis.denied() == []


@pytest.mark.slow
def test_the_job_of_an_executor_that_distrusts_redis_fails_with_that_error(
    acl_redis_over_tls: tuple[AclRedis, int], authority: Authority, tmp_path: Path
) -> None:
    acl_redis, port = acl_redis_over_tls
    me, stranger = authority.issue("client"), Authority(tmp_path / "stranger", "stranger")
    query = f"ssl_cert_reqs=required&ssl_certfile={me.certificate}&ssl_keyfile={me.key}"
    address = f"{HOST}:{port}/0?{query}&ssl_ca_certs="
    urls = {
        user: f"rediss://gpuqueue-{user}:{acl_redis.passwords[user]}@{address}{authority.pem}"
        for user in USERS
    }
    urls["executor"] = (
        f"rediss://gpuqueue-executor:{acl_redis.passwords['executor']}@{address}{stranger.pem}"
    )
    with SecuredStack(
        tmp_path / "stack", urls, cluster=True, dispatcher={"GPUQUEUE_MAX_ATTEMPTS": "1"}
    ) as stack:
        stack.dispatcher()
        log = stack.log_of_a_failed_launch()
        assert "CELERY_BROKER_URL='rediss://gpuqueue-executor:**@" in log
        assert "set ssl_ca_certs in CELERY_BROKER_URL to the certificate of its authority" in log


@pytest.mark.parametrize("verb", ["dispatcher", "status", "doctor"])
def test_who_cannot_trust_redis_ends_with_what_to_do(
    server: EmbeddedRedis, authority: Authority, tmp_path: Path, verb: str
) -> None:
    with gate(server, authority.issue("other", ["redis.example"])) as port:
        url = f"rediss://me:secret@{HOST}:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={authority.pem}"
        with SecuredStack(tmp_path, {"all": url}) as stack:
            if verb == "dispatcher":
                node = stack.dispatcher(ready=False)
                until(lambda: node.status == "exited", PATIENCE, "it ends", node.logs)
                status, text = node.exit_code, node.logs()
            else:
                done = stack.command(verb)
                status, text = done.returncode, done.stdout + done.stderr
    assert status == {"dispatcher": 78, "status": 2, "doctor": 1}[verb]
    assert "use a host in CELERY_BROKER_URL that its certificate covers" in text
    assert "secret" not in text and "Traceback" not in text
