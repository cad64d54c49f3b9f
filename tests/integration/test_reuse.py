"""Several jobs of one task in one process, where the application asks for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue import gpu
from gpuqueue.errors import ExecutorDied
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.logs import Logs
from tests.support.nodes import APPS
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120), pytest.mark.local_only("reuse")]
APP = """
import os, pathlib, resource, signal, sys, time
from celery import Celery
from celery.signals import task_postrun
URL = os.environ["CELERY_BROKER_URL"]
app = Celery("own", broker=URL, backend=URL)
LOADED = []

@app.task(bind=True)
def use(self, name, does="", folder=""):
    folder = pathlib.Path(folder or ".")
    LOADED.append(name)
    print("used by", name)
    (folder / name).touch()
    if does == "waits":
        while not (folder / f"go {name}").exists():
            time.sleep(0.02)
    elif does == "sleeps":
        time.sleep(600)
    elif does == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif does == "fails":
        raise ValueError(name)
    elif does == "arms":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
    elif does == "rests":
        time.sleep(0.6)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    elif does == "exits":
        sys.exit(3)
    elif does == "retries" and not self.request.retries:
        raise self.retry(countdown=0)
    names = self.request.id, self.request.hostname, os.environ["GPUQUEUE_JOB_ID"]
    return [os.getpid(), list(LOADED), *names]

@task_postrun.connect
def leak(args=(), **_):
    if "leaks" in args:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        try:
            while True:
                LOADED.append(open(os.devnull))
        except OSError:
            print("leaked", len(LOADED))

@app.task
def other():
    return os.getpid()
"""


@dataclass
class Own:
    """A stack of the application above, whose jobs run one after the other."""

    stack: Stack

    def send(self, name: str, does: str = "", *, reuse: int = 9, **options: Any) -> AsyncResult:
        told = gpu("t4", isolation="exclusive", reuse=reuse, **options)
        return self.stack.app.send_task("own.use", (name, does, str(self.stack.directory)), **told)

    def other(self, isolation: str) -> AsyncResult:
        return self.stack.app.send_task("own.other", **gpu("t4", isolation=isolation))

    def in_line(self, *results: AsyncResult) -> None:
        for result in results:
            self.stack.in_state(result.id, "waiting")

    def began(self, name: str) -> None:
        until((self.stack.directory / name).exists, PATIENCE, f"{name} runs", self.logs)

    def go(self, name: str = "first") -> None:
        """Let a job end that waits."""
        (self.stack.directory / f"go {name}").touch()

    def of(self, result: AsyncResult) -> Record:
        return self.stack.known(result.id)

    def idle(self) -> None:
        until(lambda: not self.stack.holders(), PATIENCE, "no slot is held", self.logs)

    def logs(self) -> str:
        return str(self.stack.logs())

    def first_and(self, *jobs: tuple[str, str]) -> list[AsyncResult]:
        """A first job runs until these are in line."""
        first = self.send("first", "waits")
        self.began("first")
        rest = [self.send(*each) for each in jobs]
        self.in_line(*rest)
        self.go()
        return [first, *rest]


@pytest.fixture
def own(stack_factory: Callable[..., Stack], request: pytest.FixtureRequest) -> Own:
    path = os.pathsep.join(["", str(APPS)])
    clocks = {"GPUQUEUE_REPAIR_SECONDS": "0.5", "GPUQUEUE_RELIST_SECONDS": "0.5"}
    start = {"GPUQUEUE_START": getattr(request, "param", "fork")}
    made = stack_factory({"PYTHONPATH": path, "GPUQUEUE_APP": "own", **clocks, **start})
    (made.directory / "own.py").write_text(APP)
    made.dispatcher()
    return Own(made)


@pytest.mark.parametrize(
    "own", ["fork", pytest.param("spawn", marks=pytest.mark.slow)], indirect=True
)
def test_jobs_of_a_task_share_a_process_up_to_a_number(own: Own) -> None:
    first = own.send("first", "waits", reuse=3)
    own.began("first")
    rest = [own.send(name, reuse=3) for name in ("b", "c", "d")]
    own.in_line(*rest)
    own.go()
    answers = [each.get(PATIENCE) for each in (first, *rest)]
    pids = [pid for pid, *_ in answers]
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert [loaded for _, loaded, *_ in answers] == [
        ["first"], ["first", "b"], ["first", "b", "c"], ["d"],
    ]  # fmt: skip
    for result, answer in zip((first, *rest), answers, strict=True):
        record = own.of(result)
        worker = Attempt.of(record).worker(answer[3].partition("@")[2])
        assert answer[2:] == [result.id, worker, result.id]
    assert [own.of(each).get("warm_turn") for each in (first, *rest)] == [None, 2, 3, None]
    own.idle()
    for result, name in zip((first, *rest), ("first", "b", "c", "d"), strict=True):
        text = Logs(own.stack.client).read(Attempt.of(own.of(result))) or ""
        assert text.count("used by") == 1 and f"used by {name}\n" in text


def test_a_job_that_dies_or_is_stopped_ends_alone(own: Own) -> None:
    first, dies, after, limited, last = own.first_and(
        ("dies", "dies"), ("after", ""), ("limited", "sleeps"), ("last", "")
    )
    pid = first.get(PATIENCE)[0]
    with pytest.raises(ExecutorDied, match="SIGKILL"):
        dies.get(PATIENCE)
    own.began("limited")
    limited.revoke(terminate=True)
    until(lambda: limited.state == "REVOKED", PATIENCE, "it is revoked", own.logs)
    answers = [after.get(PATIENCE), last.get(PATIENCE)]
    assert len({pid, *(each[0] for each in answers)}) == 3
    assert [own.of(each).get("warm_turn") for each in (dies, after, limited)] == [2, None, 2]
    assert [own.of(each)["attempt"] for each in (first, dies, after, limited, last)] == [1] * 5
    own.idle()


def test_a_job_that_dies_below_its_short_limit_fails(own: Own) -> None:
    own.send("first", "waits")
    own.began("first")
    dies = own.send("dies", "dies", time_limit=60)
    own.in_line(dies)
    own.go()
    with pytest.raises(ExecutorDied, match="SIGKILL"):
        dies.get(PATIENCE)
    assert (own.of(dies)["warm_turn"], own.of(dies)["attempt"]) == (2, 1)


@pytest.mark.slow
def test_a_job_that_leaks_files_ends_the_reuse(own: Own) -> None:
    first, leaks, last = own.first_and(("leaks", "leaks"), ("last", ""))
    assert last.get(PATIENCE)[0] != leaks.get(PATIENCE)[0] == first.get(PATIENCE)[0]
    assert own.of(last)["attempt"] == 1, "no job was taken that could not run"
    assert "leaked" in (Logs(own.stack.client).read(Attempt.of(own.of(leaks))) or "")


@pytest.mark.slow
def test_a_time_limit_is_that_of_the_job_that_runs(own: Own) -> None:
    first = own.send("first", "waits", time_limit=60)
    own.began("first")
    second = own.send("second", "sleeps", time_limit=1)
    soft = own.send("soft", "sleeps", soft_time_limit=0.5)
    third = own.send("third")
    own.in_line(second, soft, third)
    own.go()
    assert first.get(PATIENCE)
    with pytest.raises(Exception, match=r"(?i)time ?limit"):
        second.get(PATIENCE)
    with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
        soft.get(PATIENCE)
    assert third.get(PATIENCE)[1] == ["soft", "third"], "a soft limit ends no process"
    assert (own.of(first)["reason"], own.of(second)["reason"]) == ("SUCCEEDED", "TIME_LIMIT")


def test_a_timer_and_blocked_signals_end_with_their_job(own: Own) -> None:
    first, arms, rests = own.first_and(("arms", "arms"), ("rests", "rests"))
    assert len({each.get(PATIENCE)[0] for each in (first, arms, rests)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("other", [{}, {"MODEL": "/models/new"}])
def test_a_process_outlives_its_dispatchers_and_takes_jobs_of_none(
    own: Own, other: dict[str, str]
) -> None:
    first = own.send("first", "waits")
    own.began("first")
    second = own.send("second")
    own.in_line(second)
    [node] = own.stack.workers
    if other:
        own.stack.dispatcher("two", env=other)
    node.stop()
    own.go()
    pid = first.get(PATIENCE)[0]
    if not other:
        own.stack.dispatcher("two")
    assert second.get(PATIENCE)[0] != pid


def test_a_failure_and_a_retry_keep_the_process_and_an_exit_ends_it(own: Own) -> None:
    first, fails, retries, exits, last = own.first_and(
        ("fails", "fails"), ("retries", "retries"), ("exits", "exits"), ("last", "")
    )
    pid = first.get(PATIENCE)[0]
    with pytest.raises(ValueError, match="fails"):
        fails.get(PATIENCE)
    with pytest.raises(ExecutorDied, match="exit code 3"):
        exits.get(PATIENCE)
    answer = retries.get(PATIENCE)
    assert answer[1].count("retries") in (1, 2)
    assert last.get(PATIENCE)[0] != pid, "the process has ended"
    assert [own.of(each).get("warm_turn") for each in (fails, exits)] == [2, 4]
    assert own.of(exits)["warm_of"] == Attempt.of(own.of(first)).holder


@pytest.mark.slow
def test_a_job_of_others_that_is_first_ends_the_reuse(own: Own) -> None:
    first = own.send("first", "waits")
    own.began("first")
    other = own.other("exclusive")
    own.in_line(other)
    tenant = own.send("tenant", tenant="red")
    shared = own.other("shared")
    own.in_line(tenant, shared)
    own.go()
    pids = [first.get(PATIENCE)[0], other.get(PATIENCE), tenant.get(PATIENCE)[0]]
    assert len({*pids, shared.get(PATIENCE)}) == 4
    assert [own.of(each).get("warm_of") for each in (other, tenant, shared)] == [None] * 3


@pytest.mark.slow
def test_a_changed_application_ends_the_reuse(own: Own) -> None:
    path = own.stack.directory / "own.py"
    first = own.send("first", "waits")
    own.began("first")
    second = own.send("second")
    own.in_line(second)
    path.write_text(APP.replace("LOADED = []", "LOADED = ['new']"))
    os.utime(path, ns=(10**18, 10**18))
    own.go()
    assert first.get(PATIENCE)[1] == ["first"]
    assert second.get(PATIENCE)[1] == ["new", "second"]


@pytest.mark.slow
def test_another_leader_leaves_the_second_job_of_a_process_alone(own: Own) -> None:
    """What runs is compared with the holders many times while it runs."""
    own.first_and(("second", "waits"))
    own.began("second")
    [node] = own.stack.workers
    node.kill("SIGKILL")
    other = own.stack.dispatcher("two")
    until(lambda: "this watcher leads" in other.logs(), PATIENCE, "it leads", own.logs)
    third = own.send("third")
    own.in_line(third)
    own.go("second")
    assert third.get(PATIENCE)[1] == ["first", "second", "third"]
    assert "runs without a slot" not in own.logs()
