"""Bodies arrive as they were sent: an application decodes what a Celery worker would, and a
dispatcher passes on what it cannot read.
"""

from __future__ import annotations

import base64
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Message
from kombu.compression import compress
from kombu.serialization import dumps, register, registry, unregister
from kombu.utils import json as kombu_json

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import needs_application
from gpuqueue.errors import InvalidJob, MalformedMessage, UntrustedMessage
from gpuqueue.glue.messages.bodies import ApplicationBodies, ClosedBody, DispatcherBodies
from gpuqueue.glue.messages.message import context, encode, pack, payload
from gpuqueue.glue.messages.parse import MOST_DECODED, UNSIGNED, identify, parse
from gpuqueue.glue.messages.signed import CertificateStore
from gpuqueue.glue.messages.submission import Submission
from gpuqueue.glue.results.plain import write_plainly
from gpuqueue.glue.worker.envelope import open_envelope
from gpuqueue.model.container import CONTAINER_TASK
from tests.support.certificates import Authority
from tests.support.trap import Trap

EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
ERRBACK = [{"task": "shop.tell", "args": [], "kwargs": {}, "options": {}}]
SERIALIZERS = ("json", "msgpack", "yaml", "pickle")
PICKLE = "application/x-python-serialize"
RECORD: Any = {"id": "one", "delivery": "one", "task": "shop.add", "gpu_class": "t4"}


def app(*accept: str) -> Celery:
    made = Celery("shop", backend="cache+memory://", set_as_current=False)
    made.conf.accept_content = list(accept)
    return made


def sent(body: Any, serializer: str = "json", compression: str = "", **headers: Any) -> bytes:
    """A message in a list of the broker, as a producer of kombu makes it."""
    content_type, encoding, content = dumps(body, serializer=serializer)
    raw = content.encode() if isinstance(content, str) else content
    known = {"id": "one", "task": "shop.add", **headers}
    if compression:
        raw, known["compression"] = compress(raw, compression)
    made = {
        "body": base64.b64encode(raw).decode(),
        "content-type": content_type,
        "content-encoding": encoding,
        "headers": known,
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "gpu.t4.shared"},
        },
    }
    return json.dumps(made).encode()


def packed(text: bytes) -> dict[str, Any]:
    """The message as a dispatcher reads it."""
    found, problem = open_envelope(Connection("memory://").channel(), text)
    assert problem is None
    return found


def stored(text: bytes) -> dict[str, Any]:
    """The message as an executor gets it."""
    found: dict[str, Any] = json.loads(encode(packed(text)).encode())
    return found


def received(text: bytes, *accept: str) -> Any:
    return payload(stored(text), ApplicationBodies(app(*accept)))


def read(text: bytes, bodies: DispatcherBodies = UNSIGNED) -> Submission:
    found = packed(text)
    return parse(found, identify(found), bodies)


def plain(text: str, content_type: str = "application/json") -> dict[str, Any]:
    found = packed(sent([[], {}, EMBED]))
    return found | {"body": text, "content_type": content_type}


# -- what an application gets ----------------------------------------------------------------------

TYPED = [
    datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None),
    date(2026, 1, 2),
    time(3, 4, 5),
    Decimal("1.10"),
    UUID(int=7),
    b"text",
    b"\x80\xff",
    math.inf,
    -math.inf,
    "caf\udce9.txt",
    {"half \ud83d": ["\udc00"]},
    2**80,
]


def test_values_of_json_have_their_types() -> None:
    args, kwargs, _ = received(sent([TYPED, {"at": TYPED[0]}, EMBED]), "json")
    assert args == TYPED
    assert [type(each) for each in args] == [type(each) for each in TYPED]
    assert kwargs == {"at": TYPED[0]}
    assert math.isnan(received(sent([[math.nan], {}, EMBED]), "json")[0][0])


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
)
PARTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
IN_JSON = st.recursive(
    st.one_of(
        LEAVES,
        st.text(st.characters(exclude_categories=())),
        st.datetimes(),
        st.dates(),
        st.times(),
        st.uuids(),
        st.decimals(allow_nan=False),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    call=st.one_of(
        st.tuples(st.just("json"), st.lists(IN_JSON), st.dictionaries(st.text(), IN_JSON)),
        st.tuples(
            st.sampled_from(["msgpack", "yaml", "pickle"]),
            st.lists(PARTS),
            st.dictionaries(st.text(), PARTS),
        ),
    ),
    compression=st.sampled_from(["", "zlib", "bzip2"]),
)
def test_an_application_reads_what_a_worker_of_celery_reads(
    call: tuple[str, list[Any], dict[str, Any]], compression: str
) -> None:
    serializer, args, kwargs = call
    content_type, encoding, content = dumps([args, kwargs, EMBED], serializer=serializer)
    worker = Message(
        body=content, content_type=content_type, content_encoding=encoding, postencode="utf-8"
    )
    worker.accept = {content_type}
    text = sent([args, kwargs, EMBED], serializer, compression)
    assert list(received(text, serializer)) == list(worker.decode())
    assert read(text).needs_app is (serializer != "json")


@dataclass(frozen=True)
class Fruit:
    name: str


@pytest.fixture
def fruit() -> Iterator[None]:
    kombu_json.register_type(Fruit, "fruit", lambda each: each.name, Fruit)
    yield
    del kombu_json._encoders[Fruit], kombu_json._decoders["fruit"]


@pytest.fixture
def reversing() -> Iterator[str]:
    """A serializer that an application has registered."""
    name = "reversing"
    register(
        name,
        lambda data: json.dumps(data)[::-1],
        lambda raw: json.loads(raw.decode()[::-1]),
        content_type="application/x-reversing",
    )
    yield name
    unregister(name)


def test_types_that_an_application_registers_arrive(fruit: None) -> None:
    assert received(sent([[Fruit("pear")], {}, EMBED]), "json")[0] == [Fruit("pear")]


def test_a_serializer_that_an_application_registers_is_used(reversing: str) -> None:
    text = sent([[1], {"z": 2}, EMBED], reversing)
    assert received(text, "json", reversing) == ([1], {"z": 2}, EMBED)


def test_a_tuple_that_was_pickled_stays_one() -> None:
    args, _, embed = received(sent((((1, 2),), {}, {"errbacks": ERRBACK}), "pickle"), "pickle")
    assert (args, embed["errbacks"]) == (((1, 2),), ERRBACK)


# -- what it does not accept -----------------------------------------------------------------------


@pytest.mark.parametrize("accept", [["json"], ["application/json"], ["msgpack", "yaml"]])
def test_a_pickle_is_read_only_if_the_application_accepts_it(accept: list[str]) -> None:
    text = sent(((Trap(),), {}, {}), "pickle")
    before = Trap.read
    with pytest.raises(MalformedMessage) as caught:
        received(text, *accept)
    assert not isinstance(caught.value, UntrustedMessage)
    names = sorted(each.removeprefix("application/") for each in accept)
    assert f"content_type='{PICKLE}' is not in accept_content={names} of the" in str(caught.value)
    assert "add 'pickle' to it, or send it as JSON (task_serializer = 'json')" in str(caught.value)
    assert Trap.read == before
    received(text, *accept, "pickle")
    assert Trap.read == before + 1


def test_a_dispatcher_reads_no_pickle() -> None:
    text = sent(((Trap(),), {}, {}), "pickle")
    before = Trap.read
    assert read(text).needs_app
    assert context(stored(text), RECORD, UNSIGNED).args == []
    assert Trap.read == before


@pytest.mark.parametrize(
    ("message", "accept", "words"),
    [
        (plain("<a/>", "text/xml"), ["json"], "register its serializer in the application and add"),
        (plain("{"), ["json"], "cannot be read as json: "),
        (plain('[[{"__type__": "no", "__value__": 1}], {}, {}]'), ["json"], "register its types"),
        (plain("\x93", "application/x-msgpack"), ["msgpack"], "cannot be read as msgpack: "),
        (plain("{", "application/x-yaml"), ["yaml"], "cannot be read as yaml: "),
        (plain("no", PICKLE), ["pickle"], "cannot be read as pickle: "),
        (plain("[" * 10**5), ["json"], "cannot be read as json: "),
        (plain("abc", "text/plain"), ["text/plain"], "is not [args, kwargs, embed]: "),
        (plain("", "application/x-yaml"), ["yaml"], "is not [args, kwargs, embed]: "),
        (plain("[1, 2, 3]", "application/x-yaml"), ["yaml"], "is not [args, kwargs, embed]: "),
        (plain("[]") | {"body": 7}, ["json"], "body='7...' is not text"),
        (plain("ä") | {"base64": True}, ["json"], "is not text"),
        (plain("[]") | {"content_type": ["json"]}, ["json"], "content_type=['json'] is not in"),
        (plain("[]") | {"content_encoding": 7}, ["json"], "cannot be read as json: "),
        (plain("[]"), ["json", "no-such"], "accept_content of the application: "),
    ],
)
def test_what_an_application_cannot_read_is_a_typed_error(
    message: dict[str, Any], accept: list[str], words: str
) -> None:
    with pytest.raises(MalformedMessage) as caught:
        payload(message, ApplicationBodies(app(*accept)))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_serializer_without_its_package_names_the_fix(reversing: str) -> None:
    from kombu.exceptions import SerializerNotInstalled

    text = sent([[], {}, EMBED], reversing)

    def not_available(_: object) -> None:
        raise SerializerNotInstalled("No decoder installed for it. Install the library")

    registry._decoders["application/x-reversing"] = not_available
    with pytest.raises(MalformedMessage, match=r"Install the library.*; install it in the env"):
        received(text, reversing)


# -- what a dispatcher does ------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", SERIALIZERS[1:])
def test_a_dispatcher_passes_other_content_on_unread(serializer: str) -> None:
    text = sent([[1], {}, EMBED], serializer)
    with pytest.raises(ClosedBody):
        UNSIGNED.text(packed(text))
    record: Any = read(text).job(GpuClass("t4"), "shared").record()
    assert (record["needs_app"], record.get("signed", False)) == (True, False)
    assert all(needs_application(record | {"reason": reason}) for reason in ("CANCELLED", "ERROR"))
    assert context(stored(text), RECORD, UNSIGNED).args == []


def test_a_dispatcher_with_certificates_refuses_other_content(tmp_path: Path) -> None:
    store = CertificateStore(str(Authority(tmp_path).issue("me").certificate))
    for serializer in SERIALIZERS:
        with pytest.raises(UntrustedMessage, match="is not signed; sign it, or unset GPUQUEUE_CER"):
            read(sent([[1], {}, EMBED], serializer), DispatcherBodies(store))


def test_a_container_job_must_be_json() -> None:
    with pytest.raises(InvalidJob) as caught:
        read(sent([["tool:1"], {}, EMBED], "yaml", task=CONTAINER_TASK))
    assert str(caught.value) == (
        "task='gpuqueue.run' has arguments in application/x-yaml, which no dispatcher decodes;"
        " send it as JSON: .apply_async(serializer='json'), or .set(serializer='json')"
    )


@pytest.mark.parametrize(
    ("embed", "needs"),
    [
        (None, False),
        ({}, False),
        ({"errbacks": []}, False),
        ({"chain": ERRBACK, "callbacks": ERRBACK, "\udce9": math.nan}, False),
        ({"errbacks": ERRBACK}, True),
        ({"chord": {}}, True),
        ({"chord": math.nan}, True),
    ],
)
def test_what_only_pythons_json_has_changes_no_decision(
    embed: dict[str, Any] | None, needs: bool
) -> None:
    for args in ([1], [math.nan, -math.inf, "caf\udce9"]):
        assert read(sent([args, {}, embed])).needs_app is needs


def test_a_body_too_large_to_be_decoded_here_is_read_by_its_application() -> None:
    assert read(sent([["a" * (MOST_DECODED + 1)], {}, EMBED])).needs_app is False
    assert read(sent([["a" * (MOST_DECODED - 100), math.nan], {}, EMBED])).needs_app is False
    assert read(sent([["a" * (MOST_DECODED + 1), math.nan], {}, EMBED])).needs_app is True


def test_a_result_of_a_dispatcher_repeats_the_arguments_as_they_were_sent(fruit: None) -> None:
    sender = app("json")
    sender.conf.result_extended = True
    message = stored(sent([[*TYPED, Fruit("pear")], {"n": math.nan}, EMBED]))
    record: Any = {**RECORD, "reason": "CANCELLED"}
    write_plainly(
        sender,
        record,
        message,
        UNSIGNED,
        send=lambda event: None,
        hostname="t4@here",
        note="",
        passes=lambda exc: False,
    )
    found = sender.AsyncResult("one")
    assert found.args == [*TYPED, Fruit("pear")]
    assert math.isnan(found.kwargs["n"])


def test_an_old_message_keeps_its_types() -> None:
    body = {"id": "old", "task": "shop.add", "args": [*TYPED, math.nan], "kwargs": {"at": TYPED[0]}}
    text = json.loads(sent(body)) | {"headers": {}}
    found = stored(json.dumps(text).encode())
    assert found["headers"]["id"] == "old"
    args, kwargs, _ = payload(found, ApplicationBodies(app("json")))
    assert (args[:-1], kwargs) == (TYPED, {"at": TYPED[0]})
    assert not read(json.dumps(text).encode()).needs_app


def test_an_old_message_in_another_form_is_not_decoded() -> None:
    body = {"id": "old", "task": "shop.add", "args": [Trap()], "kwargs": {}}
    text = json.loads(sent(body, "pickle")) | {"headers": {}}
    before = Trap.read
    found = pack(Message(body=b"", headers={}), None)
    assert packed(json.dumps(text).encode())["headers"] == found["headers"]
    assert Trap.read == before
    assert pickle.loads(base64.b64decode(text["body"]))["id"] == "old"
