"""Messages of any content: each is kept, refused where its sender sees it, or discarded."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery, states
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu import Message

from gpuqueue import errors
from gpuqueue.classes.gpu_class import GpuClass, chords_class
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.errors import MalformedMessage, UntrustedMessage
from gpuqueue.glue.messages.bodies import ApplicationBodies, DispatcherBodies
from gpuqueue.glue.messages.message import pack
from gpuqueue.glue.messages.parse import MOST_DECODED, UNSIGNED
from gpuqueue.glue.messages.signed import JSON, SIGNED
from gpuqueue.glue.results.completion import complete
from gpuqueue.model.names import REFUSED
from gpuqueue.model.record import Record
from gpuqueue.model.request import REQUEST_FIELDS
from gpuqueue.store.answers import Granted
from gpuqueue.store.client import connect
from gpuqueue.store.lease import Lease
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from gpuqueue.store.scripts import UnstorableText

pytestmark = pytest.mark.integration
GPU = "gpu.t4.shared"
GOOD = json.dumps([[1, 2], {}, {}])
IDS = iter(range(10**9))


class Launcher:
    """Launches nothing, and refuses nothing."""

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Any job may be launched."""


class Intake:
    """The intake of a dispatcher on a real Redis. It finishes a refused job at once: as the
    application does, and as a dispatcher does.
    """

    def __init__(self, url: str) -> None:
        self.client: redis.Redis = connect(url)
        self.app = Celery("of-a-dispatcher", broker=url, backend=url, set_as_current=False)
        self.app.finalize()
        self.line, self.reader = Line(self.client), Reader(self.client)
        classes = {"t4": GpuClass("t4", shared_slots=2, exclusive_slots=1)}
        parts: Any = self
        launcher: Any = Launcher()
        self.accept = Accept(
            *(self.client, self.line, self.reader, classes, UNSIGNED),
            *(launcher, parts, parts, parts),
            chords=chords_class(classes.values()),
            shown=parts,
            limit_of=lambda task, image: None,
        )

    def launch(self, gpu_class: GpuClass, granted: Granted) -> None:
        """The attempts stay as they are."""

    def store(self, *_: Any, **__: Any) -> None:
        """No state is stored."""

    def submit(self, gpu_class: str, delivery: str) -> None:
        answer, record, stored = self.line.finish_claim(gpu_class, delivery, "here", 15)
        assert answer == "ok"
        assert record is not None
        for bodies, own in ((ApplicationBodies(self.app), True), (UNSIGNED, False)):
            reason = complete(
                self.app,
                record,
                stored,
                bodies,
                send=lambda event: None,
                hostname="t4@here",
                own_tasks=own,
            )
        assert self.line.finished(gpu_class, delivery, "here", reason)

    def result(self, job: str) -> dict[str, Any]:
        text = self.app.backend.get(self.app.backend.get_key_for_task(job))
        found: dict[str, Any] = json.loads(text)
        return found

    def take(self, message: Message, payload: Any = None) -> str:
        """Accept a message as the consumer does, and check what became of it."""
        try:
            packed = pack(message, payload)
            outcome, gpu_class = self.accept(packed)
        except MalformedMessage as exc:
            assert "is not a task id" in str(exc)
            return "discarded"
        headers = packed["headers"]
        if outcome == "refused":
            assert gpu_class == REFUSED
            record = self.reader.find(headers["id"], [REFUSED])
            assert record is not None
            assert record["state"] == "ended"
            if headers.get("ignore_result") is not True:
                meta = self.result(headers["id"])
                assert meta["status"] == states.FAILURE
                assert issubclass(getattr(errors, meta["result"]["exc_type"]), errors.InvalidJob)
        elif outcome == "accepted":
            assert gpu_class == "t4"
            record = self.reader.find(headers["id"], ["t4"])
            assert record is not None
            assert record["state"] in ("waiting", "delayed", "launching", "finishing")
            assert self.reader.message("t4", record["delivery"])
        else:
            assert outcome in ("known", "cancelled")
        return outcome


@pytest.fixture(scope="module")
def intake() -> Iterator[Intake]:
    with EmbeddedRedis() as server:
        found = Intake(server.url)
        yield found
        found.app.close()
        found.client.close()


def message(
    body: Any = GOOD,
    content_type: Any = "application/json",
    routing_key: Any = GPU,
    priority: Any = 0,
    **headers: Any,
) -> Message:
    known = {"id": f"job-{next(IDS)}", "task": "shop.add"} | headers
    return Message(
        body=body,
        content_type=content_type,
        content_encoding="utf-8",
        headers={name: value for name, value in known.items() if value is not ...},
        properties={"priority": priority},
        delivery_info={"exchange": "", "routing_key": routing_key},
    )


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


DEEP = "[[" + "[" * 100_000 + "]" * 100_000 + "], {}, {}]"
HUGE = 10**400


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"gpu": {"memory": "9" * 400}}, "gpu.memory='999"),
        ({"gpu": {"memory": HUGE}}, "gpu.memory=1000"),
        ({"gpu": {"memory": 10**5000}}, "gpu.memory=(int) is above 1 PiB"),
        ({"gpu": {"memory": "0.1"}}, "is not an amount of memory"),
        ({"gpu": {"\ud800": 1}}, "is unknown"),
        ({"gpu": {"tenant": "a\n"}}, "gpu.tenant='a\\n' cannot name a tenant"),
        ({"gpu": {"image": "a\0b"}}, "gpu.image='a\\x00b' is not an image reference"),
        ({"gpu": {"image": "a\ud800"}}, "gpu.image='a\\ud800' is not an image reference"),
        ({"gpu": nested(90)}, "is not an object"),
        ({"gpu": nested(100_000)}, "gpu=(list) is not an object"),
        ({"argsrepr": 10**5000}, "the message cannot be kept as JSON: "),
        ({"argsrepr": nested(101)}, "headers are nested deeper than 100 levels"),
        ({"body": DEEP}, "is nested too deeply"),
        ({"body": "[[NaN], [], {}]"}, "is not [args, kwargs, embed]: "),
        (
            {"body": '[[], {}, {"errbacks": Infinity}]'},
            "is not [args, kwargs, embed]: errbacks=inf",
        ),
        ({"body": "[[NaN, -NaN], {}, {}]"}, "is not JSON"),
        ({"body": "[" * 500 + "NaN" + "]" * 499}, "is not JSON"),
        ({"task": "gpuqueue.run", "body": "[[NaN], {}, {}]"}, "gpuqueue.run image=nan is not an"),
        (
            {"task": "gpuqueue.run", "body": '[["a:1", ["\\udce9"]], {}, {}]'},
            "gpuqueue.run command",
        ),
        (
            {"task": "gpuqueue.run", "body": b"\x80", "content_type": "application/x-yaml"},
            "has arguments in application/x-yaml, which no dispatcher decodes; send it as JSON: ",
        ),
        ({"content_type": "application/\ud800"}, "is not a content type; send it as JSON"),
        ({"body": '[["\ud800"], {}, {}]'}, "is not JSON"),
        ({"body": 7}, "body='7...' is not text"),
        ({"body": None}, "body='None...' is not text"),
        ({"body": nested(100_000)}, "body='(list)...' is not text"),
        ({"task": "shop.\ud800"}, "is not a task name"),
        ({"task": "shop.\0"}, "is not a task name"),
        ({"task": "a" * 10**6}, "is not a task name"),
        ({"retries": HUGE}, "is not a count; use a whole number up to 1000000000"),
        ({"retries": "3"}, "retries='3' is not a count"),
        ({"retries": -1}, "retries=-1 is not a count"),
        ({"retries": nested(50)}, "is not a count"),
        ({"replaced_task_nesting": 2**53 + 1}, "replaced_task_nesting=9007199254740993 is not a"),
        ({"timelimit": [HUGE, None]}, "is not a number of seconds"),
        ({"timelimit": [float("inf"), None]}, "time_limit=inf is not a number of seconds"),
        ({"timelimit": "soon"}, "timelimit='soon' is not [hard, soft]"),
        ({"priority": "high"}, "priority='high' is not a whole number"),
        ({"priority": {}}, "priority={} is not a whole number"),
        ({"eta": "99999-01-01T00:00:00"}, "is not a time"),
        ({"eta": HUGE}, "is not a time"),
        ({"expires": "\ud800"}, "expires='\\ud800' is not a time"),
        ({"expires": 10**18}, "is not a time"),
        ({"group": "\ud800"}, "group='\\ud800' is not a group id"),
        ({"group": "g" * 600}, "is not a group id"),
        (
            {"stamps": {"a": "\ud800"}, "stamped_headers": ["a"]},
            "stamps='a=\\ud800' cannot be kept",
        ),
        (
            {"stamps": {"a": list(range(2000))}, "stamped_headers": ["a"]},
            "stamps=2000 are too many; use up to 1000",
        ),
        ({"stamps": 5, "stamped_headers": [[]]}, "stamps=5 is not an object; "),
        ({"routing_key": "gpu.t4\n"}, "queue='gpu.t4\\n' has a malformed class"),
        ({"routing_key": 5}, "queue='5' is not the name of a GPU queue; "),
        ({"routing_key": "\ud800"}, "is not the name of a GPU queue"),
        ({"content_type": []}, "content_type=[] is not a content type; send it as JSON"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_be_kept_is_refused_with_its_name(
    intake: Intake, wrong: dict[str, Any], words: str
) -> None:
    sent = message(**wrong)
    assert intake.take(sent) == "refused"
    error = intake.result(sent.headers["id"])["result"]["exc_message"][0]
    assert words in error
    assert len(error) < 3000
    assert intake.take(message()) == "accepted"


@pytest.mark.parametrize(
    "fine",
    [
        {"priority": HUGE},
        {"priority": -HUGE},
        {"retries": 10**8},
        {"retries": None},
        {"eta": "9999-12-31T23:59:59"},
        {"eta": "0001-01-01T00:00:00+23:59"},
        {"expires": "0001-01-01T00:00:00"},
        {"shadow": "\ud800\0" + "n" * 10**6},
        {"argsrepr": HUGE},
        {"origin": float("nan")},
        {"shadow": nested(50)},
        {"stamps": None, "stamped_headers": None},
        {"body": "[[" + "9" * 400 + "], {}, {}]"},
        {"body": "[[" + "[" * 500 + "]" * 500 + "], {}, {}]"},
        {"body": '[[NaN, Infinity, -Infinity, 1e400], {"a": [NaN]}, {"b": NaN}]'},
        {"body": '[["\\udce9"], {"\\ud800": ["\\udc00"]}, {"\\udce9": 1}]'},
        {"body": f'[["{"a" * MOST_DECODED}", NaN], {{}}, {{}}]'},
        {"body": b"\x93\x92\x01\x02\x80\x80", "content_type": "application/x-msgpack"},
        {"body": "- [1, 2]\n- {}\n- {}\n", "content_type": "application/x-yaml"},
        {"body": "", "content_type": "application/x-no-such"},
        {"group_index": float("nan"), "custom": [float("inf"), "\udce9"]},
        {"argsrepr": "('\udce9',)"},
    ],
    ids="-".join,
)
def test_an_odd_value_that_harms_nothing_is_accepted(intake: Intake, fine: dict[str, Any]) -> None:
    assert intake.take(message(**fine)) == "accepted"


@pytest.mark.parametrize(
    ("old", "words"),
    [
        ({"task": "shop.add", "args": 5, "kwargs": {}}, "is not [args, kwargs, embed]"),
        ({"task": "shop.add", "args": [], "kwargs": 5}, "is not [args, kwargs, embed]"),
        ({"task": "shop.add", "args": nested(5000), "kwargs": {}}, "is not [args, kwargs, embed]"),
        ({"args": []}, "task=None is not a task name"),
    ],
    ids=["args", "kwargs", "depth", "task"],
)
def test_an_old_message_with_wrong_parts_is_refused_at_its_id(
    intake: Intake, old: dict[str, Any], words: str
) -> None:
    job = f"old-{next(IDS)}"
    sent = message('{"of": "protocol 1"}', id=..., task=...)
    assert intake.take(sent, {"id": job, **old}) == "refused"
    assert words in intake.result(job)["result"]["exc_message"][0]


@pytest.mark.parametrize("headers", [None, ["x"], 7, "x", {}, {"id": ["x"]}], ids=str)
def test_a_message_without_an_id_is_discarded(intake: Intake, headers: Any) -> None:
    sent = message()
    sent.headers = headers
    assert intake.take(sent) == "discarded"


@pytest.mark.parametrize(
    "value", ["\ud800", float("inf"), nested(1500)], ids=["text", "number", "deep"]
)
def test_the_script_tells_an_error_of_the_data_and_keeps_nothing(
    intake: Intake, value: Any
) -> None:
    record: Any = {"id": "odd", "delivery": "odd", "isolation": "shared", "name": value}
    with pytest.raises(UnstorableText):
        intake.line.accept("t4", record, "{}")
    assert intake.reader.record("t4", "odd") is intake.reader.message("t4", "odd") is None


class SignedBodies(DispatcherBodies):
    """Bodies of a dispatcher that trusts no message."""

    def opened(self, stored: Mapping[str, Any]) -> tuple[str | bytes, list[str]]:
        raise UntrustedMessage("the message is not signed; sign it")


def test_an_untrusted_message_with_the_id_of_a_job_changes_nothing(intake: Intake) -> None:
    sent = message()
    assert intake.take(sent) == "accepted"
    before = intake.reader.find(sent.headers["id"], ["t4"])
    Lease(intake.client, "me", 5, "t4").announce([GpuClass("t4")], time.time())
    signed = replace(intake.accept, bodies=SignedBodies())
    forged = message(id=sent.headers["id"], retries=3, gpu={"memory": "much"})
    assert signed(pack(forged, None)).outcome == "known"
    assert intake.reader.find(sent.headers["id"], ["t4", REFUSED]) == before
    assert intake.app.backend.get_state(sent.headers["id"]) == states.PENDING
    assert signed(pack(message(id="of-no-job"), None)).outcome == "refused"
    assert intake.result("of-no-job")["result"]["exc_type"] == "UntrustedMessage"


# -- any content -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([HUGE, -HUGE, 2**53 + 1, 2**63, 10**17, -0.0, 1e308, 5e-324]),
    st.floats(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
TIMES = st.one_of(VALUES, st.datetimes().map(lambda time: time.isoformat()))
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.one_of(VALUES, st.just("shop.add"), st.just("gpuqueue.run")),
        "shadow": VALUES,
        "retries": VALUES,
        "replaced_task_nesting": VALUES,
        "ignore_result": VALUES,
        "gpu": st.one_of(
            VALUES,
            st.fixed_dictionaries(
                {},
                optional=dict.fromkeys(REQUEST_FIELDS, VALUES),
            ),
        ),
        "eta": TIMES,
        "expires": TIMES,
        "timelimit": st.one_of(VALUES, st.lists(VALUES, min_size=2, max_size=2)),
        "group": VALUES,
        "group_index": VALUES,
        "stamps": VALUES,
        "stamped_headers": VALUES,
        "parent_id": VALUES,
        "root_id": VALUES,
        "reply_to": VALUES,
        "argsrepr": VALUES,
        "lang": VALUES,
        "id": st.one_of(VALUES, st.just("again")),
    },
)
BODIES = st.one_of(
    st.just(GOOD),
    st.just(DEEP),
    TEXT,
    st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode()),
    st.binary(max_size=20),
    VALUES,
    VALUES.map(json.dumps),
    st.tuples(
        st.lists(VALUES, max_size=2),
        st.dictionaries(TEXT, VALUES, max_size=2),
        st.one_of(st.none(), st.just({})),
    ).map(json.dumps),
)


#: The other arguments of :func:`message`.
PARTS = ("body", "content_type", "routing_key", "priority")


@given(
    headers=HEADERS,
    other=st.dictionaries(TEXT.filter(lambda name: name not in PARTS), VALUES, max_size=2),
    body=BODIES,
    content_type=st.one_of(
        st.just(JSON), st.sampled_from([SIGNED, "application/x-msgpack", "text/plain"]), VALUES
    ),
    routing_key=st.one_of(st.sampled_from([GPU, "gpu.t4", "gpu.auto", "gpu.mig"]), VALUES),
    priority=VALUES,
)
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_message_stops_the_intake(
    intake: Intake,
    headers: dict[str, Any],
    other: dict[str, Any],
    body: Any,
    content_type: Any,
    routing_key: Any,
    priority: Any,
) -> None:
    intake.take(message(body, content_type, routing_key, priority, **{**other, **headers}))


@given(payload=VALUES, headers=st.one_of(VALUES, HEADERS))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_old_message_stops_the_intake(intake: Intake, payload: Any, headers: Any) -> None:
    sent = message(json.dumps(payload))
    sent.headers = headers
    intake.take(sent, payload)
