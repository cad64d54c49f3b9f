"""Messages signed by Celery's serializer ``auth``: they pass GPU queues unchanged, and only trusted
code runs.
"""

from __future__ import annotations

import datetime as dt
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.reader import Reader
from tests.security.client import Client
from tests.security.secured_stack import SecuredStack
from tests.support.certificates import Authority, Pair
from tests.support.signing import SIGNED, keys_of, other_body, other_content, push, signed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


@dataclass
class Plant:
    """The stack of an application that signs, whom it trusts, and whom it does not."""

    stack: SecuredStack
    client: Client
    redis: redis.Redis
    me: Pair
    stranger: Pair
    old: Pair
    """Trusted by the dispatcher's store, where there is one, and expired."""

    def ended(self, job: str) -> dict[str, Any]:
        """Wait, as its caller does, for a job's end; answers what is stored of it."""
        self.client.do(f"outcome(ledger.app.AsyncResult({job!r}))")
        found: dict[str, Any] = json.loads(self.redis.get(f"celery-task-meta-{job}") or "")
        return found


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair, Pair]:
    folder = tmp_path_factory.mktemp("keys")
    authority, another = Authority(folder / "ours"), Authority(folder / "theirs", "stranger")
    ended = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    return authority.issue("me"), another.issue("them"), authority.issue("old", ends=ended)


def plant(
    folder: Path, pairs: tuple[Pair, Pair, Pair], *, store: bool, cluster: bool = False
) -> Iterator[Plant]:
    me, stranger, old = pairs
    keys, known = keys_of(folder / "application", me), keys_of(folder / "dispatcher", me, old)
    settings = {"GPUQUEUE_CERT_STORE": str(known / "store" / "*.pem")} if store else {}
    with EmbeddedRedis(folder / "redis") as server:
        application = {"LEDGER_KEYS": str(keys)}
        with SecuredStack(
            folder,
            {"all": server.url},
            cluster=cluster,
            dispatcher=settings,
            application=application,
        ) as stack:
            stack.dispatcher()
            client = stack.client()
            with redis.Redis.from_url(server.url, decode_responses=True) as connection:
                yield Plant(stack, client, connection, me, stranger, old)


@pytest.fixture(scope="module")
def unread(
    tmp_path_factory: pytest.TempPathFactory, pairs: tuple[Pair, Pair, Pair]
) -> Iterator[Plant]:
    """A dispatcher without any certificate."""
    yield from plant(tmp_path_factory.mktemp("unread"), pairs, store=False)


@pytest.fixture(scope="module")
def verifying(
    tmp_path_factory: pytest.TempPathFactory, pairs: tuple[Pair, Pair, Pair]
) -> Iterator[Plant]:
    """A dispatcher with a store of certificates."""
    yield from plant(tmp_path_factory.mktemp("verifying"), pairs, store=True)


BOTH = [
    pytest.param("unread", id="the application verifies"),
    pytest.param("verifying", id="the dispatcher verifies", marks=pytest.mark.slow),
]


@pytest.fixture
def at(request: pytest.FixtureRequest) -> Callable[[str], Plant]:
    return request.getfixturevalue


@pytest.mark.parametrize("where", BOTH)
def test_a_signed_job_runs_and_a_plain_one_is_refused_unrun(
    at: Callable[[str], Plant], where: str
) -> None:
    found = at(where)
    assert found.client.do("answer = ledger.gpu_double.delay(21).get(timeout=40)") == 42
    key = uuid.uuid4().hex
    errback = {
        "task": "ledger.old_errback",
        "args": [f"{key}-errback"],
        "options": {"queue": "gpu.t4.shared"},
    }
    meta = found.ended(
        push(found.redis, json.dumps([[key], {}, {"errbacks": [errback]}]), "application/json")
    )
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", "UntrustedMessage")
    assert (
        "content_type='application/json' is not signed; sign it" in meta["result"]["exc_message"][0]
    )
    # The next good job ends after anything that the refused one could have started.
    assert found.client.do("answer = ledger.gpu_double.delay(1).get(timeout=40)") == 2
    assert not list(found.stack.folder.glob(f"{key}*"))


@pytest.mark.slow
def test_a_refused_message_changes_nothing_but_its_own_result(verifying: Plant) -> None:
    body, plain = json.dumps([[], {}, {}]), "application/json"
    meta = verifying.ended(push(verifying.redis, body, plain, task="gpuqueue.dispatch"))
    assert meta["result"]["exc_type"] == "UntrustedMessage"
    verifying.redis.lpush("gpu.t4.shared", "garbage")  # the consumer starts again after it
    verifying.client.do(
        "running = ledger.gpu_progress.apply_async(('forged-id',), queue='gpu.t4.exclusive')"
    )
    verifying.stack.told("forged-id")
    job = verifying.client.do("answer = running.id")
    push(verifying.redis, body, plain, id=job, retries=7)
    until(
        lambda: "untrusted message with the id of another job" in verifying.stack.logs(),
        PATIENCE,
        "the log says so",
        verifying.stack.logs,
    )
    assert verifying.client.do("answer = running.state") == "PROGRESS"
    verifying.stack.go("forged-id")
    assert verifying.client.do("answer = ledger.gpu_double.delay(21).get(timeout=40)") == 42


REFUSED: dict[str, tuple[Callable[[Plant, Any], str], str, str, str]] = {
    "signed by a stranger": (
        lambda found, body: signed(found.stranger, body),
        SIGNED,
        "UntrustedMessage",
        "Unknown certificate: ",
    ),
    "another body under a good signature": (
        lambda found, body: other_body(signed(found.me, [["harmless"], {}, {}]), body),
        SIGNED,
        "UntrustedMessage",
        "is not trusted: the signature belongs to another body",
    ),
    "a good signature that says pickle": (
        lambda found, body: other_content(signed(found.me, body), "application/x-python-serialize"),
        SIGNED,
        "MalformedMessage",
        "is signed, but is not JSON",
    ),
    "a signed pickle": (
        lambda found, body: signed(found.me, body, "pickle"),
        SIGNED,
        "MalformedMessage",
        "is signed, but is not JSON",
    ),
    "no envelope": (
        lambda found, body: json.dumps(body),
        SIGNED,
        "MalformedMessage",
        "is not a signed body",
    ),
    "plain text": (
        lambda found, body: "abc",
        "application/text",
        "UntrustedMessage",
        "content_type='application/text' is not",
    ),
    "a plain pickle": (
        lambda found, body: pickle.dumps(body, 0).decode(),
        "application/x-python-serialize",
        "UntrustedMessage",
        "is not signed",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["unread", "verifying"])
@pytest.mark.parametrize(("make", "content_type", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_badly_signed_message_is_refused_in_its_result_and_runs_nothing(
    at: Callable[[str], Plant],
    where: str,
    make: Callable[[Plant, Any], str],
    content_type: str,
    error: str,
    words: str,
) -> None:
    found = at(where)
    key = uuid.uuid4().hex
    errback = {
        "task": "ledger.old_errback",
        "args": [f"{key}-errback"],
        "options": {"queue": "gpu.t4.shared"},
    }
    meta = found.ended(
        push(found.redis, make(found, [[key], {}, {"errbacks": [errback]}]), content_type)
    )
    assert (meta["status"], meta["result"]["exc_type"]) == ("FAILURE", error), meta
    assert words in meta["result"]["exc_message"][0]
    assert found.client.do("answer = ledger.gpu_double.delay(1).get(timeout=40)") == 2
    assert not list(found.stack.folder.glob(f"{key}*"))


@pytest.mark.slow
def test_the_dispatcher_refuses_signatures_of_an_expired_certificate(
    verifying: Plant,
) -> None:
    meta = verifying.ended(push(verifying.redis, signed(verifying.old, [["key"], {}, {}])))
    assert meta["result"]["exc_type"] == "UntrustedMessage"
    assert "Expired certificate" in meta["result"]["exc_message"][0]
    assert "old.pem has expired: messages that it signed are refused" in verifying.stack.logs()


@pytest.mark.slow
def test_an_application_with_an_expired_certificate_reports_it(
    tmp_path: Path, pairs: tuple[Pair, Pair, Pair], verifying: Plant
) -> None:
    keys = keys_of(tmp_path / "expired", verifying.old)
    server = verifying.stack.url("dispatcher").rpartition("/")[0] + "/1"
    application = {"LEDGER_KEYS": str(keys)}
    with (
        SecuredStack(tmp_path, {"all": server}, application=application) as stack,
        redis.Redis.from_url(server) as connection,
    ):
        stack.dispatcher()
        key = f"celery-task-meta-{push(connection, signed(pairs[2], [['key'], {}, {}]))}"
        until(
            lambda: "SecurityError: Expired certificate" in stack.logs(),
            PATIENCE,
            "its application is held, with the reason",
            stack.logs,
        )
        assert json.loads(connection.get(key) or "{}").get("status") not in ("FAILURE", "SUCCESS")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["unread", "verifying"])
def test_everything_of_celery_works_for_an_application_that_signs(
    at: Callable[[str], Plant], where: str
) -> None:
    found = at(where)
    found.stack.worker()
    key = uuid.uuid4().hex
    assert found.client.do(f"""
old, new = ledger.old_errback.s, ledger.new_errback.s
fail = ledger.gpu_fail.apply_async(("no",), link_error=[old("{key}"), new("{key}")])
die = ledger.gpu_die.apply_async(link_error=[old("{key}-died"), new("{key}-died")])
results = [
    fail,
    ledger.gpu_retry.delay(),
    chain(ledger.add.s(1, 2), ledger.gpu_double.s(), ledger.add.s(4))(),
    chain(ledger.gpu_double.s(1), ledger.add.s(4), ledger.gpu_double.s())(),
    group(ledger.gpu_double.s(i) for i in range(3)).apply_async(),
    chord([ledger.gpu_double.s(1), ledger.add.s(2, 2)], ledger.total.s())(),
    chord([ledger.add.s(1, 1), ledger.gpu_add.s(2, 2)], ledger.gpu_total.s())(),
    chord([ledger.gpu_die.s(), ledger.add.s(2, 2)], ledger.total.s())(),
    ledger.gpu_become.delay(4),
    ledger.gpu_join.delay(3),
    ledger.gpu_double.apply_async((1,), expires=-1),
    die,
]
answer = [outcome(each) for each in results]
""") == [
        "ValueError",
        1,
        10,
        12,
        [0, 2, 4],
        6,
        6,
        "ExecutorDied",
        13,
        [0, 2, 4],
        "TaskRevokedError",
        "ExecutorDied",
    ]
    assert sorted(what for what, *_ in found.stack.told(key, 2)) == ["new", "old"]
    assert sorted(what for what, *_ in found.stack.told(f"{key}-died", 2)) == ["new", "old"]
    found.stack.nodes["worker"].stop()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["unread", "verifying"])
def test_states_and_revokes_work_for_an_application_that_signs(
    at: Callable[[str], Plant], where: str
) -> None:
    found = at(where)
    key = uuid.uuid4().hex
    found.client.do(
        f"running = ledger.gpu_progress.apply_async(({key!r},), queue='gpu.t4.exclusive')"
    )
    found.stack.told(key)
    assert found.client.do("""
import time
waiting = ledger.gpu_double.delay(1)
while waiting.state != "QUEUED":
    time.sleep(0.05)
seen = [waiting.info["gpu_class"], running.state, running.info]
waiting.revoke()
seen.append(outcome(waiting))
running.revoke(terminate=True)
answer = [*seen, outcome(running)]
""") == ["t4", "PROGRESS", {"done": 1}, "TaskRevokedError", "TaskRevokedError"]
    # A dispatcher has no key to sign an answer with, and gives none: the caller takes no other.
    assert found.client.do("answer = ledger.app.control.inspect(timeout=1).ping()") is None


@pytest.mark.slow
def test_a_forged_revoke_is_not_heard_where_the_dispatcher_verifies(verifying: Plant) -> None:
    verifying.client.do(
        "running = ledger.gpu_progress.apply_async(('forged',), queue='gpu.t4.exclusive')"
    )
    verifying.stack.told("forged")
    job = verifying.client.do("answer = running.id")
    said = {
        "method": "revoke",
        "arguments": {"task_id": job, "terminate": True},
        "destination": None,
    }
    broadcast(verifying.redis, signed(verifying.stranger, said))
    broadcast(verifying.redis, "garbage")
    until(
        lambda: verifying.stack.logs().count("Can't decode message body") >= 2,
        PATIENCE,
        "refused",
        verifying.stack.logs,
    )
    verifying.stack.go("forged")
    assert verifying.client.do("answer = outcome(running)") == "done"


def broadcast(client: redis.Redis, body: str) -> None:
    properties: dict[str, object] = {
        "body_encoding": None,
        "delivery_tag": uuid.uuid4().hex,
        "delivery_info": {},
        "priority": 0,
    }
    message = {
        "body": body,
        "content-type": SIGNED,
        "content-encoding": "utf-8",
        "headers": {},
        "properties": properties,
    }
    client.publish("/0.celery.pidbox", json.dumps(message))


@pytest.mark.parametrize("body", ["garbage", "abc"])
def test_a_broadcast_that_is_none_stops_no_dispatcher(unread: Plant, body: str) -> None:
    node = unread.stack.nodes["dispatcher"]
    before = node.logs().count("Can't decode message body")
    broadcast(unread.redis, body)
    until(
        lambda: node.logs().count("Can't decode message body") > before,
        PATIENCE,
        "it is refused",
        node.logs,
    )
    assert unread.client.do("answer = ledger.gpu_double.delay(2).get(timeout=40)") == 4


@pytest.mark.slow
@pytest.mark.parametrize("where", ["unread", "verifying"])
def test_the_doctor_looks_at_signing(
    at: Callable[[str], Plant], where: str, tmp_path: Path
) -> None:
    found = at(where)
    done = found.stack.command("doctor")
    assert "OK    application: ledger: " in done.stdout and "tasks, signed" in done.stdout, (
        done.stdout + done.stderr
    )
    plain = found.stack.command("doctor", env={"LEDGER_KEYS": ""})
    refuses = (
        "it does not sign messages, and GPUQUEUE_CERT_STORE accepts only signed ones"
        in plain.stdout
    )
    assert (refuses, plain.returncode) == ((True, 1) if where == "verifying" else (False, 0)), (
        plain.stdout
    )
    own = found.stack.command("doctor", env={"LEDGER_RESULTS": "auth"})
    assert "(auth), which it writes all itself" in own.stdout, own.stdout
    assert own.returncode == 0


# -- container jobs --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("store", [True, False], ids=["with a store", "without one"])
def test_signed_container_jobs_need_a_dispatcher_that_verifies(
    tmp_path: Path, pairs: tuple[Pair, Pair, Pair], store: bool
) -> None:
    for found in plant(tmp_path, pairs, store=store, cluster=True):
        found.client.do("""
import gpuqueue
def container(text):
    made = gpuqueue.run("shop:1", ["python3", "-c", f"print({text!r})"], app=ledger.app)
    return made.set(**gpuqueue.gpu("t4", isolation="shared"))
""")
        done = found.client.do("answer = outcome(container('hello').apply_async())")
        if not store:
            assert done == "InvalidJob"
            return
        assert (done["exit_code"], done["log"]) == (0, "hello\n")
        job = found.client.do(
            "r = chain(container('first'), ledger.gpu_double.si(4))()\nanswer = r.parent.id"
        )
        assert found.client.do("answer = outcome(r)") == 8
        record = Reader(found.redis).find(job, ["t4"])
        assert record is not None and record["reason"] == "SUCCEEDED"
        failed = found.client.do("""
bad = gpuqueue.run("shop:1", ["sh", "-c", "exit 3"], app=ledger.app)
bad.set(**gpuqueue.gpu("t4", isolation="shared"))
errback = ledger.old_errback.s("container").set(queue="gpu.t4.shared")
answer = outcome(bad.apply_async(link_error=[errback]))
""")
        assert failed == "ContainerFailed"
        assert found.stack.told("container")[0][0] == "old"
