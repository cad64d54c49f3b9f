"""Signed bodies without any process: who reads what, what is refused, and what a job made of one
says.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from gpuqueue.dispatcher.finish import needs_application
from gpuqueue.errors import InvalidJob, MalformedMessage, SettingsError, UntrustedMessage
from gpuqueue.glue.messages.bodies import ApplicationBodies, ClosedBody, DispatcherBodies
from gpuqueue.glue.messages.message import context, payload
from gpuqueue.glue.messages.parse import UNSIGNED, identify, parse
from gpuqueue.glue.messages.signed import SIGNED, CertificateStore, json_within, open_envelope
from gpuqueue.glue.messages.submission import Submission
from gpuqueue.model.container import CONTAINER_TASK
from tests.support.certificates import Authority, Pair
from tests.support.signing import other_body, other_content, signed

JSON = "application/json"
CALL = [[1, 2], {"z": 3}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
ERRBACK = [{"task": "shop.tell", "args": [], "kwargs": {}, "options": {}}]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def me(authority: Authority) -> Pair:
    return authority.issue("me")


@pytest.fixture(scope="module")
def store(me: Pair) -> CertificateStore:
    return CertificateStore(str(me.certificate))


def message(body: str, content_type: str = SIGNED, **headers: Any) -> dict[str, Any]:
    """A message as the queue keeps it."""
    return {
        "headers": {"id": "one", "task": "shop.add"} | headers,
        "body": body,
        "content_type": content_type,
        "content_encoding": "utf-8",
        "properties": {},
        "delivery_info": {"exchange": "", "routing_key": "gpu.t4.shared"},
    }


def read(packed: dict[str, Any], bodies: DispatcherBodies = UNSIGNED) -> Submission:
    return parse(packed, identify(packed), bodies)


def app(accept: list[str]) -> Celery:
    made = Celery("shop", set_as_current=False)
    made.conf.accept_content = accept
    return made


def test_an_envelope_holds_the_json_that_was_signed_and_by_whom(me: Pair) -> None:
    text = signed(me, CALL)
    assert open_envelope(text).signer.startswith("authority ")
    assert json.loads(json_within(text)) == CALL


@pytest.mark.parametrize("text", ["", "abc", "e30=", json.dumps(CALL), "ä"])
def test_a_body_that_is_no_envelope_is_recognized(text: str) -> None:
    with pytest.raises(
        MalformedMessage, match=r"is not a signed body.*; sign it with Celery's serializer 'auth'"
    ):
        open_envelope(text)


# -- an application's ------------------------------------------------------------------------------


def test_an_application_that_cannot_verify_signatures_is_given_the_fix(
    me: Pair,
) -> None:
    for body, content_type in ((signed(me, CALL), SIGNED), (json.dumps(CALL), JSON)):
        with pytest.raises(UntrustedMessage, match=r"call app\.setup_security\(\) in it"):
            payload(message(body, content_type), ApplicationBodies(app(["auth"])))


@pytest.mark.parametrize("body", ['"abc"', "[1, 2]", "[[1], 2, {}]", "[[1], {}, 3]", "{", "7"])
def test_a_body_of_another_shape_is_malformed(body: str) -> None:
    with pytest.raises(MalformedMessage):
        payload(message(body, JSON), ApplicationBodies(app(["json"])))


# -- a dispatcher's --------------------------------------------------------------------------------


def test_a_dispatcher_without_a_store_passes_a_signed_body_on_unread(me: Pair) -> None:
    packed = message(signed(me, CALL))
    with pytest.raises(ClosedBody):
        DispatcherBodies().text(packed)
    job = read(packed)
    assert (job.signed, job.needs_app) == (True, True)
    assert context(packed, {"id": "one", "task": "shop.add"}, DispatcherBodies()).args == []


@pytest.mark.parametrize(
    ("embed", "needs"),
    [
        ({}, False),
        ({"errbacks": ERRBACK}, True),
        ({"chain": ERRBACK}, True),
        ({"chord": ERRBACK[0]}, True),
    ],
)
def test_a_dispatcher_with_a_store_reads_the_callbacks_of_a_signed_job(
    me: Pair, store: CertificateStore, embed: dict[str, Any], needs: bool
) -> None:
    job = read(message(signed(me, [[], {}, embed])), DispatcherBodies(store))
    assert (job.signed, job.needs_app) == (True, needs)


def test_a_dispatcher_with_a_store_accepts_only_its_signers(
    authority: Authority, me: Pair, store: CertificateStore
) -> None:
    bodies, good = DispatcherBodies(store), signed(me, CALL)
    assert payload(message(good), bodies) == tuple(CALL)
    refused = {
        "Unknown certificate": message(signed(authority.issue("another"), CALL)),
        "the signature belongs to another body": message(other_body(good, [[9], {}, {}])),
        "is not signed; sign it, or unset GPUQUEUE_CERT_STORE": message(json.dumps(CALL), JSON),
    }
    for words, packed in refused.items():
        with pytest.raises(UntrustedMessage, match=words):
            read(packed, bodies)
        assert context(packed, {"id": "one", "task": "shop.add"}, bodies).args == []
    with pytest.raises(MalformedMessage, match="is signed, but is not JSON"):
        read(message(other_content(good, "application/x-python-serialize")), bodies)


def test_what_is_not_signed_is_untrusted_by_whichever_way_it_is_read(
    store: CertificateStore,
) -> None:
    """Not merely malformed: no callback of such a body is called."""
    for read in (DispatcherBodies(store).read, DispatcherBodies(store).text):
        with pytest.raises(UntrustedMessage, match="is not signed"):
            read(message(json.dumps(CALL), JSON))


def test_arguments_of_a_container_job_are_read_where_they_are_verified(
    me: Pair, store: CertificateStore
) -> None:
    packed = message(
        signed(me, [[], {"image": "tool:1", "command": ["run"]}, {}]), task=CONTAINER_TASK
    )
    job = read(packed, DispatcherBodies(store))
    assert (job.image, job.container) == ("tool:1", {"command": ["run"]})
    with pytest.raises(
        InvalidJob,
        match="has signed arguments, and this dispatcher has no certificate to verify them; "
        "set GPUQUEUE_CERT_STORE",
    ):
        read(packed)


def test_callbacks_of_a_signed_container_job_are_sent_by_the_application() -> None:
    plain: Any = {"task": CONTAINER_TASK, "reason": "SUCCEEDED", "needs_app": True}
    assert not needs_application(plain)
    assert needs_application(plain | {"signed": True})
    assert not needs_application(plain | {"signed": True, "needs_app": False})


def test_a_store_without_certificates_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"GPUQUEUE_CERT_STORE='.*' matches no file; name PEM files, e\.g\."
    ):
        CertificateStore(str(tmp_path / "*.pem"))
    (tmp_path / "notes.txt").write_text("not a certificate")
    with pytest.raises(
        SettingsError,
        match=r"GPUQUEUE_CERT_STORE: '.*notes\.txt' is not a certificate with an RSA key: ",
    ):
        CertificateStore(str(tmp_path))


def test_an_expired_certificate_is_logged_and_others_stay_valid(
    tmp_path: Path, me: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    old = Authority(tmp_path).issue("old", ends=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1))
    (tmp_path / "store").mkdir()
    for pair in (me, old):
        (tmp_path / "store" / pair.certificate.name).write_bytes(pair.certificate.read_bytes())
    with caplog.at_level(logging.WARNING):
        store = CertificateStore(str(tmp_path / "store"))
    assert "old.pem has expired: messages that it signed are refused" in caplog.text
    assert json.loads(store.verified(signed(me, CALL))) == CALL
    with pytest.raises(UntrustedMessage, match="Expired certificate"):
        store.verified(signed(old, CALL))


# -- whose jobs a certificate may sign -------------------------------------------------------------


def test_the_certificate_decides_the_tenant(authority: Authority, me: Pair) -> None:
    """The signature covers no header: a header that names another tenant may be forged."""
    one = authority.issue("one", units=["IT", "tenant:vision"])
    two = authority.issue("two", units=["tenant:vision", "tenant:speech"])
    folder = me.certificate.parent / "tenants"
    folder.mkdir()
    for each in (me, one, two):
        (folder / each.certificate.name).write_bytes(each.certificate.read_bytes())
    bodies = DispatcherBodies(CertificateStore(str(folder)))

    def tenant(pair: Pair, **gpu: str) -> str | None:
        return read(message(signed(pair, CALL), gpu=gpu), bodies).request.tenant

    assert (tenant(one), tenant(one, tenant="vision")) == ("vision", "vision")
    assert (tenant(two), tenant(two, tenant="speech")) == ("vision", "speech")
    assert (tenant(me), tenant(me, tenant="speech")) == (None, "speech")
    with pytest.raises(InvalidJob) as caught:
        tenant(one, tenant="speech")
    assert (
        "gpu.tenant='speech' is none of the tenants of its certificate (vision); leave it out"
        in (str(caught.value))
    )


def test_a_certificate_with_a_wrong_name_of_a_tenant_is_refused(authority: Authority) -> None:
    wrong = authority.issue("wrong", units=["tenant:a b"])
    with pytest.raises(SettingsError, match=r"OU='tenant:a b' of .* names no tenant; use up to 63"):
        CertificateStore(str(wrong.certificate))
