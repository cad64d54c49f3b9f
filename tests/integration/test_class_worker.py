"""The worker that a class is to Celery's tools: with two dispatchers, their deaths, their jobs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
import redis

from gpuqueue.model.names import worker_name
from gpuqueue.store.clock import redis_time
from tests.support.nodes import ProcessContainer, WorkerNode
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
GPU, WORKER = "gpu.t4.shared", worker_name("t4")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    """Two dispatchers, and a worker of the application."""
    env = {"T4_SHARED_SLOTS": "2", "GPUQUEUE_LEASE_SECONDS": "1", "GPUQUEUE_TICK_SECONDS": "0.2"}
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("pair"), env)) as made:
        made.dispatcher("one")
        made.dispatcher("two")
        # With gossip and mingle, which listen to other workers.
        words = ["-A", "shop", "worker", "-Q", "celery", "-c", "1", "-n", "cpu@test", "-l", "INFO"]
        argv, env = [sys.executable, "-m", "celery", *words], {"CELERY_BROKER_URL": made.url}
        cpu = WorkerNode(ProcessContainer("cpu", argv, env, made.directory), made.app)
        made.workers.append(cpu.start())
        cpu.ready()
        yield made


@contextmanager
def listening(stack: Stack) -> Iterator[list[dict[str, Any]]]:
    """All events while it lasts."""
    heard: list[dict[str, Any]] = []
    with stack.app.connection_for_read() as connection:
        receiver = stack.app.events.Receiver(connection, handlers={"*": heard.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None}, daemon=True)
        thread.start()
        try:
            until(lambda: of_worker(heard, "worker-heartbeat"), PATIENCE, "a heartbeat")
            yield heard
        finally:
            receiver.should_stop = True
            thread.join(PATIENCE)


def of_worker(heard: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in heard if (each["hostname"], each["type"]) == (WORKER, kind)]


def asked(stack: Stack, command: str, **arguments: Any) -> Any:
    """The answer of the worker of the class to a command. A dispatcher that connects hears none."""

    def answers() -> Any:
        return stack.app.control.broadcast(command, arguments, [WORKER], reply=True, timeout=5)

    [answer] = until(answers, PATIENCE, f"an answer to {command}")
    return answer[WORKER]


def of_class(heard: list[dict[str, Any]]) -> set[str]:
    """The workers of GPU jobs that were heard of."""
    return {each["hostname"] for each in heard} - {"cpu@test"}


def test_two_dispatchers_and_many_jobs_are_one_worker(pair: Stack, key: str) -> None:
    before = asked(pair, "stats")["total"][GPU]
    with listening(pair) as heard:
        running = [pair.shop.hold.apply_async((key,), queue=GPU) for _ in range(2)]
        done = [pair.shop.add.apply_async((n, 1), queue=GPU) for n in range(10)]
        for each in running:
            pair.in_state(each.id, "running")
        until(
            lambda: any(each["active"] == 2 for each in of_worker(heard, "worker-heartbeat")),
            PATIENCE,
            "two are active",
        )
        pair.go(key, 2)
        assert [each.get(timeout=PATIENCE) for each in done] == list(range(1, 11))
        for each in running:
            assert each.get(timeout=PATIENCE) == key
        until(
            lambda: (
                (last := of_worker(heard, "worker-heartbeat")[-1])["processed"] == before + 12
                and last["active"] == 0
            ),
            PATIENCE,
            "the counts are true",
        )
        until(lambda: len(of_worker(heard, "task-succeeded")) == 12, PATIENCE, "all have ended")
    assert of_class(heard) == {WORKER}
    assert {each["hostname"] for each in heard if each.get("uuid")} == {WORKER}
    assert not of_worker(heard, "worker-offline")
    assert len({each["pid"] for each in of_worker(heard, "worker-heartbeat")}) == 1, "one sends"
    assert len(of_worker(heard, "task-received")) == 12


def test_celery_s_inspect_tells_of_the_jobs_of_the_class(pair: Stack, key: str) -> None:
    running = [pair.shop.hold.apply_async((key,), queue=GPU) for _ in range(2)]
    for each in running:
        pair.in_state(each.id, "running")
    waiting = pair.shop.hold.apply_async((key,), queue=GPU)
    later = pair.shop.add.apply_async((1, 2), queue=GPU, countdown=3600)
    pair.in_state(waiting.id, "waiting")
    pair.in_state(later.id, "delayed")
    inspect = pair.app.control.inspect([WORKER], timeout=PATIENCE)
    active = inspect.active()[WORKER]
    assert {each["id"] for each in active} == {each.id for each in running}
    for each in active:
        record = pair.known(each["id"])
        assert (each["name"], each["args"], each["hostname"]) == (
            "shop.hold", [key], record["worker"],
        )  # fmt: skip
        assert each["worker_pid"] == pair.process_of(record).pid
        assert each["time_start"] == record["started"]
    assert [each["id"] for each in inspect.reserved()[WORKER]] == [waiting.id]
    [scheduled] = inspect.scheduled()[WORKER]
    assert (scheduled["request"]["id"], scheduled["request"]["args"]) == (later.id, [1, 2])
    ids = (running[0].id, waiting.id, later.id, "unknown")
    told = {name: state for name, (state, _) in inspect.query_task(*ids)[WORKER].items()}
    assert told == {running[0].id: "active", waiting.id: "reserved", later.id: "scheduled"}
    assert inspect.registered()[WORKER] == ["shop.hold"]
    stats = inspect.stats()[WORKER]
    assert stats["pool"]["max-concurrency"] == 2
    assert {each.partition("#")[0] for each in stats["pool"]["processes"]} == {
        each.id for each in running
    }
    queues = {"gpu.auto", "gpu.mig", "gpu.t4", "gpu.t4.exclusive", GPU}
    until(
        lambda: {each["name"] for each in inspect.active_queues()[WORKER]} == queues,
        PATIENCE,
        "all its queues",
    )
    later.revoke()
    pair.in_state(later.id, "ended")
    assert later.id in inspect.revoked()[WORKER]
    assert "celery" in inspect.report()[WORKER]["ok"]
    assert inspect.conf()[WORKER]["task_serializer"] == "json"
    assert inspect.ping() == {WORKER: {"ok": "pong"}}
    everywhere = pair.app.control.inspect(timeout=5).ping()
    assert set(everywhere) == {WORKER, "cpu@test"}, "no dispatcher by its own name"
    assert pair.app.control.inspect(["one@test"], timeout=PATIENCE).ping() == {
        "one@test": {"ok": "pong"}
    }
    pair.go(key, 3)
    for each in (*running, waiting):
        assert each.get(timeout=PATIENCE) == key


@pytest.mark.slow
def test_other_workers_know_the_class_as_a_neighbour(pair: Stack) -> None:
    [cpu] = [each for each in pair.workers if each.name() == "cpu"]
    assert "mingle: sync with 1 nodes" in cpu.logs()
    assert pair.shop.add.apply_async((1, 1)).get(timeout=PATIENCE) == 2
    assert "Traceback" not in cpu.logs() and "ERROR" not in cpu.logs()


def cut(stack: Stack, node: WorkerNode) -> None:
    """End all connections of a process to Redis."""
    for each in psutil.Process(node.pid).net_connections("tcp"):
        if each.raddr:
            with suppress(redis.ResponseError):  # it has gone meanwhile
                stack.client.client_kill(f"{each.laddr.ip}:{each.laddr.port}")


@pytest.mark.slow
def test_no_message_of_another_queue_is_ever_taken(pair: Stack) -> None:
    lost = pair.shop.add.apply_async((1, 1), queue="cpu")
    answer = asked(pair, "add_consumer", queue="cpu")
    assert "queue='cpu' is no GPU queue" in answer["error"]
    # A reconnection begins with the queues that are known.
    pair.shop.add.apply_async((1, 1), queue=GPU, link=pair.shop.add.si(2, 2).set(queue="cpu")).get(
        timeout=PATIENCE
    )
    dispatchers = [each for each in pair.workers if each.name() in ("one", "two")]
    for each in dispatchers:
        cut(pair, each)
    until(
        lambda: all(each.logs().count("Connected to redis") == 2 for each in dispatchers),
        PATIENCE,
        "both have connected again",
    )
    assert pair.shop.add.apply_async((2, 2), queue=GPU).get(timeout=PATIENCE) == 4
    assert pair.client.llen("cpu") == 2 and lost.state == "PENDING"
    assert "cpu" not in {each["name"] for each in asked(pair, "active_queues")}


@pytest.mark.slow
def test_a_refused_message_is_no_job_of_the_class(pair: Stack) -> None:
    with listening(pair) as heard:
        wrong = pair.shop.add.apply_async((1, 1), queue=GPU, headers={"gpu": {"memory": "much"}})
        assert isinstance(wrong.get(timeout=PATIENCE, propagate=False), Exception)
        until(
            lambda: [each for each in heard if each["type"] == "task-failed"], PATIENCE, "it failed"
        )
    told = [(each["type"], each["hostname"]) for each in heard if each.get("uuid") == wrong.id]
    refused = worker_name("refused")
    assert told == [("task-received", refused), ("task-failed", refused)]


@pytest.mark.slow
def test_a_cancelled_queue_waits_until_it_is_consumed_again(pair: Stack) -> None:
    queue = "gpu.t4.exclusive"
    assert asked(pair, "cancel_consumer", queue=queue) == {
        "ok": f"no longer consuming from {queue}"
    }
    until(
        lambda: queue not in {each["name"] for each in asked(pair, "active_queues")},
        PATIENCE,
        "it is consumed no more",
    )
    job = pair.shop.add.apply_async((1, 1), queue=queue)
    assert pair.shop.add.apply_async((2, 2), queue=GPU).get(timeout=PATIENCE) == 4
    assert pair.client.llen(queue) == 1 and pair.record(job.id) is None
    asked(pair, "add_consumer", queue=queue)
    assert job.get(timeout=PATIENCE) == 2


@pytest.mark.slow
def test_a_task_knows_its_attempt_and_where_it_runs(pair: Stack) -> None:
    job = pair.shop.describe.apply_async(queue=GPU)
    told = job.get(timeout=PATIENCE)
    record = pair.known(job.id)
    assert told["hostname"] == record["worker"]
    assert record["worker"].startswith(f"t4-{job.id}-1@")


@pytest.mark.slow
def test_the_next_leader_goes_on_as_the_same_worker(pair: Stack, key: str) -> None:
    running = pair.shop.hold.apply_async((key,), queue=GPU)
    pair.in_state(running.id, "running")
    leader = asked(pair, "stats")["dispatcher"].partition("@")[0]
    [node] = [each for each in pair.workers if each.name() == leader]
    with listening(pair) as heard:
        node.kill()
        heard.clear()
        until(
            lambda: of_worker(heard, "worker-heartbeat"), PATIENCE, "the other one sends heartbeats"
        )
        assert of_worker(heard, "worker-heartbeat")[0]["active"] == 1
        assert not of_worker(heard, "worker-offline")
        other = asked(pair, "stats")["dispatcher"].partition("@")[0]
        assert {leader, other} == {"one", "two"}
        until(
            lambda: pair.reader.dispatchers(redis_time(pair.client) - 3) == [f"{other}@test"],
            PATIENCE,
            "the dead one was not heard of for long",
        )
        [last] = [each for each in pair.workers if each.name() == other]
        last.stop()
        until(lambda: of_worker(heard, "worker-offline"), PATIENCE, "the last one says goodbye")
        assert len(of_worker(heard, "worker-offline")) == 1
    pair.dispatcher("three")
    pair.go(key)
    assert running.get(timeout=PATIENCE) == key
