"""``global_keyprefix`` of broker and results: every key of Celery that any process touches begins
with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.security.secured_stack import SecuredStack, fetch
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
#: Celery adds a mark to the second.
BROKER, RESULTS = "shop:", "results"
CELERY = """
results = [
    ledger.gpu_double.delay(21),
    chain(ledger.gpu_double.s(1), ledger.add.s(2), ledger.gpu_double.s())(),
    chord([ledger.gpu_double.s(1), ledger.add.s(2, 2)], ledger.gpu_total.s())(),
    ledger.gpu_die.apply_async(link_error=[ledger.old_errback.s("died")]),
    chord([ledger.gpu_die.s(), ledger.add.s(1, 1)], ledger.total.s())(),
    ledger.gpu_double.apply_async((1,), headers={"gpu": {"isolation": "never"}}),
    ledger.gpu_double.apply_async((3,), priority=9),
]
answer = [outcome(each) for each in results]
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SecuredStack]:
    broker, results = ({"global_keyprefix": each} for each in (BROKER, RESULTS))
    with (
        EmbeddedRedis() as server,
        SecuredStack(
            tmp_path,
            {"all": server.url},
            dispatcher={
                "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": json.dumps(broker),
                "GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS": json.dumps(results),
            },
            application={
                "LEDGER_BROKER_OPTIONS": json.dumps(broker),
                "LEDGER_RESULT_OPTIONS": json.dumps(results),
            },
        ) as made,
    ):
        yield made


@pytest.mark.slow
def test_every_key_of_celery_has_its_prefix(stack: SecuredStack) -> None:
    keys: set[str] = set()
    with redis.Redis.from_url(stack.url("all"), decode_responses=True) as client:
        sender = stack.client()
        waits = sender.do(
            "waits = ledger.gpu_double.apply_async((1,), priority=9)\nanswer = waits.id"
        )
        assert client.llen(f"{BROKER}gpu.t4.shared\x06\x169") == 1
        doctor = stack.command("doctor").stdout
        assert "no dispatcher has taken: 1 in gpu.t4.shared" in " ".join(doctor.split())
        page = stack.flower()
        stack.dispatcher()
        stack.worker()
        assert sender.do("answer = waits.get(timeout=40)") == 2
        *ran, part, refused, low = sender.do(CELERY)
        assert [*ran, refused, low] == [42, 8, 6, "ExecutorDied", "InvalidJob", 6]
        # What `get` finds first: the error of the part, or that of the chord.
        assert part in ("ExecutorDied", "ChordError")
        assert stack.told("died")
        # The dispatcher reads two queues: the job that waits is sent once the other one runs.
        sender.do('alone = ledger.gpu_progress.apply_async(("alone",), queue="gpu.t4.exclusive")')
        stack.told("alone")
        sender.do("waiting = ledger.gpu_double.delay(1)")
        until(
            lambda: sender.do("answer = waiting.state") == "QUEUED",
            PATIENCE,
            "the job waits",
            lambda: f"{sender.do('answer = waiting.state')}\n{stack.logs()}",
        )
        keys |= set(client.scan_iter(count=10_000))
        sender.do("""
waiting.revoke()
alone.revoke(terminate=True)
answer = [outcome(waiting), outcome(alone)]
""")
        lengths = until(
            lambda: json.loads(fetch(page, "/api/queues/length") or b"null"),
            PATIENCE,
            "Flower knows the lengths",
        )
        assert "gpu.t4.shared" in {each["name"] for each in lengths["active_queues"]}
        metrics = fetch(f"http://127.0.0.1:{stack.env['GPUQUEUE_METRICS_PORT']}", "/metrics")
        assert b'gpuqueue_untaken_messages{queue="gpu.t4.shared"} 0.0' in metrics
        assert stack.command("why", waits).returncode == 0
        keys |= set(client.scan_iter(count=10_000))
    bare = {each for each in keys if not each.startswith((BROKER, f"{RESULTS}_", "gpuqueue:"))}
    assert not bare
    assert any(each.startswith(f"{RESULTS}_celery-task-meta-") for each in keys)


def test_a_job_of_a_held_application_expires_under_the_prefix(stack: SecuredStack) -> None:
    stack.dispatcher(env={"GPUQUEUE_APP": "not.there"})
    send = "answer = outcome(ledger.gpu_double.apply_async((1,), expires=3))"
    assert stack.client().do(send) == "TaskRevokedError"
    assert "not.there" in stack.logs()
