"""Everything that gpuqueue does with Redis, run once: it shows what each user needs."""

from __future__ import annotations

import json
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import explain
from gpuqueue.model.place import Site
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.security.acl_redis import AclRedis
from tests.security.secured_stack import SecuredStack, fetch
from tests.support.waiting import PATIENCE, until

GPU = "gpu.t4.shared"


def run(acl_redis: AclRedis, stack: SecuredStack) -> dict[str, Any]:
    """Run it; answers what came of each part."""
    seen: dict[str, Any] = {}
    client = stack.client()
    # Flower is first up: like any consumer it gives back what others had in hand, and clears away
    # stale bindings.
    lost = client.do("lost = ledger.gpu_double.delay(1)\nanswer = lost.id")
    _in_hand(acl_redis.admin, GPU, "gpuqueue.unacked")
    acl_redis.admin.zadd("_kombu.binding_deadlines", {"ghost": 1})
    page = stack.flower()
    until(lambda: acl_redis.admin.llen(GPU), PATIENCE, "Flower has given it back", stack.logs)
    # Then a dispatcher and a worker, each of which finds something, too.
    client.do("found = ledger.gpu_double.delay(2), ledger.add.delay(1, 1)")
    _in_hand(acl_redis.admin, GPU, "gpuqueue.unacked")
    _in_hand(acl_redis.admin, "celery", "unacked")
    acl_redis.admin.zadd("_kombu.binding_deadlines", {"ghost": 1})
    stack.dispatcher()
    acl_redis.admin.zadd("_kombu.binding_deadlines", {"ghost": 1})
    stack.worker()
    seen["given back"] = client.do("answer = [outcome(each) for each in (lost, *found)]")
    seen["ran"] = client.do(_CELERY)
    seen["errbacks"] = [
        what for key in ("old", "new", "died", "no image") for what, *_ in stack.told(key)
    ]
    seen["revoked"] = _revokes(stack, client)
    seen["next"] = _asks_for_the_next(acl_redis)
    seen["waits"] = _waits_for_a_job(acl_redis)
    seen["commands"] = _commands(stack, client)
    later = client.do(
        "later = ledger.gpu_double.apply_async((1,), countdown=3600)\nanswer = later.id"
    )
    seen["flower"] = _flower(page, lost, later)
    metrics = f"http://127.0.0.1:{stack.env['GPUQUEUE_METRICS_PORT']}"
    seen["metrics"] = fetch(metrics, "/metrics").decode(), fetch(metrics, "/readyz").decode()
    for name in ("flower", "worker", "dispatcher"):
        stack.nodes[name].kill("SIGTERM")
    return seen


#: What applications do, each with what comes of it: both ways between queues, and by each hand that
#: may write an end.
_CELERY = """
from gpuqueue import gpu
bad = {"gpu": {"isolation": "never"}}
expired = ledger.gpu_double.apply_async((1,), expires=-1)
saved = group(ledger.gpu_double.s(i) for i in range(3)).apply_async()
saved.save()
gone = ledger.gpu_double.delay(1)
gone.get(timeout=40)
gone.forget()
ledger.gpu_quiet.delay("quiet")
lists = group(ledger.add.s(1, 1), group(ledger.gpu_add.s(1, 1), ledger.add.s(2, 2)))
no_image = {
    "link_error": [ledger.old_errback.s("no image")],
    **gpu("t4", isolation="shared", image="No/Such::image"),
}
results = [
    ledger.gpu_double.delay(21),
    ledger.gpu_fail.apply_async(
        ("no",), link_error=[ledger.old_errback.s("old"), ledger.new_errback.s("new")]
    ),
    ledger.gpu_retry.delay(),
    chain(ledger.gpu_double.s(1), ledger.add.s(2), ledger.gpu_double.s())(),
    chain(ledger.add.s(1, 2), ledger.gpu_double.s(), ledger.add.s(4))(),
    ledger.app.GroupResult.restore(saved.id),
    chord([ledger.gpu_double.s(1), ledger.add.s(2, 2)], ledger.total.s())(),
    chord([ledger.add.s(1, 1), ledger.gpu_add.s(2, 2)], ledger.gpu_total.s())(),
    chord(lists, ledger.gpu_lists.s())(),
    chord([ledger.gpu_more.s(3), ledger.add.s(1, 1)], ledger.total.s())(),
    chord([ledger.gpu_fail.s("part"), ledger.add.s(1, 1)], ledger.total.s())(),
    chord([ledger.gpu_double.s(1).set(**no_image), ledger.add.s(1, 1)], ledger.total.s())(),
    ledger.gpu_become.delay(4),
    ledger.gpu_join.delay(3),
    ledger.gpu_join.apply_async((3,), queue="celery"),
    chord([ledger.gpu_more.s(3).set(queue="celery"), ledger.gpu_double.s(1)], ledger.total.s())(),
    ledger.gpu_slow.delay(),
    ledger.gpu_die.apply_async(link_error=[ledger.old_errback.s("died")]),
    ledger.gpu_double.apply_async((1,), headers=bad),
    ledger.gpu_double.apply_async((3,), countdown=1),
    expired,
]
answer = [outcome(each) for each in results]
"""


def _asks_for_the_next(acl_redis: AclRedis) -> list[str]:
    """An instance asks for its next job, twice, in a class that no dispatcher serves. Answers who
    holds a slot after each time.
    """
    warm = GpuClass("warm", shared_slots=1)
    dispatcher, user = acl_redis.as_user("dispatcher"), acl_redis.as_user("executor")
    line = Line(dispatcher, owner="o", site=Site(application="shop"))
    holders: list[str] = []
    line.open("warm")
    line.announce([warm], 600)
    # The turn would be that of the other tenant, but for its priority.
    for name, tenant, priority in (("n1", "blue", 0), ("n2", "blue", 0), ("n3", "red", 9)):
        record: Any = {"delivery": name, "id": name, "gpu_class": "warm", "isolation": "shared"}
        record |= {"tenant": tenant, "priority": priority, "task": "t", "warm": 60}
        granted = line.take_in(warm, record, "{}").granted
        if granted:
            executor = ExecutorAttempt(user, Attempt.of(granted[0]), granted[0]["token"])
            executor.claim("ns/job/pod", "w")
    for _ in range(2):
        executor.report("SUCCEEDED")
        executor.reported(600)
        taken = executor.take_next(WarmInstance("ns/job/pod", "pod", "o", "shop"))
        executor = taken[0] if taken else executor
        holders.append(*[each.holder for each, _ in Reader(dispatcher).holders("warm")] or [""])
    for each in (dispatcher, user):
        each.close()
    return holders


def _waits_for_a_job(acl_redis: AclRedis) -> list[Any]:
    """A pod waits for a job and gets one, in a class that no dispatcher serves. Answers whether it
    waited, what it was given, who held a slot, and whether it may stay when it leaves.
    """
    idle, pod = GpuClass("idle", shared_slots=1), "ns/job/pod"
    dispatcher, user = acl_redis.as_user("dispatcher"), acl_redis.as_user("executor")
    line = Line(dispatcher, owner="o", site=Site(application="shop"))
    line.open("idle")
    line.announce([idle], 600)
    record: Any = {"gpu_class": "idle", "isolation": "shared", "task": "t", "warm": 60}
    [first] = line.take_in(idle, record | {"delivery": "m1", "id": "m1"}, "{}").granted
    executor = ExecutorAttempt(user, Attempt.of(first), first["token"])
    executor.claim(pod, "w")
    executor.report("SUCCEEDED")
    executor.reported(600)
    me = WarmInstance(pod, "pod", "o", "shop", stays=60)
    assert executor.take_next(me, ended=explain(0)) is None
    seen: list[Any] = [executor.called(pod, "m1#1")]
    assert not line.take_in(idle, record | {"delivery": "m2", "id": "m2"}, "{}").granted
    executor.sleep(pod, 60)  # it is woken at once
    given: Any = executor.called(pod, "m1#1")
    second = ExecutorAttempt(user, Attempt.of(given), given["token"])
    second.claim(pod, "w")
    assert second.stands(None, pod)
    seen += [Attempt.of(given).holder, [each.holder for each, _ in Reader(user).holders("idle")]]
    second.report("SUCCEEDED")
    second.reported(600)
    assert second.take_next(me, ended=explain(0)) is None
    seen.append(second.called(pod, "m1#1", leaves=True))
    for each in (dispatcher, user):
        each.close()
    return seen


def _in_hand(admin: redis.Redis, queue: str, key: str) -> None:
    """Move a message where it would be if its consumer had died long ago."""
    raw = admin.rpop(queue)
    assert isinstance(raw, str)
    message = json.loads(raw)
    tag = message["properties"]["delivery_tag"]
    admin.hset(key, tag, json.dumps([message, queue, queue]))
    admin.zadd(f"{key}_index", {tag: 1})


def _revokes(stack: SecuredStack, client: Any) -> list[Any]:
    """Revoke jobs that wait, run, and are yet to come, by their ids and by a stamp; one is part of
    a chord.
    """
    client.do("alone = ledger.gpu_progress.apply_async(('alone',), queue='gpu.t4.exclusive')")
    stack.told("alone")
    client.do("""
progress = alone.state, alone.info
waiting = ledger.gpu_double.delay(1)
part = ledger.gpu_double.s(1).set(task_id="part-of-a-chord")
whole = chord([part, ledger.add.s(1, 1)], ledger.total.s())()
stamped = ledger.gpu_double.s(1)
stamped.stamp(customer="42")
stamped = stamped.apply_async()
coming = "yet-to-come"
""")
    client.do("""
import time
for each in (waiting, stamped, ledger.app.AsyncResult("part-of-a-chord")):
    while each.state != "QUEUED":
        time.sleep(0.05)
waiting.revoke()
ledger.app.AsyncResult("part-of-a-chord").revoke()
ledger.app.control.revoke(coming)
ledger.app.control.revoke_by_stamped_headers({"customer": ["42"]})
answer = [outcome(each) for each in (waiting, stamped, whole)]
alone.revoke(terminate=True)
""")
    found: list[Any] = client.do("""
late = ledger.gpu_double.apply_async((1,), task_id=coming)
late_stamped = ledger.gpu_double.s(1)
late_stamped.stamp(customer="42")
sent = waiting, stamped, whole, alone, late, late_stamped.apply_async()
answer = [progress, *map(outcome, sent)]
""")
    return found


def _commands(stack: SecuredStack, client: Any) -> dict[str, Any]:
    """Run ``gpuqueue`` as the dispatcher's user, while a job runs and another waits."""
    first, second = client.do("""
first = ledger.gpu_progress.apply_async(("first",), queue="gpu.t4.exclusive")
second = ledger.gpu_double.delay(1)
answer = first.id, second.id
""")
    stack.told("first")
    seen = {name: stack.command(*words) for name, words in _words(first, second).items()}
    stack.go("first")
    client.do("first.get(timeout=40)")
    until(
        lambda: stack.command("logs", first).returncode == 0,
        PATIENCE,
        "the log of an ended job is kept",
        stack.logs,
    )
    return {name: (done.returncode, done.stdout + done.stderr) for name, done in seen.items()}


def _words(first: str, second: str) -> dict[str, tuple[str, ...]]:
    return {
        "status": ("status",),
        "why": ("why", second),
        "logs": ("logs", first),
        "cancel": ("cancel", second, "--wait", "20"),
        "classes": ("classes",),
        "doctor": ("doctor",),
    }


def _flower(page: str, job_id: str, later: str) -> dict[str, Any]:
    """What Flower knows, and what it does."""

    def get(path: str) -> Any:
        return json.loads(fetch(page, path) or b"null")

    until(
        lambda: "gpu-t4@gpuqueue-t4" in (get("/api/workers?refresh=1") or {}),
        PATIENCE,
        "Flower sees the worker of the class",
    )

    def scheduled() -> Any:
        worker = "gpu-t4@gpuqueue-t4"
        seen = get(f"/api/workers?refresh=1&workername={worker}") or {}
        return [each["request"] for each in seen.get(worker, {}).get("scheduled", ())]

    [listed] = until(scheduled, PATIENCE, "Flower lists a job that starts later")
    assert (listed["id"], listed["args"]) == (later, [1])
    return {
        "job": get(f"/api/task/info/{job_id}")["state"],
        "result": get(f"/api/task/result/{job_id}"),
        "queues": {each["name"] for each in get("/api/queues/length")["active_queues"]},
        "revoke": json.loads(fetch(page, f"/api/task/revoke/{job_id}", b"")),
    }
